"""Joint score loss: quality focal loss on the very number that ranks detections, objectness times class score."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from models.assign import LevelAssignment


def joint_quality_focal(objectness: Tensor, classes: Tensor, targets: Tensor, beta: float) -> Tensor:
    """Quality focal loss of `p = sigma(objectness) sigma(class)` (Li et al. 2020, eq. 5, with this p instead of one sigmoid).

    `|y - p|^beta [-(1 - y) log(1 - p) - y log(p)]`, with `1 - p = sigma(-o) + sigma(o) sigma(-c)`, so that no logit overflows.

    Args:
        objectness: (..., 1) logits.
        classes: (..., K) logits.
        targets: (..., K) in [0, 1].
        beta: exponent of the focusing factor: 0, or at least 1.

    Returns:
        Losses (..., K), finite for any finite logit.
    """
    there, gone = F.logsigmoid(objectness), F.logsigmoid(-objectness)
    log_p = there + F.logsigmoid(classes)
    log_not_p = torch.logaddexp(gone, there + F.logsigmoid(-classes))
    cross_entropy = -targets * log_p - (1 - targets) * log_not_p
    return (targets - log_p.exp()).abs().pow(beta) * cross_entropy


def joint_scores(
    preds: Sequence[Tensor], assignment: Sequence[LevelAssignment], qualities: Sequence[Tensor], beta: float, least: int
) -> tuple[Tensor, Tensor]:
    """Joint score loss of matched and of other predictors, summed over levels and classes, per match, mean over images.

    A match's target is its overlap for its class and 0 for the others; that of all other predictors is 0. Both sums are
    divided by the same number: the matched predictors of the image.

    Args:
        preds: per level (B, na, H, W, 5 + K) logits.
        assignment: of the boxes, per level.
        qualities: per level (M,) target of each match, 0..1.
        least: divisor of images with fewer matches, or none: as many as one box usually has.

    Returns:
        0-d losses of the matched predictors and of the others.
    """
    images = len(preds[0])
    matched, others, counts = (preds[0].new_zeros(images) for _ in range(3))
    for pred, level, quality in zip(preds, assignment, qualities, strict=True):
        targets, answers = _targets(pred, level, quality)
        losses = joint_quality_focal(pred[..., 4:5], pred[..., 5:], targets, beta).sum(-1)
        matched = matched + torch.where(answers, losses, 0).flatten(1).sum(1)
        others = others + torch.where(answers, 0, losses).flatten(1).sum(1)
        counts = counts + answers.flatten(1).sum(1)
    per_match = 1 / counts.clamp(min=least)
    return (matched * per_match).mean(), (others * per_match).mean()


def _targets(pred: Tensor, level: LevelAssignment, quality: Tensor) -> tuple[Tensor, Tensor]:
    """Score targets (B, na, H, W, K), the largest where boxes share a predictor, and which predictors are matched."""
    *shape, outputs = pred.shape
    classes, (_, anchors, rows, columns) = outputs - 5, shape
    cell = ((level.image * anchors + level.anchor) * rows + level.row) * columns + level.column
    flat = pred.new_zeros(pred[..., 0].numel() * classes)
    targets = flat.scatter_reduce(0, cell * classes + level.cls, quality.to(flat), "amax").view(*shape, classes)
    answers = torch.zeros(pred[..., 0].numel(), dtype=torch.bool, device=pred.device)
    answers[cell] = True
    return targets, answers.view(shape)
