"""HKN, the heterogeneous knowledge neck (HSD FTI-FDet): FPN with coordinate attention and large depth-wise outputs."""

from __future__ import annotations

import torch
from torch import nn

from models.blocks import BLOCKS
from models.blocks.fpn import FPN
from models.channels import Axis
from models.wiring import Scope


class CoordinateAttention(nn.Module):
    """Gates per row and per column, which carry position and long-range dependence (Hou et al. 2021, eqs. 4-9).

    Each channel is averaged along the width and along the height; both go through one 1x1 conv to max(8, C / 16)
    channels, BatchNorm and h-swish, then each through a 1x1 conv of its own to a sigmoid gate.

    Shapes: (B, C, H, W) -> the same.
    """

    keeps_channels = True

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__()
        hidden = max(8, channels // reduction)
        self.squeeze = nn.Sequential(nn.Conv2d(channels, hidden, 1, bias=False), nn.BatchNorm2d(hidden), nn.Hardswish())
        self.rows = nn.Conv2d(hidden, channels, 1)
        self.columns = nn.Conv2d(hidden, channels, 1)

    def wire(self, scope: Scope, inputs: list[Axis], out: Axis | None) -> Axis:
        squeezed = scope.at("squeeze").layers(inputs[0])
        scope.at("rows").layers(squeezed, inputs[0])
        scope.at("columns").layers(squeezed, inputs[0])
        return inputs[0]

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        height = features.shape[2]
        by_row, by_column = features.mean(3, keepdim=True), features.mean(2, keepdim=True).transpose(2, 3)
        squeezed = self.squeeze(torch.cat((by_row, by_column), 2))  # together: one set of batch statistics
        row_gate = self.rows(squeezed[:, :, :height]).sigmoid()
        column_gate = self.columns(squeezed[:, :, height:].transpose(2, 3)).sigmoid()
        return features * row_gate * column_gate


def attended_lateral(c_in: int, channels: int) -> nn.Module:
    """1x1 conv, then coordinate attention.

    Differs from the authors' code: there the attention's result is discarded by mistake.
    """
    return nn.Sequential(nn.Conv2d(c_in, channels, 1), CoordinateAttention(channels))


def large_output(channels: int) -> nn.Module:
    """7x7 depth-wise separable conv."""
    return nn.Sequential(nn.Conv2d(channels, channels, 7, padding=3, groups=channels), nn.Conv2d(channels, channels, 1))


@BLOCKS.register("HKN")
class HKN(FPN):
    """FPN with coordinate attention on its laterals and 7x7 depth-wise separable convs as outputs. Row as `FPN`'s."""

    lateral = staticmethod(attended_lateral)
    output = staticmethod(large_output)
