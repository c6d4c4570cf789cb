"""Feature adaptor: mixes a map along its height, its width and its channels (SDD FTI-FDet, eq. 5; Hou et al. 2023)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cfg import UserError


class FeatureAdaptor(nn.Module):
    """Weighted Permute-MLP of Vision Permutator: `FC(X_H + X_W + X_C)`, the three weighted by a softmax per channel.

    The channels are cut into S segments. Each is permuted so that the height comes last, the segments are joined there,
    and one fully connected layer mixes S * H numbers; likewise along the width. So the grid is fixed when the layer is
    built: another one (multi-scale training, validation of another shape) is resized to it and back.

    (B, C, H, W) -> (B, C, H, W).

    Args:
        channels: C, a multiple of `segments`.
        grid_hw: height and width in cells of the training images' grid.
        segments: S, `dim` in Table VI.
    """

    def __init__(self, channels: int, grid_hw: tuple[int, int], segments: int = 4) -> None:
        super().__init__()
        if channels % segments:
            raise UserError(f"dim: expected a divisor of a level's {channels} channels, got {segments}; try smaller")
        self.grid_hw, self.segments = tuple(grid_hw), segments
        height, width = self.grid_hw
        self.height = nn.Linear(segments * height, segments * height)
        self.width = nn.Linear(segments * width, segments * width)
        self.channel = nn.Linear(channels, channels)
        hidden = max(channels // 4, 1)
        self.weigh = nn.Sequential(nn.Linear(channels, hidden), nn.GELU(), nn.Linear(hidden, 3 * channels))
        self.out = nn.Linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        grid = x.shape[2:]
        if tuple(grid) == self.grid_hw:
            return self._mix(x)
        mixed = self._mix(F.interpolate(x, size=self.grid_hw, mode="bilinear", align_corners=False))
        return F.interpolate(mixed, size=grid, mode="bilinear", align_corners=False)

    def _mix(self, x: Tensor) -> Tensor:
        x = x.contiguous()  # two of the three mixtures have channels first: all of it then, and back at the end
        three = (self.along_height(x), self.along_width(x), self.along_channels(x))
        means = torch.stack([part.mean((2, 3)) for part in three], 1).sum(1)
        weights = self.weigh(means).unflatten(1, (3, -1)).softmax(1).unsqueeze(-1).unsqueeze(-1)
        first, second, third = (part * weights[:, i] for i, part in enumerate(three))
        mixed = self._pointwise(self.out, first + second + third)
        return mixed.contiguous(memory_format=torch.channels_last)  # as the student's head has its own features

    def along_height(self, x: Tensor) -> Tensor:
        """`X_H`: (B, C, H, W) -> (B, C, H, W)."""
        segments = x.unflatten(1, (self.segments, -1)).permute(0, 2, 4, 1, 3)  # (B, C / S, W, S, H)
        mixed = self.height(segments.flatten(3)).unflatten(3, (self.segments, -1))
        return mixed.permute(0, 3, 1, 4, 2).flatten(1, 2)

    def along_width(self, x: Tensor) -> Tensor:
        """`X_W`: (B, C, H, W) -> (B, C, H, W)."""
        segments = x.unflatten(1, (self.segments, -1)).permute(0, 2, 3, 1, 4)  # (B, C / S, H, S, W)
        mixed = self.width(segments.flatten(3)).unflatten(3, (self.segments, -1))
        return mixed.permute(0, 3, 1, 2, 4).flatten(1, 2)

    def along_channels(self, x: Tensor) -> Tensor:
        """`X_C`: (B, C, H, W) -> (B, C, H, W)."""
        return self._pointwise(self.channel, x)

    @staticmethod
    def _pointwise(layer: nn.Linear, x: Tensor) -> Tensor:
        return F.conv2d(x, layer.weight[:, :, None, None], layer.bias)
