"""Distillation without labels: the student learns its teacher's features from images alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from distill.base import Distiller, Step
from distill.model import TrainingModel, check_finite
from distill.networks import FrozenTeacher, view_of
from models.detector import DetectionModel
from models.foreign.base import tap


class Imitation(TrainingModel):
    """A student in training whose only loss is the distiller's: there are no labels, and so no detection loss.

    Shares and adaptive weights compare with the detection loss and are of no use here: each term counts by its gain and its
    method's strength. The student's head is not run; its parameters and statistics stay as they are.

    Args:
        student: the detector; all before its head is trained.
        distiller: a method that is `label_free`.
        teacher: the frozen teacher.
    """

    def __init__(self, student: DetectionModel, distiller: Distiller, teacher: FrozenTeacher) -> None:
        super().__init__(student, distiller, teacher, "none", {"share": None})
        self.weights = None

    def forward(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        """Loss of a batch (dict), or `{"feats": [(B, C, H, W), ...]}`, what the head would read, for images (B, 3, H, W)."""
        if isinstance(x, dict):
            return self.loss(x)
        with headless(self.student):
            return self._run(lambda: self.student(self._laid_out(x)))

    def loss(self, batch: dict[str, Any], preds: Any = None) -> tuple[Tensor, dict[str, Tensor]]:
        """(total loss times images, {name: detached term}); of the batch, only `img` (B, 3, H, W) is looked at.

        Raises:
            NonFiniteLoss: a term is NaN or infinite.
        """
        images = self._laid_out(batch["img"])
        assert self.distiller is not None and self.balance is not None
        preds = self(images) if preds is None else preds
        student = view_of(self.student, self.spec, preds)
        step = Step({"img": images}, student, self.progress, see_teacher=self._teacher_on(images))
        with torch.autocast(images.device.type, enabled=False):
            terms = self.balance.plain(self.distiller.losses(step))
        check_finite(terms)
        return sum(terms.values(), images.new_zeros(())) * len(images), {name: term.detach() for name, term in terms.items()}


@contextmanager
def headless(detector: DetectionModel) -> Iterator[None]:
    """Within this context, a detector returns the features its head would read, instead of predictions."""
    head = detector.model[-1]
    tap(detector.model)
    try:
        yield
    finally:
        detector.model[-1] = head
