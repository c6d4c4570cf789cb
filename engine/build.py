"""Make the networks of a run: the student by name, the teacher from its weights, the distiller from its YAML."""

from __future__ import annotations

import inspect
import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import models.environment  # noqa: F401  (before ultralytics)
import numpy as np
import torch
from torch import nn
from ultralytics.nn.tasks import DetectionModel, guess_model_scale
from ultralytics.utils import ROOT as HOST_ROOT

from cfg import UserError, find, nearest, read_yaml
from distill.base import METHODS, Distiller, Spec
from distill.combined import Combined
from distill.model import FrozenTeacher, spec_of
from engine.checkpoint import Transfer, load_detector, read_state, transfer
from engine.foreign import check_rows
from models.anchors import best_possible_recall, fit_anchors
from models.detector import Detector
from models.heads import HEADS

DEFAULT_METHOD = "attention"  # with a teacher and no word on the method
ENOUGH_RECALL = 0.98  # below it the anchors are refitted (YOLOv5's threshold)
STOCK_HEADS = ("Detect", "v10Detect")


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
        UserError: neither is found, or the YAML is wrong or would run or download something.
    """
    if Path(name).suffix not in ("", ".yaml", ".yml"):
        raise UserError(
            f"--cfg {name}: expected a model YAML, got '{Path(name).suffix}'; "
            f"start from weights with --cfg MODEL.yaml --weights {name}"
        )
    stock = _stock_yaml(name)
    if stock is None or Path(name).is_file():
        path = find("models", name)
        if _has_own_head(path):
            return Detector(path, nc=nc, names=names)
        stock = path
    try:
        description = read_yaml(stock) | {"scale": guess_model_scale(name), "yaml_file": Path(name).name}
        check_rows(Path(name), description)  # ultralytics runs the text of `activation`
        model = DetectionModel(description, nc=nc, verbose=False)
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"{name}: ultralytics cannot build it ({' '.join(str(error).split())}); "
            "correct the YAML"
        ) from error
    if type(model.model[-1]).__name__ not in STOCK_HEADS:
        raise UserError(
            f"{name}: expected a detector, its last row is '{type(model.model[-1]).__name__}'; "
            "use one that ends in Detect"
        )
    model.names = dict(names) if names else model.names
    model.task = "detect"
    return model


def _stock_yaml(name: str | Path) -> Path | None:
    """The file of ultralytics behind a model name such as `yolo11n.yaml`, whose scale letter the file's name lacks."""
    stem = Path(name).name.removesuffix(".yaml")
    scale = guess_model_scale(name)
    known = {p.name: p for p in (HOST_ROOT / "cfg/models").rglob("*.yaml")}
    own = {p.name for p in (Path(find("models", "s-model.yaml")).parent).rglob("*.yaml")}
    if f"{stem}.yaml" in own:
        return None
    unscaled = re.sub(rf"(?<=\d){scale}(?=-|$)", "", stem) if scale else stem  # yolov8n-p2 -> yolov8-p2
    return known.get(f"{stem}.yaml") or known.get(f"{unscaled}.yaml")


def _has_own_head(path: Path) -> bool:
    description = read_yaml(path)
    rows = description.get("head")
    if "base" in description or not isinstance(rows, list) or not rows:
        return True
    head = rows[-1][2] if isinstance(rows[-1], list) and len(rows[-1]) > 2 else None
    return not isinstance(head, str) or head in list(HEADS) or _misspelt(head)


def _misspelt(head: str) -> bool:
    """Whether a head's name is none of ultralytics' either, so that our parser's error is the one to show."""
    from ultralytics.nn import tasks

    return not hasattr(tasks, str(head))


