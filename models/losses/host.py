"""The loss of ultralytics' own distillation, for comparison in our harness."""

from __future__ import annotations

import torch
from ultralytics.nn.distill_model import DistillationModel


def score_weighted_l2(student: torch.Tensor, teacher: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
    """Square error of features, weighted by a score per cell: `sum(score * error^2) / (C * sum(score))`, over the batch.

    What `distill_model` adds to the loss, computed by ultralytics itself (`DistillationModel.loss_sl2`).

    Args:
        student, teacher: (B, C, H, W).
        scores: (B, 1, H * W), 0..1.
    """
    student, teacher = student.contiguous(), teacher.contiguous()
    return DistillationModel.loss_sl2(None, student, teacher, 0, (scores,))
