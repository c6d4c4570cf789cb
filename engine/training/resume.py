"""Resume an interrupted run: which one, with which arguments, from which state."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import models.environment  # noqa: F401  (before ultralytics)
from cfg import UserError, find, read_yaml
from data import resolve
from engine.checkpoint import RUN, load_detector, read
from engine.settings import Settings, check, complete
from engine.settings.recipes import DEFAULT_RECIPE
from engine.training.folders import exact_folder

from ultralytics.nn.tasks import DetectionModel

RESUMABLE = ("device", "workers", "cache", "patience", "batch", "imgsz", "save_period", "val", "plots",
             "time", "save_dir", "tensorboard", "verbose")  # fmt: skip
PRECISIONS = {False: "fp32", "fp32": "fp32", "bf16": "bf16"}  # that were named, by what `amp` says; True leaves it open
AUTO = "auto"  # of `resume`: this very run, begun where there is nothing of it yet
MAY_DIFFER = (*RESUMABLE, "resume", "recipe", "data", "amp", "project", "name", "exist_ok")  # between the starts of one run


def resumed(given: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any], DetectionModel]:
    """Arguments (with what may change from the command line), content and student of the last.pt `resume` names."""
    path = Path(given["resume"]) if isinstance(given["resume"], str) else latest_run(given)
    student, content = load_detector(path)
    if content.get("format") != RUN:
        raise UserError(
            f"{path}: expected the last.pt of an interrupted run, got a finished or other checkpoint; "
            "start a new run"
        )
    found_by = ("resume", "project") if given["resume"] is True else ("resume",)
    fixed = [name for name in given if name not in (*RESUMABLE, *found_by, "data")]
    if fixed:
        raise UserError(
            f"resume: {', '.join(fixed)} cannot change in a resumed run; "
            "leave out, or start a new run with --weights"
        )
    folder = path.resolve().parent.parent
    if given.get("save_dir") and Path(given["save_dir"]).resolve() != folder:
        raise UserError(f"save_dir: a resumed run goes on in its own folder {folder}, got {given['save_dir']}; leave it out")
    data = folder / "data.yaml"  # the run's own copy, also after the folder was moved
    settings = content["meta"]["train_args"] | ({"data": str(data)} if data.is_file() else {})
    settings |= {k: v for k, v in given.items() if k not in found_by}
    settings |= {"resume": str(path.resolve()), "save_dir": str(folder), "exist_ok": True}
    check(settings)
    if content["run"]["epoch"] + 1 < settings["epochs"] and {"patience", "time"} & set(given):
        content["run"]["finished"] = False  # it stopped early by a limit that now is another
    return settings, content, student


def begun_or_new(given: dict[str, Any]) -> dict[str, Any] | Path:
    """What `--resume auto` means: arguments that go on with the run in its folder, or begin it there; the folder
    where the run is finished.

    A scheduler, and torchrun after it has lost a machine, start the same command again.

    Raises:
        UserError: the folder's run was started with other arguments.
    """
    asked = {name: value for name, value in given.items() if name != "resume"}
    settings = complete(asked)
    folder = exact_folder(Settings.of(settings).run)
    last = folder / "weights/last.pt"
    if not last.exists():
        return asked | {"save_dir": str(folder), "exist_ok": True}
    content = read(last)
    had = (content.get("meta") or {}).get("train_args") or {}
    other = _differing(asked, settings, had, folder)
    if other:
        told = "; ".join(f"{name}: {had.get(name)} there, {settings.get(name)} now" for name in other[:4])
        raise UserError(f"--resume auto: expected the run in {folder} to have these arguments, got others ({told}); use the same, or give "
                        "another --name")  # fmt: skip
    if content.get("format") != RUN:
        print(f"{folder}: this run is finished", flush=True)
        return folder
    return {name: asked[name] for name in asked if name in RESUMABLE and name != "save_dir"} | {"resume": str(last)}


def _differing(asked: dict[str, Any], settings: dict[str, Any], had: dict[str, Any], folder: Path) -> list[str]:
    """Arguments, of the command line and its recipe, that are not those the run in `folder` was started with.

    Args:
        asked: of the command line.
        settings: the same, completed.
        had: the run's own, as its checkpoint has them: the host may have changed some since.
    """
    names = dict.fromkeys([*asked, *read_yaml(find("train", asked.get("recipe") or DEFAULT_RECIPE))])
    names |= {"weights": None} if "pretrained" in names else {}
    unlike = [name for name in names if name in settings and name not in MAY_DIFFER and _usual(name, had) != _usual(name, settings)]
    if "epochs" in unlike and settings.get("time"):  # the host sets them by the time that is left
        unlike.remove("epochs")
    precision = PRECISIONS.get(settings.get("amp", True))
    if precision and precision != PRECISIONS.get(had.get("amp"), had.get("amp")):
        unlike.append("amp")
    kept = folder / "data.yaml"  # with `tile`, of the tiles
    if kept.is_file() and settings.get("data") and not settings.get("tile") and read_yaml(kept) != resolve(settings["data"]):
        unlike.append("data")
    return unlike


def _usual(name: str, settings: dict[str, Any]) -> Any:
    """An argument's value, as far as it makes a difference."""
    value = settings.get(name)
    return value is not False if name == "channels_last" else value


def latest_run(given: dict[str, Any]) -> Path:
    """The newest last.pt below runs/train of a run that was interrupted; of one that is finished where none was."""
    folder = Path(given.get("project") or "runs/train")
    found = sorted(folder.glob("*/weights/last.pt"), key=lambda p: p.stat().st_mtime, reverse=True)
    if not found:
        raise UserError(f"--resume: no last.pt below {folder}; give its path: --resume runs/train/exp/weights/last.pt")
    return next((path for path in found if _interrupted(path)), found[0])


def _interrupted(last: Path) -> bool:
    try:
        content = read(last)
    except UserError:
        return False
    return isinstance(content, dict) and content.get("format") == RUN
