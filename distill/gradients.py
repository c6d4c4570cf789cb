"""How hard each loss pulls at the student: inner products of the gradients at its neck."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

SCALE = 1024.0  # gradients of half-precision features would underflow without it


def gradient_products(losses: Sequence[Tensor], feats: Sequence[Tensor]) -> Tensor:
    """Inner products (n, n), float32, of the gradients of n 0-d losses at the neck outputs `feats`, all levels together.

    The gradient of any weighted sum of the losses has the squared length `w^T G w`: its diagonal alone gives the
    length of each. A loss without a gradient there counts as a zero vector. The graph is kept for the backward pass.
    """
    zero = torch.zeros(sum(x.numel() for x in feats), device=feats[0].device)
    vectors = torch.stack([_gradient(loss, feats) if loss.requires_grad else zero for loss in losses])
    return vectors @ vectors.T


def _gradient(loss: Tensor, feats: Sequence[Tensor]) -> Tensor:
    """(sum of elements,) float32 gradient of a loss at all levels, zeros where it does not depend on one."""
    parts = torch.autograd.grad(loss * SCALE, list(feats), retain_graph=True, allow_unused=True)
    parts = [torch.zeros_like(x) if g is None else g for g, x in zip(parts, feats)]
    return torch.cat([p.reshape(-1).float() for p in parts]) / SCALE
