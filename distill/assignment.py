"""A student's detection loss, and which points answered in it for which ground truth: computed once, shared."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from models.detector import DetectionModel
from models.points import PointAssignment


def detection_loss(
    student: DetectionModel, batch: Mapping[str, Any], preds: Any
) -> tuple[Tensor, dict[str, Tensor], Callable[[], Any] | None]:
    """What `student.loss(batch, preds)` gives, and how to get its assignment; None for losses that keep it to themselves.

    End-to-end heads have two losses; the assignment is that of the one that gives a box several points (one2many).

    Args:
        batch: `batch_idx` (N,), in rising order as ultralytics' loss expects it.
    """
    if getattr(student, "criterion", None) is None:
        student.criterion = student.init_criterion()  # ultralytics makes it in the first call of `loss`
    if hasattr(student.criterion, "with_assignment"):  # a loss of ours
        vector, items, assignment = student.criterion.with_assignment(preds, batch)
        return vector, items, None if assignment is None else lambda: assignment
    with _watched(getattr(student.criterion, "one2many", student.criterion)) as returned:
        vector, items = student.loss(batch, preds)
    return vector, items, (lambda: of_task_aligned(returned[-1], batch["batch_idx"])) if returned else None


@contextmanager
def _watched(criterion: Any) -> Iterator[list[tuple[Tensor, ...]]]:
    """Within this context, what the assigner of an ultralytics loss returns is noted; nothing for losses without one."""
    returned: list[tuple[Tensor, ...]] = []
    assigner = getattr(criterion, "assigner", None)
    if assigner is None:
        yield returned
        return
    hook = assigner.register_forward_hook(lambda module, given, found: returned.append(found))
    try:
        yield returned
    finally:
        hook.remove()


def of_task_aligned(returned: tuple[Tensor, ...], batch_idx: Tensor) -> PointAssignment:
    """Ultralytics' (labels, boxes_xyxy, scores, is positive, index of the box within its image) as a `PointAssignment`."""
    _, boxes_xyxy, _, positive, index = returned
    counts = torch.bincount(batch_idx.reshape(-1).long().to(index.device), minlength=len(index))
    first = counts.cumsum(0) - counts
    target = torch.where(positive, index.long() + first[:, None], -1)
    return PointAssignment(target, boxes_xyxy)
