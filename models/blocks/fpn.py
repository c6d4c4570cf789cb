"""Feature pyramid network (Lin et al. 2017) with coarser levels added, as GFL and FCOS use it."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from cfg import UserError
from models.blocks import BLOCKS
from models.channels import Axis, size
from models.rules import Plan, Site, required, width
from models.wiring import Scope


def plain_lateral(c_in: int, channels: int) -> nn.Module:
    """1x1 conv."""
    return nn.Conv2d(c_in, channels, 1)


def plain_output(channels: int) -> nn.Module:
    """3x3 conv."""
    return nn.Conv2d(channels, channels, 3, padding=1)


@BLOCKS.register("FPN")
class FPN(nn.Module):
    """Laterals, top-down sums, outputs, and coarser levels by stride-2 convs on the last output.

    Row: `[[level, ...] or a row with several outputs, 1, FPN, [channels, levels]]`; levels (default 5) counts the
    outputs. The inputs are finest first, each twice as coarse as the one before.

    Shapes: [(B, C_i, H_i, W_i)] -> [(B, channels, H_i, W_i)] and `levels - inputs` coarser maps.
    """

    lateral: Callable[[int, int], nn.Module] = staticmethod(plain_lateral)
    output: Callable[[int], nn.Module] = staticmethod(plain_output)

    @classmethod
    def rule(cls, site: Site) -> Plan:
        required(site.args, 1, "channels, levels")
        channels, levels = site.scale(width(site.args[0])), site.args[1] if len(site.args) > 1 else 5
        inputs = len(site.channels)
        if inputs < 2 or any(b != 2 * a for a, b in zip(site.strides, site.strides[1:])):
            got = list(site.strides)
            raise UserError(f"expected two or more inputs, each twice as coarse as the one before, got strides {got}")
        if not isinstance(levels, int) or levels < inputs:
            raise UserError(f"expected at least as many levels as inputs ({inputs}), got {levels!r}")
        return Plan((channels,) * levels, (site.channels, channels, levels))

    def __init__(self, c_in: tuple[int, ...], channels: int, levels: int = 5) -> None:
        super().__init__()
        self.laterals = nn.ModuleList(self.lateral(c, channels) for c in c_in)
        self.outputs = nn.ModuleList(self.output(channels) for _ in c_in)
        self.coarser = nn.ModuleList(nn.Conv2d(channels, channels, 3, 2, 1) for _ in range(levels - len(c_in)))

    def wire(self, scope: Scope, inputs: list[Axis], out: list[Axis]) -> list[Axis]:
        summed = scope.new(size(out[0]))
        for i, (axis, level) in enumerate(zip(inputs, out)):
            scope.at(f"laterals.{i}").layers(axis, summed)
            scope.at(f"outputs.{i}").layers(summed, level)
        for i, (finer, level) in enumerate(zip(out[len(inputs) - 1 :], out[len(inputs) :])):
            scope.at(f"coarser.{i}").layers(finer, level)
        return out

    def forward(self, features: list[torch.Tensor]) -> list[torch.Tensor]:
        sums = [lateral(x) for lateral, x in zip(self.laterals, features)]
        for i in range(len(sums) - 1, 0, -1):
            fine = sums[i - 1]
            enlarged = F.interpolate(sums[i], scale_factor=2.0, mode="nearest")
            sums[i - 1] = fine + enlarged[..., : fine.shape[2], : fine.shape[3]]  # a finer grid may have an odd side
        levels = [output(x) for output, x in zip(self.outputs, sums)]
        for shrink in self.coarser:
            levels.append(shrink(levels[-1]))
        return levels
