"""Frames and their rates, as cameras and files give them, in one form."""

from __future__ import annotations

import cv2
import numpy as np


def as_bgr(image: np.ndarray) -> np.ndarray:
    """Return a picture of 1, 3 or 4 channels, 8 or 16 bits, as (H, W, 3) BGR uint8; 16 bits keep their high byte."""
    eight = (image >> 8).astype(np.uint8) if image.dtype == np.uint16 else image
    channels = 1 if eight.ndim == 2 else eight.shape[2]
    if channels == 3:
        return eight
    return cv2.cvtColor(eight, cv2.COLOR_GRAY2BGR if channels == 1 else cv2.COLOR_BGRA2BGR)


def believable_fps(fps: float) -> float:
    """Return frames per second as a source tells them, 0 where it tells its clock's ticks (90,000), NaN or nothing."""
    return fps if 0.01 <= fps < 1000 else 0.0
