"""How hard each loss pulls at the student: inner products of the gradients at its neck."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations_with_replacement

import torch
from torch import Tensor

SCALE = 1024.0  # gradients of half-precision features would underflow without it


def gradient_products(losses: Sequence[Tensor], feats: Sequence[Tensor]) -> Tensor:
    """Inner products (n, n), float32, of the gradients of n 0-d losses at the neck outputs `feats`, all levels together.

    The gradient of any weighted sum of the losses has the squared length `w^T G w`: its diagonal alone gives the
    length of each. A loss without a gradient there counts as a zero vector. The graph is kept for the backward pass.
    """
    gradients = [_gradient(loss, feats) for loss in losses]
    products = torch.zeros(len(losses), len(losses), device=feats[0].device)
    for i, j in combinations_with_replacement(range(len(losses)), 2):
        pairs = [(a, b) for a, b in zip(gradients[i], gradients[j]) if a is not None and b is not None]
        # Element by element: autocast would turn a matrix product into half precision.
        products[i, j] = products[j, i] = sum((a.float() / SCALE * (b.float() / SCALE)).sum() for a, b in pairs)
    return products


def _gradient(loss: Tensor, feats: Sequence[Tensor]) -> Sequence[Tensor | None]:
    """SCALE times the gradient of a loss by level, None for a level it does not depend on."""
    if not loss.requires_grad:
        return [None] * len(feats)
    return torch.autograd.grad(loss * SCALE, list(feats), retain_graph=True, allow_unused=True)
