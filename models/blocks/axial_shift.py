"""FaultMLP's stages: patch embedding, axial-shift blocks, patch merging (Zhang et al. 2023, SDD FTI-FDet, Table I).

The block is AS-MLP's (Lian et al. 2022). Everything is a 1x1 projection or a shift of channels by whole cells, made of
padding and slicing with sizes read at run time, so that any image size works and an export with dynamic axes is exact.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from cfg import UserError
from models.blocks import BLOCKS
from models.channels import Axis, Part
from models.rules import Plan, Site, one_input, to_channels
from models.wiring import Scope


def layer_norm(channels: int) -> nn.GroupNorm:
    """AS-MLP's layer norm: over channels and positions of an image together, one scale and offset per channel."""
    return nn.GroupNorm(1, channels)


def shift(x: torch.Tensor, dim: int, size: int, dilation: int = 1) -> torch.Tensor:
    """Eq. 1: channel c of cell i becomes that of cell `i + (floor(c / ceil(C / s)) - floor(s / 2)) * d`, zero outside.

    Args:
        x: (B, C, H, W); the result has the same shape.
        dim: 2 shifts along the height, 3 along the width.
        size: s, number of channel groups.
        dilation: d, cells between the shifts of neighbouring groups.
    """
    length, reach = x.shape[dim], size // 2 * dilation
    padded = F.pad(x, (0, 0, reach, reach) if dim == 2 else (reach, reach, 0, 0))
    channels, step = int(x.shape[1]), -(-int(x.shape[1]) // size)
    groups = [padded[:, c : c + step] for c in range(0, channels, step)]  # split() exports wrongly when the last is smaller
    moved = [group.narrow(dim, k * dilation, length) for k, group in enumerate(groups)]
    return torch.cat(moved, 1)


class AxialShift(nn.Module):
    """1x1 conv, norm, GELU; shift along width and along height, a 1x1 conv and GELU each; sum, norm, 1x1 conv."""

    def __init__(self, channels: int, size: int, dilation: int) -> None:
        super().__init__()
        self.size, self.dilation = size, dilation
        self.before = nn.Sequential(nn.Conv2d(channels, channels, 1), layer_norm(channels), nn.GELU())
        self.horizontal = nn.Conv2d(channels, channels, 1)
        self.vertical = nn.Conv2d(channels, channels, 1)
        self.after = nn.Sequential(layer_norm(channels), nn.Conv2d(channels, channels, 1))

    def wire(self, scope: Scope, inputs: list[Axis], out: Axis | None) -> Axis:
        channels = len(self.horizontal.weight)
        step = -(-channels // self.size)
        groups = (Part(f"{scope.unit}: {scope.path} {c // step}", min(step, channels - c)) for c in range(0, channels, step))
        before = scope.at("before").layers(inputs[0], tuple(groups))  # a channel stays in its group of the shift
        summed = scope.at("horizontal").layers(before)
        scope.at("vertical").layers(before, summed)
        return scope.at("after").layers(summed, out)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.before(x)
        along_width = F.gelu(self.horizontal(shift(x, 3, self.size, self.dilation)))
        along_height = F.gelu(self.vertical(shift(x, 2, self.size, self.dilation)))
        return self.after(along_width + along_height)


class AxialShiftBlock(nn.Module):
    """Axial shift and MLP, each with a norm before and a residual path: (B, C, H, W) -> (B, C, H, W)."""

    def __init__(self, channels: int, size: int, mlp_ratio: float, dilation: int) -> None:
        super().__init__()
        self.mix = nn.Sequential(layer_norm(channels), AxialShift(channels, size, dilation))
        hidden = int(channels * mlp_ratio)
        mlp = (nn.Conv2d(channels, hidden, 1), nn.GELU(), nn.Conv2d(hidden, channels, 1))
        self.mlp = nn.Sequential(layer_norm(channels), *mlp)

    def wire(self, scope: Scope, inputs: list[Axis], out: Axis | None) -> Axis:
        for name, last in (("mix", "1.after.1"), ("mlp", "3")):
            branch = scope.at(name)
            branch.layers(inputs[0], inputs[0])
            branch.branch(last)
        return inputs[0]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.mix(x)
        return x + self.mlp(x)


@BLOCKS.register("FaultMLP")
class FaultMLP(nn.Module):
    """`repeats` axial-shift blocks: (B, C, H, W) -> (B, C, H, W).

    Row: `[-1, 2, FaultMLP, [shift, mlp_ratio, dilation]]`. The paper's shift is 5; AS-MLP's MLP ratio is 4, its dilation 1.

    Differs from AS-MLP: no stochastic depth (two blocks per stage are too few to drop).
    """

    @staticmethod
    def rule(site: Site) -> Plan:
        channels = one_input(site)
        return Plan(channels, (channels, site.repeats, *site.args))

    def __init__(self, channels: int, repeats: int, shift: int = 5, mlp_ratio: float = 4.0, dilation: int = 1) -> None:
        super().__init__()
        for name, value in (("shift", shift), ("dilation", dilation)):
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise UserError(f"{name}: expected a whole number of at least 1, got {value!r}; correct it")
        if not isinstance(mlp_ratio, (int, float)) or int(channels * mlp_ratio) < 1:
            raise UserError(f"mlp_ratio: expected a number that leaves a channel, got {mlp_ratio!r}; AS-MLP's is 4")
        blocks = (AxialShiftBlock(channels, shift, mlp_ratio, dilation) for _ in range(repeats))
        self.blocks = nn.Sequential(*blocks)

    def wire(self, scope: Scope, inputs: list[Axis], out: Axis) -> Axis:
        return scope.at("blocks").layers(inputs[0])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.blocks(x)


@BLOCKS.register("PatchEmbed")
class PatchEmbed(nn.Module):
    """Patches of `side` x `side` cells to one vector each, and norm.

    Row: `[-1, 1, PatchEmbed, [channels, side]]`. Table I's "concat 4x4, 64-d, LN"; a strided conv is the same map.
    Shapes: (B, C_in, H, W) -> (B, C_out, ceil(H / side), ceil(W / side)).
    """

    rule = staticmethod(to_channels)

    def __init__(self, c_in: int, c_out: int, side: int = 4) -> None:
        super().__init__()
        self.side = side
        self.embed = nn.Conv2d(c_in, c_out, side, side)
        self.norm = layer_norm(c_out)

    def wire(self, scope: Scope, inputs: list[Axis], out: Axis) -> Axis:
        return scope.chain(["embed", "norm"], inputs[0], out)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        pad_h, pad_w = ((self.side - length % self.side) % self.side for length in x.shape[2:])
        return self.norm(self.embed(F.pad(x, (0, pad_w, 0, pad_h))))


@BLOCKS.register("PatchReduce")
class PatchReduce(nn.Module):
    """AS-MLP's patch merging: 2x2 neighbours side by side, norm, 1x1 conv.

    Beside Swin's `PatchMerging` only the norm differs: over the whole image, not position by position.
    Shapes: (B, C, H, W) -> (B, C_out, ceil(H / 2), ceil(W / 2)).
    """

    rule = staticmethod(to_channels)

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.norm = layer_norm(4 * c_in)
        self.reduce = nn.Conv2d(4 * c_in, c_out, 1, bias=False)

    def wire(self, scope: Scope, inputs: list[Axis], out: Axis) -> Axis:
        return scope.chain(["norm", "reduce"], inputs[0] * 4, out)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.pad(x, (0, x.shape[3] % 2, 0, x.shape[2] % 2))
        corners = (x[..., 0::2, 0::2], x[..., 1::2, 0::2], x[..., 0::2, 1::2], x[..., 1::2, 1::2])
        return self.reduce(self.norm(torch.cat(corners, 1)))