def build_networks(
    settings: dict[str, Any], nc: int, names: dict[int, str], student: nn.Module | None = None
) -> Networks:
    """Build student, teacher and distiller of a run, with starting weights copied; refuse a pair that cannot work.

    Args:
        settings: complete training arguments (`engine.settings`).
        nc, names: classes of the data set.
        student: the student of a resumed run, as its checkpoint has it; no starting weights are copied then.

    Raises:
        UserError: wrong YAML, weights or configuration, or a pair the method cannot serve.
    """
    fresh = student is None
    student = build_detector(settings["model"], nc, names) if fresh else student.train()
    _check_student(settings, student, nc)
    notes = []
    teacher = distiller = None
    if settings["teacher"] or settings["distill"]:
        teacher = load_teacher(settings["teacher"], nc, names) if settings["teacher"] else None
        wanted = settings["distill"] or DEFAULT_METHOD
        distiller = build_distiller(wanted, student, teacher, Path(str(settings["model"])).name)
        notes += [distillation_note(wanted, settings, teacher, distiller)]
    if teacher:
        if _is_yaml(settings["teacher"]):  # no start from it: runs of different seeds would all start alike
            notes += [f"teacher {settings['teacher']}: UNTRAINED: a control, it teaches nothing"]
        elif settings["teacher_init"] and fresh:
            notes += [transfer_note("teacher", settings["teacher"], transfer(student, teacher.model.state_dict()))]
    if settings["weights"] and fresh:
        copied = transfer(student, read_state(settings["weights"]))
        if not copied.matched:
            raise UserError(
                f"{settings['weights']}: no tensor fits {settings['model']} by name and shape; "
                "leave --weights out"
            )
        notes += [transfer_note("weights", settings["weights"], copied)]
    return Networks(student, teacher, distiller, notes)


def _check_student(settings: dict[str, Any], student: nn.Module, nc: int) -> None:
    """Refuse arguments that this student cannot be trained with."""
    if student.model[-1].nc != nc:
        raise UserError(
            f"{settings['data']}: expected {student.model[-1].nc} classes as in the checkpoint, got {nc}; "
            "use its own data set"
        )
    if settings.get("cls_pw") and isinstance(student, Detector):
        raise UserError("cls_pw: the anchor heads' quality focal loss takes no class weights; leave cls_pw out")
    freeze, layers = settings.get("freeze"), len(student.model)
    frozen = range(freeze) if isinstance(freeze, int) else freeze or []
    beyond = [x for x in frozen if isinstance(x, int) and x >= layers]
    if beyond or len(set(frozen)) >= layers:
        raise UserError(
            f"freeze: expected fewer than the model's {layers} layers, got {freeze}; "
            "at least one must learn"
        )


