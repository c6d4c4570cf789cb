"""Rates of frames, as cameras and files give them."""

from __future__ import annotations


def believable_fps(fps: float) -> float:
    """Return frames per second as a source tells them, 0 where it tells its clock's ticks (90,000), NaN or nothing."""
    return fps if 0.01 <= fps < 1000 else 0.0
