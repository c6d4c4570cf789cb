"""The ultralytics and torch blocks our YAMLs use, each with its channel rule.

Everything else of ours takes these from here, so that this file alone knows where they live.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from cfg import UserError
from models.blocks import BLOCKS
from models.channels import Axis
from models.rules import Plan, Site, to_channels, to_channels_repeated_inside, unchanged
from models.wiring import WIRINGS, Scope

from ultralytics.nn.modules.block import C3, SPP, SPPF, Bottleneck
from ultralytics.nn.modules.conv import Conv, DWConv

__all__ = ["C3", "SPP", "SPPF", "Conv", "DWConv"]


class _Host:
    """A library class together with our rule for it: what the parser asks a block for."""

    def __init__(self, block: type[nn.Module], rule: Callable[[Site], Plan]) -> None:
        self.block, self.rule = block, rule

    def __call__(self, *args: Any, **kwargs: Any) -> nn.Module:
        return self.block(*args, **kwargs)


for _block, _rule in {
    Conv: to_channels,
    DWConv: to_channels,
    # SPP with kernels 5, 9, 13 is what YOLOv5 calls SPPF; ultralytics' own SPPF has no activation after its first conv.
    SPP: to_channels,
    SPPF: to_channels,
    C3: to_channels_repeated_inside,
}.items():
    BLOCKS.register(_block.__name__)(_Host(_block, _rule))


def _conv(scope: Scope, inputs: list[Axis], out: Axis | None) -> Axis:
    return scope.chain(["conv", "bn"], inputs[0], out)


def _bottleneck(scope: Scope, inputs: list[Axis], out: Axis | None) -> Axis:
    if scope.module.add:
        scope.branch("cv2.bn")
    return scope.at("cv2").layers(scope.at("cv1").layers(inputs[0]), inputs[0] if scope.module.add else out)


def _c3(scope: Scope, inputs: list[Axis], out: Axis | None) -> Axis:
    c3: C3 = scope.module
    mixed = scope.at("cv1").layers(inputs[0])
    for i in range(len(c3.m)):
        mixed = scope.at(f"m.{i}").layers(mixed, mixed)  # of one name, so that cv3 reads the last of however many
    return scope.at("cv3").layers((*mixed, *scope.at("cv2").layers(inputs[0])), out)


def _pooling(scope: Scope, inputs: list[Axis], out: Axis | None) -> Axis:
    """SPP and SPPF: pooled copies of the same channels side by side."""
    pooling: SPP | SPPF = scope.module
    reduced = scope.at("cv1").layers(inputs[0])
    copies = pooling.cv2.conv.in_channels // pooling.cv1.conv.out_channels
    return scope.at("cv2").layers(reduced * copies, out)


WIRINGS |= {Conv: _conv, DWConv: _conv, Bottleneck: _bottleneck, C3: _c3, SPP: _pooling, SPPF: _pooling}


@BLOCKS.register("Upsample")
class Upsample(nn.Upsample):
    """Nearest-neighbour enlargement by a factor (default 2)."""

    rule = staticmethod(unchanged)

    def __init__(self, factor: int = 2) -> None:
        super().__init__(scale_factor=factor, mode="nearest")


@BLOCKS.register("Concat")
class Concat(nn.Module):
    """Inputs of one grid side by side: list of (B, C_i, H, W) -> (B, sum C_i, H, W)."""

    @staticmethod
    def rule(site: Site) -> Plan:
        if len(set(site.strides)) > 1:
            raise UserError(f"inputs must share one stride, got strides {list(site.strides)}; resample them first")
        return Plan(sum(site.channels))

    def wire(self, scope: Scope, inputs: list[Axis], out: Axis) -> Axis:
        return sum(inputs, ())

    def forward(self, features: list[torch.Tensor]) -> torch.Tensor:
        return torch.cat(features, 1)


@BLOCKS.register("First")
class First(nn.Module):
    """The first of its inputs, unchanged: instead of a fusion block, it removes the fusion."""

    passes_on = 0  # position in `from` of the row whose output this is

    @staticmethod
    def rule(site: Site) -> Plan:
        return Plan(site.channels[0])

    def wire(self, scope: Scope, inputs: list[Axis], out: Axis) -> Axis:
        return inputs[self.passes_on]

    def forward(self, features: torch.Tensor | list[torch.Tensor]) -> torch.Tensor:
        return features[0] if isinstance(features, list) else features


@BLOCKS.register("Last")
class Last(First):
    """The last of its inputs, unchanged: instead of a tower's block-N, it removes the tower."""

    passes_on = -1

    @staticmethod
    def rule(site: Site) -> Plan:
        return Plan(site.channels[-1])

    def forward(self, features: torch.Tensor | list[torch.Tensor]) -> torch.Tensor:
        return features[-1] if isinstance(features, list) else features
