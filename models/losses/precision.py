"""The precision losses are computed in: float32 at least, whatever autocast or half-precision models hand over."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def at_least_float32(tensor: Tensor) -> Tensor:
    """Return `tensor` in float32; float64 is left alone, so that gradients can be checked."""
    return tensor if tensor.dtype in (torch.float32, torch.float64) else tensor.float()


def all_at_least_float32(output: Any) -> Any:
    """The same dicts, lists and tuples with every floating-point tensor in float32 at least.

    For what a network returned, before a loss that computes in the precision it is given, as ultralytics' own do. There,
    cross-entropy is a difference of numbers as large as the logits: in bfloat16 that of a young score, 0.0004, comes out
    as 0. And the middle of a grid's 129th cell, 128.5, is not a bfloat16.
    """
    if isinstance(output, Tensor):
        return at_least_float32(output) if output.is_floating_point() else output
    if isinstance(output, dict):
        return {name: all_at_least_float32(value) for name, value in output.items()}
    if isinstance(output, (list, tuple)):
        return type(output)(map(all_at_least_float32, output))
    return output
