"""Bring the student's features to the teacher's channels and grid."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from distill.base import Level


class Adapter(nn.Module):
    """`f` of Zhang et al. 2022, eq. 5: 1x1 conv to the teacher's channels, resized when the grids differ.

    (B, C_S, H_S, W_S) -> (B, C_T, H_T, W_T). With `always=False` equal channels are left as they are, not mixed.
    """

    def __init__(self, student: Level, teacher: Level, always: bool = True, bias: bool = True) -> None:
        super().__init__()
        mixes = always or student.channels != teacher.channels
        self.mix = nn.Conv2d(student.channels, teacher.channels, 1, bias=bias) if mixes else nn.Identity()

    def forward(self, features: torch.Tensor, grid_hw: tuple[int, int]) -> torch.Tensor:
        features = self.mix(features)
        if tuple(features.shape[-2:]) != tuple(grid_hw):
            features = F.interpolate(features, size=grid_hw, mode="bilinear", align_corners=False)
        return features
