"""A feature pyramid of 1x1 convolutions only (Zhang et al. 2023, SDD FTI-FDet, Table V; layout of Lin et al. 2017)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from cfg import UserError
from models.blocks import BLOCKS
from models.channels import Axis
from models.rules import Plan, Site, required, to_channels, width
from models.wiring import Scope


@BLOCKS.register("Pointwise")
class Pointwise(nn.Conv2d):
    """A plain 1x1 convolution, without norm or activation: (B, C_in, H, W) -> (B, C_out, H, W)."""

    rule = staticmethod(to_channels)

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__(c_in, c_out, 1)


@BLOCKS.register("TopDown")
class TopDown(nn.Module):
    """One step down the pyramid: the coarser map enlarged to the skip's grid plus the skip's 1x1 projection.

    Row: `[[coarser, skip], 1, TopDown, [channels]]`; the coarser map must have `channels` already.
    Shapes: [(B, C, H/2, W/2), (B, C_skip, H, W)] -> (B, C, H, W).
    """

    @staticmethod
    def rule(site: Site) -> Plan:
        required(site.args, 1, "channels")
        if len(site.channels) != 2 or site.strides[0] != 2 * site.strides[1]:
            raise UserError(f"expected two inputs [coarser, skip], one level apart, got strides {list(site.strides)}")
        out = site.scale(width(site.args[0]))
        if site.channels[0] != out:
            got = site.channels[0]
            raise UserError(f"expected the coarser input to have {out} channels, got {got}; put Pointwise before it")
        return Plan(out, (site.channels[1], out))

    def __init__(self, c_skip: int, c_out: int) -> None:
        super().__init__()
        self.lateral = nn.Conv2d(c_skip, c_out, 1)

    def wire(self, scope: Scope, inputs: list[Axis], out: Axis) -> Axis:
        return scope.at("lateral").layers(inputs[1], inputs[0])  # a sum: the channels of both are the same

    def forward(self, features: list[torch.Tensor]) -> torch.Tensor:
        coarser, skip = features
        enlarged = F.interpolate(coarser, scale_factor=2.0, mode="nearest")
        return enlarged[..., : skip.shape[2], : skip.shape[3]] + self.lateral(skip)
