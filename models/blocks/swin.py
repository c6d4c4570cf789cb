"""Swin-transformer blocks with relative position bias, exact at every input size (Liu et al. 2021).

Differs from torchvision's: windows are always shifted and padding is masked, both decided on the sizes at run time. There
the shift is switched off by a Python condition on the size, which an export with dynamic axes freezes: such a model is
silently wrong wherever a side is no longer than the window.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from cfg import UserError
from models.blocks import BLOCKS
from models.blocks.host import Conv
from models.channels import Axis, Grid, cells
from models.rules import Plan, Site, one_input, to_channels
from models.wiring import Scope

MASKED = -100.0  # added to a logit: exp(-100) is 0 beside any real logit, and finite in half precision


def roll(x_nhwc: torch.Tensor, shift: int) -> torch.Tensor:
    """Move the grid (B, H, W, C) up and left by `shift` cells, around the edges; slices export where torch.roll does not."""
    if shift == 0:
        return x_nhwc
    x_nhwc = torch.cat((x_nhwc[:, shift:], x_nhwc[:, :shift]), 1)
    return torch.cat((x_nhwc[:, :, shift:], x_nhwc[:, :, :shift]), 2)


def to_windows(x_nhwc: torch.Tensor, window: int) -> torch.Tensor:
    """(B, H, W, C) with sides that are multiples of `window` -> (B, windows, window * window, C)."""
    batch, height, width, channels = x_nhwc.shape
    x_nhwc = x_nhwc.view(batch, height // window, window, width // window, window, channels)
    return x_nhwc.transpose(2, 3).reshape(batch, -1, window * window, channels)


def from_windows(windows: torch.Tensor, window: int, height: int, width: int) -> torch.Tensor:
    """Inverse of `to_windows` for a grid of `height` x `width` cells."""
    batch, _, _, channels = windows.shape
    x_nhwc = windows.view(batch, height // window, width // window, window, window, channels)
    return x_nhwc.transpose(2, 3).reshape(batch, height, width, channels)


def region_ids(length: int, padded: int, window: int, shift: int, device: torch.device) -> torch.Tensor:
    """Which region each row (or column) of a rolled grid belongs to, (padded,): parts that were not neighbours, and padding."""
    index = torch.arange(padded, device=device)
    wrapped = (index >= padded - shift).long()
    is_padding = ((index + shift) % padded >= length).long()
    return wrapped + 2 * is_padding


def window_mask(height: int, width: int, padded_hw: tuple[int, int], window: int, shift: int, like: torch.Tensor) -> torch.Tensor:
    """Additive attention mask (windows, 1, N, N), N = window^2: 0 within a region, `MASKED` across regions."""
    rows = region_ids(height, padded_hw[0], window, shift, like.device)
    columns = region_ids(width, padded_hw[1], window, shift, like.device)
    regions = to_windows((rows[:, None] * 4 + columns[None, :])[None, :, :, None], window)[0, :, :, 0]
    across = regions[:, :, None] != regions[:, None, :]
    return across.to(like.dtype)[:, None] * MASKED


class WindowAttention(nn.Module):
    """Multi-head self-attention within windows, with a learned bias per relative position (Liu et al. 2021, eq. 4)."""

    position_index: torch.Tensor

    def __init__(self, channels: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads, self.scale = heads, (channels // heads) ** -0.5
        self.qkv = nn.Linear(channels, 3 * channels)
        self.out = nn.Linear(channels, channels)
        self.position_bias = nn.Parameter(torch.zeros((2 * window - 1) ** 2, heads))
        nn.init.trunc_normal_(self.position_bias, std=0.02)
        self.register_buffer("position_index", self._relative_index(window), persistent=False)

    def wire(self, scope: Scope, inputs: list[Axis], out: Axis | None) -> Axis:
        heads = scope.new(self.heads)
        mixed = (Grid(heads, scope.at("qkv").new(len(self.out.weight) // self.heads)),)
        scope.at("qkv").layers(inputs[0], (Grid(cells(3), mixed),))
        scope.tensor("position_bias", cells(len(self.position_bias)), heads)
        scope.branch("out")
        return scope.at("out").layers(mixed, inputs[0])

    @staticmethod
    def _relative_index(window: int) -> torch.Tensor:
        """Row of the bias table for each pair of cells of one window, (N, N)."""
        cells = torch.cartesian_prod(torch.arange(window), torch.arange(window))
        offsets = cells[:, None] - cells[None, :] + window - 1
        return offsets[..., 0] * (2 * window - 1) + offsets[..., 1]

    def forward(self, windows: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Windows (B, nW, N, C), mask (nW, 1, N, N) -> (B, nW, N, C)."""
        batch, count, cells, channels = windows.shape
        qkv = self.qkv(windows).view(batch, count, cells, 3, self.heads, -1).permute(3, 0, 1, 4, 2, 5)
        query, key, value = qkv[0], qkv[1], qkv[2]
        bias = self.position_bias[self.position_index].permute(2, 0, 1)
        logits = query @ key.transpose(-2, -1) * self.scale + bias + mask
        mixed = logits.softmax(-1).to(value.dtype) @ value
        return self.out(mixed.transpose(2, 3).reshape(batch, count, cells, channels))


