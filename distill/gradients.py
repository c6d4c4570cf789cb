"""How hard each loss term pulls at the student: gradient norms at its neck."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


def neck_gradients(terms: Mapping[str, Tensor], feats: Sequence[Tensor]) -> dict[str, float]:
    """Euclidean norm of each 0-d term's gradient at the neck outputs `feats`, all levels together; 0 where it has none."""
    norms = {}
    for name, term in terms.items():
        if not term.requires_grad:
            norms[name] = 0.0
            continue
        gradients = torch.autograd.grad(term, list(feats), retain_graph=True, allow_unused=True)
        norms[name] = torch.stack([g.float().square().sum() for g in gradients if g is not None]).sum().sqrt().item()
    return norms
