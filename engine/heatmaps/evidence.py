"""The evidence map: the head's own scores, cell by cell, at their highest over classes, anchors and levels. Forward only."""

from __future__ import annotations

import torch
from torch.nn import functional

from engine.heatmaps.cells import Cells


def evidence(cells: Cells, height: int, width: int) -> torch.Tensor:
    """Return (height, width), 0 to 1, of an image of that size in input pixels."""
    maps = []
    best = cells.scores.amax(0)
    for start, anchors, rows, columns, _ in cells.levels:
        level = best[start : start + anchors * rows * columns].view(anchors, rows, columns).amax(0)
        maps.append(enlarge(level, height, width))
    return torch.stack(maps).amax(0)


def enlarge(map_2d: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Return a map (h, w) at the input's size, bilinear."""
    return functional.interpolate(map_2d[None, None].float(), (height, width), mode="bilinear", align_corners=False)[0, 0]
