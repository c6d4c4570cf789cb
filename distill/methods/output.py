"""Response-based distillation: the teacher's class and objectness predictions as soft labels.

The comparison of Zhang et al. 2022, section 4.3.5, "output layer knowledge distillation", which gives no formula. This
is objectness-scaled distillation (Mehta & Ozturk 2018, "Object detection at 200 frames per second") with the focusing
factor of quality focal loss (Li et al. 2020).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from cfg import UserError
from distill.base import METHODS, Distiller, Spec, Step, Term
from distill.options import not_negative, positive
from distill.outputs import binary_kl, cell_logits, check_cells, on_grid


class Sums(NamedTuple):
    """Sums over the predictions of a level, for each image: (B,)."""

    objects: Tensor  # how many objects the teacher sees: sum of its objectness, or of its highest class scores
    objectness: Tensor  # 0 for heads without objectness
    classes: Tensor


def focused_kl(teacher: Tensor, student: Tensor, temperature: float, beta: float) -> Tensor:
    """Elementwise `T^2 |p_T - p_S|^beta KL(p_T || p_S)` of coins from logits, p the sigmoid of logit / T."""
    teacher, student = teacher / temperature, student / temperature
    divergence = temperature**2 * binary_kl(teacher, student)
    return divergence * (teacher.sigmoid() - student.sigmoid()).abs().pow(beta) if beta else divergence


@METHODS.register("output")
class OutputDistiller(Distiller):
    """Teach the student the teacher's predictions at the same cell (and the anchor of the same number).

    Per image, over all paired levels, divided by the number of objects the teacher sees, the sum of its objectness (at
    least 1, so that an image in which it sees none has a small gradient):

    * heads with objectness: `|p_T - p_S|^beta KL` of objectness at every prediction: background, easy for both, has a
      factor near 0. KL of the classes weighted by the teacher's objectness: background has no class.
    * heads without (one joint score per class): `|p_T - p_S|^beta KL` of every score; an object counts by its highest.

    KL is cross-entropy less the teacher's entropy: 0 for equal predictions. With one class too: the score that ranks detections is
    objectness times class score. Boxes are not compared: the anchors of teacher and student may have different sizes, so that only
    what a prediction says of its cell has the same meaning (`ld` compares distributions).

    Args:
        temperature: softens both sides' logits.
        beta: exponent of the focusing factor (2: quality focal loss); 0 switches it off.
        gain: base gain of both losses.
    """

    reads_head = True

    def __init__(
        self, student: Spec, teacher: Spec, temperature: float = 1.0, beta: float = 2.0, gain: float = 1.0
    ) -> None:
        super().__init__(student, teacher)
        self.temperature = positive("output", "temperature", temperature, 1)
        self.beta, self.gain = not_negative("output", "beta", beta), not_negative("output", "gain", gain)
        if 0 < beta < 1:
            raise UserError(f"output: expected beta to be 0 or at least 1, got {beta!r}; quality focal loss has 2")
        _check_pair(student, teacher)
        self.with_objectness = bool(student.anchors)
        terms = ("output_obj_loss", "output_cls_loss") if self.with_objectness else ("output_cls_loss",)
        self.terms = tuple(Term(name, "output") for name in terms)

    def losses(self, step: Step) -> dict[str, Tensor]:
        """`output_cls_loss`, and `output_obj_loss` for anchor heads, gain included."""
        levels = [self._level(n, step) for n in self.pairs]
        objects, objectness, classes = (sum(parts) for parts in zip(*levels))
        count = objects.clamp(min=1)
        losses = {"output_obj_loss": objectness, "output_cls_loss": classes}
        return {name: self.gain * (losses[name] / count).mean() for name in (term.name for term in self.terms)}

    def _level(self, name: str, step: Step) -> Sums:
        student = cell_logits(step.student, name)
        teacher = on_grid(cell_logits(step.teacher, name), (student.shape[3], student.shape[4]))
        if not self.with_objectness:
            joint = focused_kl(teacher, student, self.temperature, self.beta)
            objects = teacher.sigmoid().amax(2).sum((1, 2, 3))
            return Sums(objects, torch.zeros_like(objects), joint.sum((1, 2, 3, 4)))
        seen = teacher[:, :, 4].sigmoid()
        objectness = focused_kl(teacher[:, :, 4], student[:, :, 4], self.temperature, self.beta)
        classes = focused_kl(teacher[:, :, 5:], student[:, :, 5:], self.temperature, 0.0).mean(2)
        return Sums(seen.sum((1, 2, 3)), objectness.sum((1, 2, 3)), (seen * classes).sum((1, 2, 3)))

    def describe(self) -> str:
        kind = "objectness and classes" if self.with_objectness else "class scores"
        return f"predictions ({kind}); {super().describe()}"


def _check_pair(student: Spec, teacher: Spec) -> None:
    """Raise `UserError` for heads whose predictions do not stand for the same things."""
    for spec in (student, teacher):
        check_cells("output", spec)
    if student.anchors != teacher.anchors:
        raise UserError(
            f"output: expected heads with the same predictions per cell, {student.label} has {_kind(student)}, "
            f"{teacher.label} {_kind(teacher)}; use a feature method (cwd, mgd, fgd, pkd, attention)"
        )


def _kind(spec: Spec) -> str:
    return f"{spec.anchors} anchors" if spec.anchors else "one without anchors"
