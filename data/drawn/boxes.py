"""Boxes of what was drawn."""

from __future__ import annotations

import cv2
import numpy as np

MIN_SIDE = 6  # pixels; the smallest side of a box


def box_of(change: np.ndarray) -> np.ndarray | None:
    """Return the box `x1 y1 x2 y2` of the visible part of a change of grey (H, W), at least `MIN_SIDE` wide and high.

    Visible is what reaches 30 % of the strongest change, after a blur that takes single pixels out.
    """
    strength = cv2.GaussianBlur(np.abs(change).astype(np.float32), (3, 3), 0.8)
    peak = strength.max()
    visible = (strength > 0.3 * peak).astype(np.uint8)
    if peak < 1 or cv2.countNonZero(visible) < 6:
        return None
    size = change.shape[0]
    x, y, width, height = cv2.boundingRect(visible)
    corners = np.array([x, y, x + width, y + height], dtype=np.float64)
    for low, high in ((0, 2), (1, 3)):
        lack = max(MIN_SIDE - (corners[high] - corners[low]), 0) / 2
        corners[low], corners[high] = corners[low] - lack, corners[high] + lack
        move = max(-corners[low], 0) - max(corners[high] - size, 0)
        corners[[low, high]] += move
    return corners


def overlap(a: np.ndarray, b: np.ndarray) -> float:
    """Return the common area over the smaller area of two boxes `x1 y1 x2 y2`."""
    common = np.prod(np.clip(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0, None))
    return float(common / min(np.prod(a[2:] - a[:2]), np.prod(b[2:] - b[:2])))
