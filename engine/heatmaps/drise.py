"""D-RISE: which parts of an image a box needs, from random masks alone, for any runtime (Petsiuk et al., CVPR 2021).

Differs from the paper: runtimes give each box one class, so that class similarity is 1 or 0; and a few hundred masks are
taken rather than 5,000, each with its opposite, which evens out how often a place is seen. What is covered gets the image's
mean, not black, which may look like a defect.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch.nn import functional

from data.review.suspects import iou
from engine.heatmaps.layercam import normalised

MASKS, GRID = 300, 12  # masks in all; cells of a mask along the image

Detect = Callable[[torch.Tensor], np.ndarray]  # (1, 3, H, W) -> (n, 6): x1 y1 x2 y2 score class, in its pixels


def drise(detect: Detect, pixels: torch.Tensor, boxes_xyxy: np.ndarray, classes: np.ndarray, masks: int = MASKS,
          seed: int = 0) -> list[torch.Tensor]:  # fmt: skip
    """Return a map (H, W), 0 to 1, for each box found in an image (1, 3, H, W)."""
    height, width = pixels.shape[-2:]
    random = torch.Generator().manual_seed(seed)
    mean = pixels.mean((2, 3), keepdim=True)
    totals, seen = torch.zeros(len(boxes_xyxy), height, width), torch.zeros(height, width)
    for _ in range(masks // 2):
        mask = _mask(height, width, random)
        for kept in (mask, 1 - mask):
            weights = _similarity(detect(mean + (pixels - mean) * kept.to(pixels)), boxes_xyxy, classes)
            totals += torch.from_numpy(weights).float()[:, None, None] * kept
            seen += kept
    heat = totals / seen.clamp(min=1e-6)
    return [normalised((one - one.mean()).relu()) for one in heat]  # the mean: what a place that does not matter gets


def _mask(height: int, width: int, random: torch.Generator) -> torch.Tensor:
    """A mask (H, W) of smooth patches: a random grid of zeros and ones, enlarged, and cut at a random place."""
    cell = -(-height // GRID), -(-width // GRID)
    grid = (torch.rand(1, 1, GRID + 1, GRID + 1, generator=random) < 0.5).float()
    large = functional.interpolate(grid, ((GRID + 1) * cell[0], (GRID + 1) * cell[1]), mode="bilinear", align_corners=False)[0, 0]
    top, left = (int(torch.randint(0, side, (1,), generator=random)) for side in cell)
    return large[top : top + height, left : left + width]


def _similarity(found: np.ndarray, boxes_xyxy: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """How well each box (n,) is found again: the highest IoU times score of a box of its class."""
    overlap = iou(boxes_xyxy, found[:, :4]) * found[:, 4]
    same = np.asarray(classes)[:, None] == found[:, 5]
    again: np.ndarray = np.where(same, overlap, 0.0).max(1, initial=0.0)
    return again
