"""Sums, means and softmax over the cells of feature maps, with channels last in memory from end to end.

Networks give maps with channels last (`torch.channels_last`), because convolutions are faster so. Softmax over
`flatten(2)` of such a map, and the gradients of means and sums over it, have channels first; a product of the two
layouts then takes five times as long as one of a single layout. So what reduces a map here does it on its (B, H, W, C) view.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def channels_last(features: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, H, W, C), dense: a view of a map that has its channels last in memory, else a copy."""
    return features.permute(0, 2, 3, 1).contiguous()


def channels_second(features: Tensor) -> Tensor:
    """(B, H, W, C) -> (B, C, H, W), a view."""
    return features.permute(0, 3, 1, 2)


def softmax_over_cells(features: Tensor) -> Tensor:
    """Softmax of each image's channel over its H * W cells; (B, C, H, W) -> (B, C, H, W)."""
    last = channels_last(features)
    return channels_second(last.flatten(1, 2).softmax(1).view_as(last))


def centred(features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Features less their means over the H * W cells of each image and channel, those means, and the variances.

    (B, C, H, W) -> (B, C, H, W), (B, C, 1, 1), (B, C, 1, 1). `torch.var_mean` takes five times as long on a CPU.
    """
    last = channels_last(features)
    mean = last.mean((1, 2), keepdim=True)
    rest = last - mean
    variance = rest.square().mean((1, 2), keepdim=True)
    return channels_second(rest), channels_second(mean), channels_second(variance)


def mean_square(student: Tensor, teacher: Tensor) -> Tensor:
    """0-d mean square difference of two maps (B, C, H, W)."""
    return F.mse_loss(channels_last(student), channels_last(teacher))


def over_channels(errors: Tensor) -> Tensor:
    """Sums over channels, (B, C, H, W) -> (B, 1, H, W)."""
    return channels_last(errors).sum(3)[:, None]
