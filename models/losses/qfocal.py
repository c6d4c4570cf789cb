"""Quality focal loss for class and objectness logits."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from models.losses.precision import at_least_float32


def quality_focal(logits: Tensor, targets: Tensor, alpha: float = 0.25, beta: float = 1.5) -> Tensor:
    """Elementwise quality focal loss with soft labels (Zhang et al. 2022, eq. 14; Li et al. 2020, eq. 5).

    `QFL = -alpha_t |y - sigma|^beta [(1 - y) log(1 - sigma) + y log(sigma)]`, `alpha_t = y alpha + (1 - y)(1 - alpha)`.

    Args:
        logits: any shape; sigma is their sigmoid. Half precision is computed in float32, float64 stays float64.
        targets: y in [0, 1], shape of `logits` (or one that broadcasts to it).
        alpha: weight of the positive side, 1 - alpha that of the negative side.
        beta: exponent of the focusing factor, 0 or at least 1 (between the two the gradient is infinite at sigma = y).

    Returns:
        Losses in the shape of `logits`, finite for any finite logit.
    """
    logits = at_least_float32(logits)
    targets = targets.to(logits.dtype).expand_as(logits)
    cross_entropy = F.binary_cross_entropy_with_logits(logits, targets, reduction="none")  # log-sum-exp form: no log(0)
    balance = targets * alpha + (1 - targets) * (1 - alpha)
    focus = (targets - logits.sigmoid()).abs().pow(beta)
    return balance * focus * cross_entropy