def load_teacher(path: str | Path, nc: int, names: dict[int, str]) -> FrozenTeacher:
    """The frozen teacher of a run: weights of ours or of ultralytics, or a model YAML (untrained, for controls).

    An untrained teacher gets the run's classes, and the same random weights each time: on every process, on resume.
    """
    if not _is_yaml(path):
        return FrozenTeacher(load_detector(path)[0], f"teacher {path}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return FrozenTeacher(build_detector(path, nc, names), f"untrained teacher {path}")


def _is_yaml(path: str | Path) -> bool:
    return Path(path).suffix in (".yaml", ".yml")


def build_distiller(wanted: str, student: nn.Module, teacher: FrozenTeacher | None, label: str) -> Distiller:
    """The distiller of one YAML in `cfg/distill`, or of several as `attention+0.5*ld`, for a pair.

    Raises:
        UserError: unknown options, a pair the method cannot serve, or a teacher that no method would look at.
    """
    specs = spec_of(student, f"student {label}"), teacher.spec if teacher else None
    strengths = {wanted: 1.0} if Path(wanted).is_file() else parse_methods(wanted)
    parts = {name: _build_method(name, *specs) for name in strengths}
    if teacher and not any(part.uses_teacher for part in parts.values()):
        raise UserError(f"distill: {wanted} makes its teacher itself; leave --teacher out, or add a method with one")
    if len(parts) == 1 and set(strengths.values()) == {1.0}:
        return next(iter(parts.values()))
    return Combined(parts, strengths)


def parse_methods(wanted: str) -> dict[str, float]:
    """`attention+0.5*ld` -> {"attention": 1.0, "ld": 0.5}, in order. Raises `UserError` for anything else."""
    strengths: dict[str, float] = {}
    for part in wanted.split("+"):
        factor, _, name = part.strip().rpartition("*")
        try:
            strength = float(factor) if factor else 1.0
        except ValueError:
            strength = math.nan
        if not name or not 0 < strength < math.inf or name in strengths:
            raise UserError(f"distill: expected methods as in attention+0.5*ld, each once, got '{wanted}'; correct it")
        strengths[name] = strength
    return strengths


def _build_method(name: str, student: Spec, teacher: Spec | None) -> Distiller:
    path = find("distill", name)
    options = read_yaml(path)
    method = METHODS.get(options.pop("method", path.stem))
    known = list(inspect.signature(method.__init__).parameters)[3:]
    for option in options:
        if option not in known:
            raise UserError(
                f"{path.name}: unknown option '{option}'{nearest(option, known)} "
                f"(known: {', '.join(known)})"
            )
    try:
        return method(student, teacher, **options)
    except (TypeError, AttributeError) as error:  # a number was expected and something else came
        raise UserError(f"{path.name}: an option has a value of the wrong type ({error}); correct it") from error


def distillation_note(
    wanted: str, settings: dict[str, Any], teacher: FrozenTeacher | None, distiller: Distiller
) -> str:
    """The header line that says what is distilled from what, and how hard it may pull."""
    source = f"from {teacher.spec.label} (strides {teacher.spec.strides})" if teacher else "without a trained teacher"
    given = {name: settings[f"kd_{name}"] for name in ("share", "cap", "until", "decay")}
    usual = {"cap": None, "until": 1.0, "decay": "none"}
    balance = ", ".join(f"{name} {value}" for name, value in given.items() if value != usual.get(name, ""))
    method = f"{wanted} {source}: {distiller.describe()}"
    return f"distillation: ON, {method}; adaptive weights: {settings['adaptive']}; {balance}"


def transfer_note(kind: str, path: str, copied: Transfer) -> str:
    return f"start: {copied.matched} of {copied.total} tensors of the {kind} {path} fit the student by name and shape"


def fit_to_labels(student: nn.Module, labels: list[dict[str, Any]], imgsz: int) -> str:
    """Refit an anchor head's sizes, in place, when they cover the training boxes badly; return a line about it.

    Args:
        student: a detector whose head has `anchor_wh`; the sizes also go into its YAML.
        labels: ultralytics' labels of the training images, with `shape` (height, width) and `bboxes` (n, 4) xywh 0..1.
        imgsz: side in pixels that an image's longer side has in training.
    """
    head = student.model[-1]
    sizes = [label["bboxes"][:, 2:] * np.array(label["shape"][::-1]) * imgsz / max(label["shape"]) for label in labels]
    wh = np.concatenate(sizes) if sizes else np.zeros((0, 2))
    if not len(wh):  # a fraction of the data set without boxes
        return ""
    recall, matched = best_possible_recall(wh, head.anchor_wh.cpu())
    note = f"anchors: best possible recall {recall:.3f}, {matched:.2f} anchors per box"
    if recall < ENOUGH_RECALL:
        fitted = torch.as_tensor(fit_anchors(wh, head.nl, head.na, generations=300), dtype=torch.float32)
        after, matched = best_possible_recall(wh, fitted)
        if after > recall:
            head.anchor_wh.copy_(fitted)
            note += f"; refitted by k-means: {after:.3f}, {matched:.2f} anchors per box"
    student.yaml["anchors"] = [[round(float(v), 2) for v in level.flatten()] for level in head.anchor_wh]
    return note
