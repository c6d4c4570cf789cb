"""Make the networks of a run: the student by name, the teacher from its weights, the distiller from its configuration."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import models.environment  # noqa: F401  (before ultralytics)
from torch import nn
from ultralytics.nn.tasks import DetectionModel, guess_model_scale
from ultralytics.utils import ROOT as HOST_ROOT

from cfg import UserError, find, nearest, read_yaml
from distill.base import METHODS, Distiller
from distill.model import FrozenTeacher, spec_of
from engine.checkpoint import Transfer, load_detector, read_state, transfer
from models.detector import Detector
from models.heads import HEADS


@dataclass
class Networks:
    """What a run trains and learns from; `notes` are lines for its header."""

    student: nn.Module
    teacher: FrozenTeacher | None
    distiller: Distiller | None
    notes: list[str]


def build_detector(name: str | Path, nc: int | None = None, names: dict[int, str] | None = None) -> nn.Module:
    """Build a detector of ours (`cfg/models/` or a path) or of ultralytics (`yolo11n.yaml`) from its YAML.

    Raises:
        UserError: neither is found, or the YAML is wrong.
    """
    stock = _stock_yaml(name)
    if stock is None or Path(name).is_file():
        path = find("models", name)
        if _has_own_head(path):
            return Detector(path, nc=nc, names=names)
        stock = path
    try:
        description = read_yaml(stock) | {"scale": guess_model_scale(name), "yaml_file": Path(name).name}
        model = DetectionModel(description, nc=nc, verbose=False)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{name}: ultralytics cannot build it ({' '.join(str(error).split())}); correct the YAML") from error
    model.names = dict(names) if names else model.names
    model.task = "detect"
    return model


def _stock_yaml(name: str | Path) -> Path | None:
    """The file of ultralytics behind a model name such as `yolo11n.yaml`, whose scale letter is no part of the file's name."""
    stem = Path(name).name.removesuffix(".yaml")
    scale = guess_model_scale(name)
    known = {p.name: p for p in (HOST_ROOT / "cfg/models").rglob("*.yaml")}
    own = {p.name for p in (Path(find("models", "s-model.yaml")).parent).rglob("*.yaml")}
    if f"{stem}.yaml" in own:
        return None
    return known.get(f"{stem}.yaml") or (known.get(f"{stem.removesuffix(scale)}.yaml") if scale else None)


def _has_own_head(path: Path) -> bool:
    description = read_yaml(path)
    rows = description.get("head")
    return "base" in description or not isinstance(rows, list) or not rows or rows[-1][2] in list(HEADS) or _misspelt(rows[-1][2])


def _misspelt(head: str) -> bool:
    """Whether a head's name is none of ultralytics' either, so that our parser's error is the one to show."""
    from ultralytics.nn import tasks

    return not hasattr(tasks, str(head))


def build_networks(settings: dict[str, Any], nc: int, names: dict[int, str]) -> Networks:
    """Build student, teacher and distiller of a run, with starting weights copied; refuse a pair that cannot work.

    Args:
        settings: complete training arguments (`engine.settings`).
        nc, names: classes of the data set.

    Raises:
        UserError: wrong YAML, weights or configuration, or a pair the method cannot serve.
    """
    student = build_detector(settings["model"], nc, names)
    notes = []
    teacher = distiller = None
    if settings["teacher"]:
        teacher = load_teacher(settings["teacher"])
        distiller = build_distiller(settings["distill"], student, teacher, Path(str(settings["model"])).name)
        notes += [distillation_note(settings, teacher, distiller)]
        if settings["teacher_init"]:
            notes += [transfer_note("teacher", settings["teacher"], transfer(student, teacher.model.state_dict()))]
    if settings["weights"]:
        copied = transfer(student, read_state(settings["weights"]))
        if not copied.matched:
            raise UserError(f"{settings['weights']}: no tensor fits {settings['model']} by name and shape; leave --weights out")
        notes += [transfer_note("weights", settings["weights"], copied)]
    return Networks(student, teacher, distiller, notes)


def load_teacher(path: str | Path) -> FrozenTeacher:
    """The frozen teacher of a run: weights of ours or of ultralytics, or a model YAML (untrained, for controls)."""
    if Path(path).suffix in (".yaml", ".yml"):
        raise UserError(f"--teacher {path}: expected trained weights (.pt), got a model YAML; train it first with --cfg {path}")
    model, _ = load_detector(path)
    return FrozenTeacher(model, f"teacher {path}")


def build_distiller(name: str, student: nn.Module, teacher: FrozenTeacher | None, label: str) -> Distiller:
    """The distiller of a configuration in `cfg/distill` for a pair. Raises `UserError` for unknown options or a wrong pair."""
    path = find("distill", name)
    options = read_yaml(path)
    method = METHODS.get(options.pop("method", path.stem))
    known = list(inspect.signature(method.__init__).parameters)[3:]
    for option in options:
        if option not in known:
            raise UserError(f"{path.name}: unknown option '{option}'{nearest(option, known)} (known: {', '.join(known)})")
    return method(spec_of(student, f"student {label}"), teacher.spec if teacher else None, **options)


def distillation_note(settings: dict[str, Any], teacher: FrozenTeacher | None, distiller: Distiller) -> str:
    """The header line that says what is distilled from what."""
    source = f"from {teacher.spec.label} (strides {teacher.spec.strides})" if teacher else "without a trained teacher"
    return f"distillation: ON, {settings['distill']} {source}: {distiller.describe()}; adaptive weights: {settings['adaptive']}"


def transfer_note(kind: str, path: str, copied: Transfer) -> str:
    return f"start: {copied.matched} of {copied.total} tensors of the {kind} {path} fit the student by name and shape"


