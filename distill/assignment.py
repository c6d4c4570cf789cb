"""Which points answer for which ground truth, as a student's own detection loss decided it: computed once, shared."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from models.points import PointAssignment


class AssignerTap:
    """Forward hook that keeps what ultralytics' task-aligned assigner returned last."""

    def __init__(self) -> None:
        self.kept: tuple[Tensor, ...] | None = None

    def __call__(self, module: nn.Module, given: Any, returned: tuple[Tensor, ...]) -> None:
        self.kept = returned

    def take(self) -> tuple[Tensor, ...] | None:
        """What was kept, once."""
        kept, self.kept = self.kept, None
        return kept


def watch(student: nn.Module) -> None:
    """Have the student's loss keep its assignment from now on. Call it before the loss; a second call changes nothing.

    End-to-end heads have two losses; the assignment is that of the one that gives a box several points (one2many).
    """
    if getattr(student, "criterion", None) is None:
        student.criterion = student.init_criterion()  # ultralytics makes it in the first call of `loss`
    assigner = _assigner(student.criterion)
    if assigner is not None and _tap(assigner) is None:
        assigner.register_forward_hook(AssignerTap())


def taken(student: nn.Module, batch: Mapping[str, Any]) -> Callable[[], Any] | None:
    """How to get the assignment of the loss just computed; None for losses that keep it to themselves.

    Call it right after the student's loss: a later loss on other predictions does not change what the result returns.

    Args:
        batch: `batch_idx` (N,), in rising order as ultralytics' loss wants it.
    """
    criterion = student.criterion
    terms = getattr(criterion, "terms", None)
    if hasattr(terms, "assigned"):  # a loss of ours
        assigned = terms.assigned
        return lambda: assigned
    assigner = _assigner(criterion)
    tap = _tap(assigner) if assigner is not None else None
    kept = tap.take() if tap is not None else None
    return (lambda: of_task_aligned(kept, batch["batch_idx"])) if kept is not None else None


def of_task_aligned(returned: tuple[Tensor, ...], batch_idx: Tensor) -> PointAssignment:
    """ultralytics' (labels, boxes_xyxy, scores, is positive, index of the box within its image) as a `PointAssignment`."""
    _, boxes_xyxy, _, positive, index = returned
    counts = torch.bincount(batch_idx.reshape(-1).long().to(index.device), minlength=len(index))
    first = counts.cumsum(0) - counts
    target = torch.where(positive, index.long() + first[:, None], -1)
    return PointAssignment(target, boxes_xyxy)


def _assigner(criterion: Any) -> nn.Module | None:
    """The assigner module of an ultralytics loss; None for other losses."""
    return getattr(getattr(criterion, "one2many", criterion), "assigner", None)


def _tap(assigner: nn.Module) -> AssignerTap | None:
    return next((hook for hook in assigner._forward_hooks.values() if isinstance(hook, AssignerTap)), None)
