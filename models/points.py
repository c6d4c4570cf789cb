"""The points of a pyramid of anchor-free predictions, and which of them answer for which ground-truth box."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class PointGrid:
    """The A = sum of H * W points of a pyramid: cell middles, level after level, row after row within a level."""

    xy: Tensor  # (A, 2) input pixels
    stride: Tensor  # (A,) pixels per cell
    counts: tuple[int, ...]  # points of each level

    @classmethod
    def of(
        cls, shapes: Sequence[tuple[int, int]], strides: Sequence[float], device: torch.device | str = "cpu"
    ) -> PointGrid:
        """The points of grids of the given heights and widths."""
        points, per_point = [], []
        for (height, width), stride in zip(shapes, strides, strict=True):
            rows = torch.arange(height, device=device, dtype=torch.float32) + 0.5
            columns = torch.arange(width, device=device, dtype=torch.float32) + 0.5
            y, x = torch.meshgrid(rows, columns, indexing="ij")
            points.append(torch.stack((x, y), -1).view(-1, 2) * float(stride))
            per_point.append(torch.full((height * width,), float(stride), device=device))
        return cls(torch.cat(points), torch.cat(per_point), tuple(len(p) for p in points))

    def __len__(self) -> int:
        return len(self.stride)


@dataclass(frozen=True)
class PointAssignment:
    """For each of the A points of each of B images the ground-truth box it answers for."""

    target: Tensor  # (B, A) int64, row of the box in the batch's list of boxes, -1 for background
    boxes_xyxy: Tensor  # (B, A, 4) that box in input pixels; undefined for background

    def positives(self) -> tuple[Tensor, Tensor]:
        """Image index and point index of the M points that answer for a box, each (M,)."""
        image, point = (self.target >= 0).nonzero(as_tuple=True)
        return image, point


def pixel_boxes(batch: Mapping[str, Tensor], device: torch.device | str) -> Tensor:
    """Boxes (N, 4) x1, y1, x2, y2 in input pixels of a batch's `bboxes` (N, 4) xywh, 0..1 of `img` (B, 3, H, W)."""
    height, width = batch["img"].shape[-2:]
    size = torch.tensor([width, height, width, height], device=device, dtype=torch.float32)
    centre, extent = (batch["bboxes"].to(device).float().reshape(-1, 4) * size).split(2, 1)
    return torch.cat((centre - extent / 2, centre + extent / 2), 1)


def decode_distances(distances: Tensor, points_xy: Tensor) -> Tensor:
    """Boxes (..., 4) x1, y1, x2, y2 from distances left, top, right, bottom (..., 4) from points (..., 2), one unit."""
    return torch.cat((points_xy - distances[..., :2], points_xy + distances[..., 2:]), -1)


def encode_distances(boxes_xyxy: Tensor, points_xy: Tensor) -> Tensor:
    """Distances left, top, right, bottom (..., 4) from points (..., 2) to the sides of boxes (..., 4), in one unit."""
    return torch.cat((points_xy - boxes_xyxy[..., :2], boxes_xyxy[..., 2:] - points_xy), -1)
