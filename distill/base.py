"""The interface between networks and distillation methods: `Spec`, `View`, `Step`, `Distiller`.

A method never sees a model, only views of it by pyramid level (`p2` = stride 4 ... `p7` = stride 128), so that it works for
any teacher and any student whose strides can be paired.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from torch import Tensor, nn

from cfg import UserError
from cfg.class_names import REORDERED, compare
from models.blocks.attention import DualAttention
from models.registry import Registry

NO_HEAD = "this run has no labels, so the student's head is not run; use a method that reads features alone (cwd, mgd, pkd)"
METHODS: Registry[type[Distiller]] = Registry("distillation method", "distill.methods")


@dataclass(frozen=True)
class Level:
    """One pyramid level a head reads: C channels, image pixels per cell."""

    channels: int
    stride: int


@dataclass(frozen=True)
class Spec:
    """What is known of a network before any tensor: levels by name, classes, box distribution bins, attention."""

    label: str  # for messages: "teacher t-model.yaml"
    levels: Mapping[str, Level]
    nc: int
    names: Mapping[int, str]
    bins: int | None = None  # bins of a discrete box distribution per side, None when boxes are plain numbers
    anchors: int | None = None  # anchors per cell of an anchor head, 0: one prediction per cell, None: no cells
    headless: str = ""  # why a network that shows features only (RT-DETR, torchvision's) has no predictions to compare

    @property
    def strides(self) -> list[int]:
        """Strides of all levels, in the head's order."""
        return [level.stride for level in self.levels.values()]


@dataclass
class View:
    """What one network shows on one batch."""

    spec: Spec
    feats: dict[str, Tensor]  # level -> (B, C, H, W), what the head reads
    raw: dict[str, Any]  # the head's raw output
    attention: Mapping[str, DualAttention] = field(default_factory=dict)  # level -> the network's own dual attention
    unattended: dict[str, Tensor] = field(default_factory=dict)  # level -> (B, C, H, W), what that attention was given
    output: Any = None  # all that the network returned; an end-to-end head has a second branch beside `raw`

    def box_bins(self) -> Tensor:
        """Logits of the box distributions, (B, 4 * bins, A). Raises `UserError` when the head predicts plain numbers."""
        if self.spec.bins is None:
            raise UserError(f"{self.spec.label}: its head has no box distributions; use a method that compares features")
        bins: Tensor = self.raw["boxes"]
        return bins


@dataclass
class Step:
    """All that a method may look at in one training step; costly parts are computed on first use."""

    batch: Mapping[str, Any]  # ultralytics' batch: img (B, 3, H, W), batch_idx (N,), cls (N, 1), bboxes (N, 4) xywh 0..1
    student: View
    progress: float  # 0 at the start of training, 1 at its end
    detection: Mapping[str, Tensor] = field(default_factory=dict)  # the student's detection loss by term, mean over images
    see_teacher: Callable[[], View] | None = None
    assign: Callable[[], Any] | None = None
    run_head: Callable[[list[Tensor], bool], View] | None = None
    score: Callable[[View], dict[str, Tensor]] | None = None

    @cached_property
    def teacher(self) -> View:
        """The frozen teacher's view of the batch."""
        if self.see_teacher is None:
            raise UserError("this distillation method needs a teacher; give one with --teacher t.pt")
        return self.see_teacher()

    @cached_property
    def assignment(self) -> Any:
        """Which predictions answer for which ground truth, as the student's detection loss has it."""
        if self.assign is None:
            raise UserError("this student's detection loss does not share its assignment; use a feature method")
        return self.assign()

    def head(self, feats: list[Tensor], learns: bool = True) -> View:
        """The student's own head on other features: batch statistics untouched, the given list left as it was.

        `learns`: whether losses on this view train the head too, not only what made the features.
        """
        if self.run_head is None:
            raise UserError(NO_HEAD)
        return self.run_head(list(feats), learns)

    def task_loss(self, view: View) -> dict[str, Tensor]:
        """The detection loss of any view on the batch's labels."""
        if self.score is None:
            raise UserError(NO_HEAD)
        return self.score(view)

    @property
    def size(self) -> int:
        """B, the number of images."""
        return len(self.batch["img"])


@dataclass(frozen=True)
class Term:
    """One loss of a method, and what becomes of it."""

    name: str  # as `losses` gives it
    weight: str  # the adaptive weight it has, alone or with others: these are a group, with one gain
    own: bool = False  # trains the method itself (a dynamic teacher) and not the student's features
    portion: float | None = None  # of the group in its method's gradient ratio; None: an equal one
    strength: float = 1.0  # factor on the group's gradient ratio


