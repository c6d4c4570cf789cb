"""Geometry of boxes."""

from __future__ import annotations

import numpy as np


def iou(a_xyxy: np.ndarray, b_xyxy: np.ndarray) -> np.ndarray:
    """Intersection over union of every pair, (A, B)."""
    sides = np.minimum(a_xyxy[:, None, 2:], b_xyxy[None, :, 2:]) - np.maximum(a_xyxy[:, None, :2], b_xyxy[None, :, :2])
    common = sides.clip(min=0).prod(2)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(1) for boxes in (a_xyxy, b_xyxy)]
    overlap: np.ndarray = common / np.maximum(areas[0][:, None] + areas[1][None] - common, 1e-12)
    return overlap
