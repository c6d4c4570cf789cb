"""Attention modules for one YAML slot: `Attention [dual | cbam | none]` (Zhang et al. 2022, section 3.2, Table 6)."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.utils import fuse_conv_bn_eval

from cfg import UserError, nearest
from models.blocks import BLOCKS
from models.channels import Axis, cells
from models.rules import Plan, Site, one_input
from models.wiring import Scope


class DualAttention(nn.Module):
    """Channel and spatial attention without pooling, (B, C, H, W) -> (B, C, H, W) (Zhang et al. 2022, eqs. 2-4).

    Args:
        channels: C.
        reduction: r of both bottlenecks (paper: 16).
        dilation: d of the two spatial convs (paper: 4, as in BAM).
        residual: return `F + F'` (caption of Fig. 7) rather than `F'` alone.
    """

    keeps_channels = True

    def __init__(self, channels: int, reduction: int = 16, dilation: int = 4, residual: bool = True) -> None:
        super().__init__()
        hidden = max(channels // reduction, 4)
        self.residual, self.folded = residual, False
        self.channel = nn.Sequential(
            nn.Conv2d(channels, channels, 1),
            nn.Conv2d(channels, hidden, 1),
            nn.ReLU(),
            nn.Conv2d(hidden, channels, 1),
            nn.Conv2d(channels, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
        )
        self.spatial = nn.Sequential(
            nn.Conv2d(channels, hidden, 3, padding=dilation, dilation=dilation),
            nn.Conv2d(hidden, 1, 3, padding=dilation, dilation=dilation, bias=False),
            nn.BatchNorm2d(1),
        )

    def wire(self, scope: Scope, inputs: list[Axis], out: Axis | None) -> Axis:
        scope.at("channel").layers(inputs[0], inputs[0])
        scope.at("spatial").layers(inputs[0], cells(1))
        return inputs[0]

    def channel_map(self, features: torch.Tensor) -> torch.Tensor:
        """`M_c` of eq. 2: (B, C, H, W) in 0..1."""
        return self.channel(features).sigmoid()

    def spatial_map(self, features: torch.Tensor) -> torch.Tensor:
        """`M_s` of eq. 3: (B, 1, H, W) in 0..1."""
        return self.spatial(features).sigmoid()

    def gate(self, features: torch.Tensor) -> torch.Tensor:
        """`M_c + M_s`, (B, C, H, W): what the features are multiplied by, without the residual path."""
        return self.channel_map(features) + self.spatial_map(features)

    def attend(self, features: torch.Tensor) -> torch.Tensor:
        """`M(F) = (M_c + M_s) * F` of eqs. 4 and 9, without the residual path."""
        return self.gate(features) * features

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        attended = self.attend(features)
        return features + attended if self.residual else attended

    @torch.no_grad()
    def fold(self) -> None:
        """Write the same function with fewer layers, for inference: linear layers in a row are one.

        Of the channel map's 1x1 convs only the ReLU keeps the second and third apart: 2 C^2 + 2 C^2 / r multiplications
        per cell become 2 C^2 / r. The spatial map's BatchNorm goes into its conv.
        """
        if self.folded:
            return
        self.folded = True
        channel: list[Any] = list(self.channel)  # a Sequential does not say which of its layers are convs
        spatial: list[Any] = list(self.spatial)
        first, second, relu, third, fourth, norm = channel
        self.channel = nn.Sequential(_joined(first, second), relu, _joined(third, fuse_conv_bn_eval(fourth, norm)))
        self.spatial = nn.Sequential(spatial[0], fuse_conv_bn_eval(spatial[1], spatial[2]))


def _joined(first: nn.Conv2d, second: nn.Conv2d) -> nn.Conv2d:
    """One 1x1 conv that does what two in a row do; multiplied in double precision."""
    w1, w2 = (conv.weight.double().flatten(1) for conv in (first, second))
    joined = nn.Conv2d(first.in_channels, second.out_channels, 1).to(first.weight)
    joined.weight.copy_((w2 @ w1)[..., None, None])
    b1, b2 = (conv.get_parameter("bias").double() for conv in (first, second))
    joined.get_parameter("bias").copy_(w2 @ b1 + b2)
    return joined.requires_grad_(False)


class CBAM(nn.Module):
    """Convolutional block attention: pooled channel gate, then pooled spatial gate (Woo et al. 2018)."""

    keeps_channels = True

    def __init__(self, channels: int, reduction: int = 16, kernel: int = 7) -> None:
        super().__init__()
        hidden = max(channels // reduction, 4)
        self.mlp = nn.Sequential(
            nn.Conv2d(channels, hidden, 1, bias=False), nn.ReLU(), nn.Conv2d(hidden, channels, 1, bias=False)
        )
        self.spatial = nn.Conv2d(2, 1, kernel, padding=kernel // 2, bias=False)

    def wire(self, scope: Scope, inputs: list[Axis], out: Axis | None) -> Axis:
        scope.at("mlp").layers(inputs[0], inputs[0])
        scope.at("spatial").opaque()
        return inputs[0]

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        features = features * self._channel_gate(features)
        return features * self._spatial_gate(features)

    def gate(self, features: torch.Tensor) -> torch.Tensor:
        """What the features are multiplied by in all, (B, C, H, W) in 0..1."""
        channel = self._channel_gate(features)
        return channel * self._spatial_gate(features * channel)

    def _channel_gate(self, features: torch.Tensor) -> torch.Tensor:
        mean, peak = features.mean((2, 3), keepdim=True), features.amax((2, 3), keepdim=True)
        return (self.mlp(mean) + self.mlp(peak)).sigmoid()

    def _spatial_gate(self, features: torch.Tensor) -> torch.Tensor:
        pooled = torch.cat((features.mean(1, keepdim=True), features.amax(1, keepdim=True)), 1)
        return self.spatial(pooled).sigmoid()


class NoAttention(nn.Identity):
    """Attention left out: the row stays, the features pass unchanged."""

    def __init__(self, channels: int) -> None:
        super().__init__()


KINDS: dict[str, type[nn.Module]] = {"dual": DualAttention, "cbam": CBAM, "none": NoAttention}


def make_attention(kind: str, channels: int) -> nn.Module:
    """Build the attention called `kind` for `channels` channels. Raises `UserError` for an unknown kind."""
    check_attention(kind)
    return KINDS[kind](channels)


def check_attention(kind: object) -> None:
    """Raise `UserError` for a kind of attention that there is not."""
    if kind not in KINDS:
        raise UserError(f"unknown attention '{kind}'; expected one of {', '.join(KINDS)}{nearest(str(kind), KINDS)}")


@BLOCKS.register("Attention")
class Attention(nn.Module):
    """One YAML row of attention: `[-1, 1, Attention, [dual]]`. (B, C, H, W) -> (B, C, H, W)."""

    @staticmethod
    def rule(site: Site) -> Plan:
        channels = one_input(site)
        return Plan(channels, (channels, *site.args), copies=site.repeats)

    def __init__(self, channels: int, kind: str = "dual") -> None:
        super().__init__()
        self.attention = make_attention(kind, channels)

    def wire(self, scope: Scope, inputs: list[Axis], out: Axis) -> Axis:
        return scope.at("attention").layers(inputs[0])

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return self.attention(features)
