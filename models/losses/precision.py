"""The precision losses are computed in: float32 at least, whatever autocast or half-precision models hand over."""

from __future__ import annotations

import torch
from torch import Tensor


def at_least_float32(tensor: Tensor) -> Tensor:
    """Return `tensor` in float32; float64 is left alone, so that gradients can be checked."""
    return tensor if tensor.dtype in (torch.float32, torch.float64) else tensor.float()
