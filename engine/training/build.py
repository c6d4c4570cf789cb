"""Make the networks of a run: the student by name, the teacher from its weights, the distiller from its YAML."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from cfg import UserError
from distill.base import Distiller
from distill.build import build_distiller
from distill.networks import FrozenTeacher
from engine.detectors import build_detector
from engine.settings import SHIPPED, Distillation, Network, Settings
from engine.start.race import Rival
from engine.start.shipped import shipped_for
from engine.start.start import start_of
from engine.training.classes import check_resumed
from engine.training.teachers import load_teacher
from models.anchors import best_possible_recall, fit_anchors
from models.detector import Detector

if TYPE_CHECKING:
    from ultralytics.nn.tasks import DetectionModel

DEFAULT_METHOD = "auto"  # with a teacher and no word on the method
MANY_SMALL = 0.1  # share of boxes smaller than a cell from which on a run says so
ENOUGH_RECALL = 0.98  # below it the anchors are refitted (YOLOv5's threshold)


@dataclass
class Networks:
    """What a run trains and learns from; `notes` are lines for its header, `table` what each block started from, `rival` another start."""

    student: DetectionModel
    teacher: FrozenTeacher | None
    distiller: Distiller | None
    notes: list[str]
    table: list[str] = field(default_factory=list)
    rival: Rival | None = None


def build_networks(
    settings: Settings, nc: int, names: dict[int, str], student: DetectionModel | None = None
) -> Networks:
    """Build student, teacher and distiller of a run, with starting weights copied; refuse a pair that cannot work.

    Args:
        settings: of the run.
        nc, names: classes of the data set.
        student: the student of a resumed run, as its checkpoint has it; no starting weights are copied then.

    Raises:
        UserError: wrong YAML, weights or configuration, or a pair the method cannot serve.
    """
    fresh = student is None
    network, distillation, data = settings.network, settings.distillation, settings.data
    student = build_detector(network.model, nc, names) if student is None else student.train()
    notes = [] if fresh else check_resumed(student, str(settings.run.resume or "the checkpoint"), str(data.data), names)
    _check_student(network, student)
    teacher = distiller = None
    if distillation.teacher or distillation.distill:
        teacher = load_teacher(distillation.teacher, nc, names, network.map_classes) if distillation.teacher else None
        wanted, label_free = distillation.distill or DEFAULT_METHOD, bool(data.unlabelled)
        distiller = build_distiller(wanted, student, teacher, Path(network.model).name, label_free)
        notes += [distillation_note(wanted, distillation, teacher, distiller, label_free), *thaw(distiller, student, network.weights)]
    else:
        notes += unused_note(distillation)
    if teacher:
        notes += [*teacher.notes, *size_note(data.imgsz, student, teacher)]
        if not teacher.trained:
            notes += [f"teacher {distillation.teacher}: UNTRAINED: a control, it teaches nothing"]
    starts = start_of(student, teacher, network, names) if fresh else []
    notes += [line for start in starts for line in start.lines]
    rivals = [start.rival for start in starts if start.rival and not data.unlabelled]  # without labels, nothing tells which is better
    return Networks(student, teacher, distiller, notes, [line for start in starts for line in start.table], *rivals)


def _check_student(network: Network, student: DetectionModel) -> None:
    """Refuse arguments that this student cannot be trained with."""
    if network.cls_pw and isinstance(student, Detector):
        raise UserError("cls_pw: the anchor heads' quality focal loss takes no class weights; leave cls_pw out")
    freeze, layers = network.freeze, len(student.model)
    frozen = range(freeze) if isinstance(freeze, int) else freeze or []
    beyond = [x for x in frozen if isinstance(x, int) and x >= layers]
    if beyond or len(set(frozen)) >= layers:
        raise UserError(
            f"freeze: expected fewer than the model's {layers} layers, got {freeze}; "
            "at least one must learn"
        )


def distillation_note(
    wanted: str, distillation: Distillation, teacher: FrozenTeacher | None, distiller: Distiller, label_free: bool = False
) -> str:
    """The header line that says what is distilled from what, and how strongly."""
    source = f"from {teacher.spec.label} (strides {teacher.spec.strides})" if teacher else "without a trained teacher"
    usual = Distillation().balance
    changed = [f"{name} {value}" for name, value in distillation.balance.items() if name not in ("share", "every") and value != usual[name]]
    balance = ", ".join([f"gradient ratio {distillation.balance['share']}", *changed])
    method = f"{wanted} {source}: {distiller.describe()}"
    if label_free:
        return f"distillation: ON, {method}; each loss times its gain (no detection loss: kd_* and adaptive have no effect)"
    return f"distillation: ON, {method}; {balance}; adaptive weights: {distillation.adaptive}"


def unused_note(distillation: Distillation) -> list[str]:
    """A header line where a run that distils nothing was told how to distil."""
    usual = Distillation()
    given = [f.name for f in fields(distillation) if getattr(distillation, f.name) != getattr(usual, f.name)]
    return [f"{', '.join(given)}: no effect without --teacher or --distill"] if given else []


def thaw(distiller: Distiller, student: DetectionModel, weights: str | None) -> list[str]:
    """Let a backbone of random weights learn from the first step, whatever the method says; a header line where that changes it."""
    started = shipped_for(student) is not None if weights == SHIPPED else bool(weights)
    if started or not distiller.freeze_until:
        return []
    frozen, distiller.freeze_until = distiller.freeze_until, 0.0
    return [f"backbone: learns from the first step; freeze_until {frozen:.3g} is for students that start from --weights"]


def size_note(imgsz: int, student: DetectionModel, teacher: FrozenTeacher) -> list[str]:
    """A header line where the run's images do not fit the teacher's strides: it does not see them as it was trained."""
    step = max(32, int(student.stride.max()))
    side = math.ceil(imgsz / step) * step  # as ultralytics rounds it for the student
    if side % teacher.multiple == 0:
        return []
    wider = math.ceil(side / teacher.multiple) * teacher.multiple
    return [
        f"the teacher sees images of {side} px as {wider} px, their last rows and columns repeated, for its stride of "
        f"{teacher.multiple}; --imgsz {wider} shows it images as they are"
    ]


def box_sizes(labels: list[dict[str, Any]], imgsz: int) -> np.ndarray:
    """Width and height (n, 2) in pixels of all boxes of ultralytics' labels, in images whose longer side is `imgsz`."""
    sizes = [label["bboxes"][:, 2:] * np.array(label["shape"][::-1]) * imgsz / max(label["shape"]) for label in labels]
    return np.concatenate(sizes) if sizes else np.zeros((0, 2))