def portions_of(terms: Sequence[Term]) -> dict[str, float]:
    """Weight -> its group's part of the gradient ratio, for the terms that act on the student."""
    acting = {term.weight: term.portion for term in terms if not term.own}
    return {weight: 1 / len(acting) if portion is None else portion for weight, portion in acting.items()}


class Distiller(nn.Module):
    """Base of all methods: `losses(step)` gives named 0-d terms, means over images, finite without boxes.

    Args:
        student, teacher: what is distilled into what; the constructor refuses pairs it cannot serve.

    Attributes:
        uses_teacher: whether a trained teacher must be given.
        reads_head: whether it reads the teacher's predictions; else the teacher's head is not run at all.
        label_free: whether images are enough: it reads no labels, and of the student only the features.
        terms: all that `losses` gives, in order.
        freeze_until: fraction of training up to which no parameter of the student's backbone moves.
    """

    uses_teacher: bool = True
    reads_head: bool = False
    label_free: bool = False
    terms: tuple[Term, ...] = ()
    freeze_until: float = 0.0

    def __init__(self, student: Spec, teacher: Spec | None) -> None:
        super().__init__()
        if self.uses_teacher and teacher is None:
            raise UserError(f"{type(self).__name__} needs a teacher; give one with --teacher t.pt")
        if teacher is not None:
            check_classes(student, teacher)
            self._check_head(teacher)
        self.pairs = pair_levels(student, teacher) if teacher is not None else list(student.levels)

    def _check_head(self, teacher: Spec) -> None:
        """Raise `UserError` when this method reads predictions that the teacher has none of; names methods that do not."""
        if not (self.reads_head and teacher.headless):
            return
        own = next((name for name in METHODS if METHODS.get(name) is type(self)), type(self).__name__)
        works = [name for name in METHODS if METHODS.get(name).uses_teacher and not METHODS.get(name).reads_head]
        raise UserError(
            f"{own} compares predictions and {teacher.label} shows features only: {teacher.headless}; "
            f"use a method that compares features ({', '.join(works)})"
        )

    def prepare(self, height: int, width: int) -> None:
        """Called once, before anything is optimised or loaded, with the height and width in pixels of the training images."""

    def losses(self, step: Step) -> dict[str, Tensor]:
        """Named losses of one step: the names of `terms`, on every step."""
        raise NotImplementedError

    def trust(self) -> dict[str, float]:
        """By weight, the part of its gradient ratio that a group has in this step, above 0 and at most 1; 1 where left out."""
        return {}

    def describe(self) -> str:
        """One line for the run's header: levels and adapter parameters."""
        parameters = sum(p.numel() for p in self.parameters() if p.requires_grad)
        return f"levels {', '.join(self.pairs)}; {parameters:,} adapter parameters"


def level_names(strides: list[int]) -> list[str]:
    """`p3` for stride 8 and so on; a second level of the same stride is `p3b`, a third `p3c`."""
    names: list[str] = []
    for stride in strides:
        name = f"p{round(math.log2(stride))}"
        repeated = sum(n.rstrip("bcdef") == name for n in names)
        names.append(name + ("bcdef"[repeated - 1] if repeated else ""))
    return names


def check_classes(student: Spec, teacher: Spec) -> None:
    """Raise `UserError` when the two have different numbers of classes or different class names."""
    if student.nc != teacher.nc:
        raise UserError(
            f"{teacher.label} knows {teacher.nc} classes, {student.label} {student.nc}: "
            "expected the same; train the teacher on the student's data"
        )
    found = compare(teacher.names, student.names)
    if not found.agrees:
        reordered = found.relation == REORDERED
        raise UserError(
            f"{teacher.label}: expected the classes of {student.label} in the same order, "
            f"got {'another order' if reordered else 'others'} ({found.difference}); "
            + ("use --map-classes to pair them by name" if reordered else "train the teacher on the student's data")
        )


def pair_levels(student: Spec, teacher: Spec) -> list[str]:
    """Names of the levels both have, paired by stride. Raises `UserError` with both lists of strides when there is none."""
    pairs = [name for name in student.levels if name in teacher.levels]
    if not pairs:
        raise UserError(
            f"no common stride: {student.label} has strides {student.strides}, {teacher.label} {teacher.strides}; "
            "choose a teacher or a student with levels of the same stride"
        )
    return pairs


def float32(view: View) -> dict[str, Tensor]:
    """A view's features in float32, where losses are computed whatever the forward pass ran in."""
    return {name: x.float() for name, x in view.feats.items()}
