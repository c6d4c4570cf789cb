"""Start a run: check everything that can be checked, build the networks, train in one process or several."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cfg import UserError
from data import resolve, validate
from data.unlabelled import find_unlabelled
from engine.checkpoint import install
from engine.precision import training_precision
from engine.settings import complete
from engine.tiling.training import check_tiling, cut_data
from engine.training.build import build_networks
from engine.training.folders import discard, run_folder, told
from engine.training.label_free import LabelFreeTrainer
from engine.training.processes import (
    check_devices,
    devices_of,
    finish_processes,
    join_processes,
    needs_processes,
    runs_on_cpu,
    start_processes,
)  # fmt: skip
from engine.training.resume import resumed
from engine.training.trainer import Trainer

from ultralytics.utils import DEFAULT_CFG_DICT, RANK
from ultralytics.utils.torch_utils import init_seeds


def train(given: dict[str, Any], command: list[str] | None = None) -> Path | None:
    """Train as the arguments say; return the run folder, or None where another process does so. Images that were left out
    are named there, in `engine.dataset.LEFT_OUT`.

    Args:
        given: arguments by name, as on the command line (`engine.settings`).
        command: the command line behind them, needed to start one process per GPU.

    Raises:
        UserError: anything wrong with arguments, data, model, teacher or checkpoint, before a run folder is made; or a
            loss that is not finite, or a full disk, which leave what the run had written.
    """
    install()
    checkpoint = student = None
    if given.get("resume"):
        settings, checkpoint, student = resumed(given)
    else:
        settings = complete(given)
    check_devices(settings)
    check_tiling(settings)
    cut = bool(settings.get("tile")) and checkpoint is None
    if needs_processes(settings):
        command = command or [f"--{name}={value}" for name, value in given.items()]
        if cut:
            settings["save_dir"] = str(run_folder(settings))
            command = [*command, f"--data={cut_data(settings, Path(settings['save_dir']))}", "--tile=None", "--overlap=None"]
        return start_processes(settings, command)
    on_cpu = runs_on_cpu(settings) and "mps" not in devices_of(settings)
    settings["amp"] = training_precision(settings.get("amp", DEFAULT_CFG_DICT["amp"]), on_cpu)
    names = check_data(settings)
    join_processes(settings)
    init_seeds(settings.get("seed") or 0)
    networks = build_networks(settings, len(names), names, student)
    check_tiling(settings, int(max(networks.student.stride)))
    folder = run_folder(settings)
    existed = folder.exists()
    try:
        if cut:
            settings["data"] = str(cut_data(settings, folder))
        trainer = make_trainer(settings | {"save_dir": str(folder)}, networks, checkpoint)
        trainer.train()
    except OSError as error:
        discard(folder, existed)
        raise UserError(told(error, folder)) from error
    except UserError:
        discard(folder, existed)
        raise
    finish_processes(trainer)
    return Path(trainer.save_dir) if RANK in {-1, 0} else None


def make_trainer(settings: dict[str, Any], networks: Any, checkpoint: dict[str, Any] | None) -> Trainer:
    """The trainer, with what ultralytics says of the data set as `UserError`."""
    try:
        trainer = LabelFreeTrainer if settings.get("unlabelled") else Trainer
        return trainer(settings, networks, checkpoint)
    except RuntimeError as error:
        if "Dataset" not in str(error):
            raise
        raise UserError(" ".join(str(error).split())) from error


def check_data(settings: dict[str, Any]) -> dict[int, str]:
    """Class names of the run's data set, after a look at all its labels."""
    if settings.get("unlabelled"):
        return check_unlabelled(settings)
    summary = validate(settings["data"])
    content = resolve(settings["data"], require=("train", settings.get("split") or "val"))
    if content.get("channels", 3) != 3:
        raise UserError(
            f"{settings['data']}: expected images of 3 channels, got channels: {content['channels']}; "
            "leave it out"
        )
    return {0: "item"} if settings.get("single_cls") else summary.names


def check_unlabelled(settings: dict[str, Any]) -> dict[int, str]:
    """Class names of a student that learns from pictures alone, after a look for these: those of `data` where it is given.

    Its head is not trained, and a start from it leaves the head out: one class stands for all where none are known.
    """
    if not settings.get("resume"):  # a resumed run has lists of its own
        find_unlabelled(settings["unlabelled"])
    return resolve(settings["data"], require=())["names"] if settings.get("data") else {0: "item"}