def small_boxes_note(labels: list[dict[str, Any]], imgsz: int, stride: int) -> str:
    """A header line where many boxes are smaller than a cell of the finest level: repeated images, pasting or epochs do not help against that.

    Args:
        labels: ultralytics' labels of the training images, as of `fit_to_labels`.
        imgsz: side in pixels that an image's longer side has in training.
        stride: pixels per cell of the finest level.
    """
    sides = np.sqrt(box_sizes(labels, imgsz).prod(1))
    small = (sides < stride).mean() if len(sides) else 0.0
    if small <= MANY_SMALL:
        return ""
    enough = math.ceil(imgsz * stride / np.quantile(sides, MANY_SMALL) / 32) * 32
    return (
        f"boxes: {small:.0%} are smaller than {stride} px, a cell of the finest level, at --imgsz {imgsz} (median {np.median(sides):.1f} px); "
        f"at --imgsz {enough} only {MANY_SMALL:.0%}"
    )


def fit_to_labels(student: DetectionModel, labels: list[dict[str, Any]], imgsz: int) -> str:
    """Refit an anchor head's sizes, in place, when they cover the training boxes badly; return a line about it.

    Args:
        student: a detector whose head has `anchor_wh`; the sizes also go into its YAML.
        labels: ultralytics' labels of the training images, with `shape` (height, width) and `bboxes` (n, 4) xywh 0..1.
        imgsz: side in pixels that an image's longer side has in training.
    """
    head = student.model[-1]
    wh = box_sizes(labels, imgsz)
    if not len(wh):  # a fraction of the data set without boxes
        return ""
    ratio = student.init_criterion().terms.anchor_ratio
    recall, matched = best_possible_recall(wh, head.anchor_wh.cpu(), ratio)
    note = f"anchors: best possible recall {recall:.3f}, {matched:.2f} anchors per box"
    if recall < ENOUGH_RECALL:
        fitted = torch.as_tensor(fit_anchors(wh, head.pixels_per_cell, head.na, generations=300, ratio=ratio), dtype=torch.float32)
        after, matched = best_possible_recall(wh, fitted, ratio)
        if after > recall:
            head.anchor_wh.copy_(fitted)
            note += f"; refitted by k-means: {after:.3f}, {matched:.2f} anchors per box"
    student.yaml["anchors"] = [[round(float(v), 2) for v in level.flatten()] for level in head.anchor_wh]
    return note
