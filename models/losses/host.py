"""The loss of ultralytics' own distillation, for comparison in our harness."""

from __future__ import annotations

import torch
from torch import Tensor

from ultralytics.nn.distill_model import DistillationModel


def score_weighted_l2(student: Tensor, teacher: Tensor, scores: Tensor) -> Tensor:
    """Square error of features, weighted by a score per cell: `sum(score * error^2) / (C * sum(score))` of each image.

    What `distill_model` adds to the loss, computed by ultralytics itself (`DistillationModel.loss_sl2`).

    Args:
        student, teacher: (B, C, H, W).
        scores: (B, 1, H * W), 0..1.

    Returns:
        (B,)
    """
    return torch.vmap(_of_image)(student.contiguous(), teacher.contiguous(), scores)


def _of_image(student: Tensor, teacher: Tensor, scores: Tensor) -> Tensor:
    """The library's function reads nothing of its model, and takes a batch: here one image, without its first axis."""
    loss: Tensor = DistillationModel.loss_sl2(None, student[None], teacher[None], 0, (scores[None],))
    return loss
