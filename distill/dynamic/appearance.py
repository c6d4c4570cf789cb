"""Appearance encoder: what each object looks like on one pyramid level (SDD FTI-FDet, eq. 2)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def mask_pool(features: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    """Mean of a map over each object's cells: (B, C, H, W), (B, M, H), (B, M, W) -> (B, M, C); 0 for empty masks.

    A sum over the mask, divided by its area, so that an object's size does not show in its embedding.
    """
    inside = torch.einsum("bchw,bmw,bmh->bmc", features, columns, rows)
    area = rows.sum(2) * columns.sum(2)
    return inside / area.clamp(min=1)[..., None]


class AppearanceEncoder(nn.Module):
    """`F_proj` of eq. 2 (1x1 conv, norm, ReLU), then the mean over each object: (B, C, H, W) -> (B, M, C)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        conv = nn.Conv2d(channels, channels, 1, bias=False)  # a bias would drown features of a small scale
        self.project = nn.Sequential(conv, nn.GroupNorm(1, channels), nn.ReLU())

    def forward(self, features: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
        return mask_pool(self.project(features), rows, columns)