class SwinBlock(nn.Module):
    """Window attention and MLP, each with layer norm before and a residual path, on (B, H, W, C)."""

    def __init__(self, channels: int, heads: int, window: int, shift: int, mlp_ratio: float) -> None:
        super().__init__()
        self.window, self.shift = window, shift
        self.norm1, self.norm2 = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.attention = WindowAttention(channels, heads, window)
        hidden = int(channels * mlp_ratio)
        self.mlp = nn.Sequential(nn.Linear(channels, hidden), nn.GELU(), nn.Linear(hidden, channels))

    def wire(self, scope: Scope, inputs: list[Axis], out: Axis | None) -> Axis:
        for name in ("norm1", "attention", "norm2", "mlp"):
            scope.at(name).layers(inputs[0], inputs[0])
        scope.at("mlp").branch("2")
        return inputs[0]

    def forward(self, x_nhwc: torch.Tensor) -> torch.Tensor:
        height, width = x_nhwc.shape[1], x_nhwc.shape[2]
        pad_h, pad_w = (self.window - height % self.window) % self.window, (self.window - width % self.window) % self.window
        padded = F.pad(self.norm1(x_nhwc), (0, 0, 0, pad_w, 0, pad_h))
        padded_hw = (height + pad_h, width + pad_w)
        mask = window_mask(height, width, padded_hw, self.window, self.shift, padded)
        mixed = self.attention(to_windows(roll(padded, self.shift), self.window), mask)
        mixed = self._unroll(from_windows(mixed, self.window, *padded_hw), padded_hw)[:, :height, :width]
        x_nhwc = x_nhwc + mixed
        return x_nhwc + self.mlp(self.norm2(x_nhwc))

    def _unroll(self, x_nhwc: torch.Tensor, padded_hw: tuple[int, int]) -> torch.Tensor:
        if self.shift == 0:
            return x_nhwc
        rows, columns = padded_hw[0] - self.shift, padded_hw[1] - self.shift
        x_nhwc = torch.cat((x_nhwc[:, rows:], x_nhwc[:, :rows]), 1)
        return torch.cat((x_nhwc[:, :, columns:], x_nhwc[:, :, :columns]), 2)


@BLOCKS.register("Swin")
class Swin(nn.Module):
    """`repeats` Swin blocks, windows plain and shifted in turn (W-MSA, SW-MSA): (B, C, H, W) -> (B, C, H, W).

    Row: `[-1, 2, Swin, [window, head_channels, mlp_ratio]]`. The paper is silent on the window; 8 divides the grids of
    common image sizes where Swin's 7 would pad them.
    """

    @staticmethod
    def rule(site: Site) -> Plan:
        channels = one_input(site)
        return Plan(channels, (channels, site.repeats, *site.args))

    def __init__(self, channels: int, repeats: int, window: int = 8, head_channels: int = 32, mlp_ratio: float = 4.0) -> None:
        super().__init__()
        if channels % head_channels:
            raise UserError(f"expected channels divisible by head_channels {head_channels}, got {channels} channels")
        heads = channels // head_channels
        shifts = [0 if i % 2 == 0 else window // 2 for i in range(repeats)]
        self.blocks = nn.Sequential(*(SwinBlock(channels, heads, window, shift, mlp_ratio) for shift in shifts))

    def wire(self, scope: Scope, inputs: list[Axis], out: Axis) -> Axis:
        return scope.at("blocks").layers(inputs[0])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.blocks(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


@BLOCKS.register("PatchMerging")
class PatchMerging(nn.Module):
    """Halve the grid: 2x2 neighbours side by side, layer norm, linear. (B, C, H, W) -> (B, C_out, ceil(H/2), ceil(W/2))."""

    rule = staticmethod(to_channels)

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * c_in)
        self.reduce = nn.Linear(4 * c_in, c_out, bias=False)

    def wire(self, scope: Scope, inputs: list[Axis], out: Axis) -> Axis:
        return scope.chain(["norm", "reduce"], inputs[0] * 4, out)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.pad(x.permute(0, 2, 3, 1), (0, 0, 0, x.shape[3] % 2, 0, x.shape[2] % 2))
        corners = (x[:, 0::2, 0::2], x[:, 1::2, 0::2], x[:, 0::2, 1::2], x[:, 1::2, 1::2])
        return self.reduce(self.norm(torch.cat(corners, -1))).permute(0, 3, 1, 2)


@BLOCKS.register("MergeConv")
class MergeConv(nn.Module):
    """Patch merging beside a strided 3x3 conv, summed: Swin's way to halve the grid, and YOLOv5's, whose weights load.

    Patch merging alone has no counterpart in a network of convs. Beside a conv that starts from one it starts at zero.
    Row: `[-1, 1, MergeConv, [channels]]`. (B, C, H, W) -> (B, C_out, ceil(H / 2), ceil(W / 2)).
    """

    rule = staticmethod(to_channels)

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.conv = Conv(c_in, c_out, 3, 2)
        self.merge = PatchMerging(c_in, c_out)

    def wire(self, scope: Scope, inputs: list[Axis], out: Axis) -> Axis:
        given = scope.at("conv").as_unit("Conv").layers(inputs[0], out)
        merge = scope.at("merge").as_unit("PatchMerging")
        merge.branch("reduce")
        return merge.layers(inputs[0], given)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x) + self.merge(x)
