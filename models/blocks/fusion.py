"""Weighted residual fusion of backbone stages (Zhang et al. 2022, eq. 1)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from models.blocks import BLOCKS
from models.blocks.host import Conv
from models.channels import Axis, Part, label
from models.rules import Plan, Site
from models.wiring import Scope


class Reshape(nn.Module):
    """Bring one stage to the target's grid and channels: 3x3 conv (strided to shrink), 1x1 conv, enlargement if coarser.

    The paper says 3x3, so one that shrinks eightfold reads 9 cells of each 64, and one that shrinks fourfold 9 of 16.
    """

    def __init__(self, channels: int, out_channels: int, stride: int, target_stride: int) -> None:
        super().__init__()
        self.shrink = nn.Conv2d(channels, channels, 3, max(target_stride // stride, 1), 1)
        self.mix = nn.Conv2d(channels, out_channels, 1)
        self.enlarge = max(stride // target_stride, 1)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        features = self.mix(self.shrink(features))
        return F.interpolate(features, scale_factor=float(self.enlarge)) if self.enlarge > 1 else features


@BLOCKS.register("WeightedFusion")
class WeightedFusion(nn.Module):
    """`x_0 + f(sum_i softmax(w)_i * reshape_i(x_i))`: every stage, weighted, joins the first input.

    Row: `[[target, stage, stage, ...], 1, WeightedFusion, []]`. The first input gives grid and channels and is a stage
    itself; replacing the block's name by `First` removes the fusion.

    Shapes: list of (B, C_i, H_i, W_i) -> (B, C_0, H_0, W_0).
    """

    @staticmethod
    def rule(site: Site) -> Plan:
        return Plan(site.channels[0], (site.channels, site.strides, *site.args))

    def __init__(self, channels: tuple[int, ...], strides: tuple[int, ...]) -> None:
        super().__init__()
        self.stages = nn.ModuleList(Reshape(c, channels[0], s, strides[0]) for c, s in zip(channels, strides))
        self.logits = nn.Parameter(torch.zeros(len(channels)))
        self.out = Conv(channels[0], channels[0], 1)

    def wire(self, scope: Scope, inputs: list[Axis], out: Axis) -> Axis:
        names = [f"{label(axis)} ({i - inputs[:i].count(axis)})" for i, axis in enumerate(inputs)]
        total = scope.new(len(self.out.conv.weight))
        for i, (axis, name) in enumerate(zip(inputs, names)):
            stage = scope.at(f"stages.{i}", name)
            stage.chain(["shrink", "mix"], axis, total)
        scope.tensor("logits", tuple(Part(name, 1) for name in names))
        scope.at("out").layers(total, inputs[0])
        scope.branch("out.bn")
        return inputs[0]

    def forward(self, features: list[torch.Tensor]) -> torch.Tensor:
        shares = self.logits.softmax(0)
        total = sum(share * stage(x) for share, stage, x in zip(shares, self.stages, features))
        return features[0] + self.out(total)
