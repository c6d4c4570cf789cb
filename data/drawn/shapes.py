"""Shapes on a pixel grid: coordinates, masks with soft edges, lines. Arrays are float32 (H, W), lengths in pixels."""

from __future__ import annotations

import cv2
import numpy as np

from data.drawn.noise import Rng, noise


def local(
    size: int, centre: np.ndarray, angle: float, dtype: type[np.floating] = np.float32
) -> tuple[np.ndarray, np.ndarray]:
    """Return coordinates (H, W) along and across `angle`, in pixels from `centre` (x, y)."""
    x = np.arange(size, dtype=dtype)[None] - dtype(centre[0])
    y = np.arange(size, dtype=dtype)[:, None] - dtype(centre[1])
    cos, sin = dtype(np.cos(angle)), dtype(np.sin(angle))
    return x * cos + y * sin, -x * sin + y * cos


def norm(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the length of vectors, a fifth of the time of `np.hypot`, which minds numbers too large to square."""
    return np.sqrt(x * x + y * y)


def edge(level: np.ndarray, softness: float) -> np.ndarray:
    """Return a mask in [0, 1]: 1 where `level` is well below 0, 0 well above, a ramp of `softness` between."""
    return np.clip(0.5 - level / softness, 0, 1).astype(np.float32)


def path(rng: Rng, centre: np.ndarray, angle: float, length: float, bend: float) -> np.ndarray:
    """Return points (m, 2) of a bent line through `centre`."""
    t = np.linspace(-0.5, 0.5, max(int(length), 8))
    side = bend * length * (np.cos(np.pi * t) - 0.6) + np.cumsum(rng.normal(0, 0.12, len(t)))
    side -= side.mean()
    along = np.array([np.cos(angle), np.sin(angle)])
    return centre + np.outer(t * length, along) + np.outer(side, (-along[1], along[0]))


def jagged(rng: Rng, start: np.ndarray, angle: float, length: float, unrest: float) -> np.ndarray:
    """Return points (m, 2) of a line that changes its direction by about `unrest` radians every few pixels."""
    steps = max(int(length / 4), 3)
    turns = angle + np.cumsum(rng.normal(0, unrest * 0.5, steps)) + rng.normal(0, unrest, steps)
    moves = np.column_stack([np.cos(turns), np.sin(turns)]) * (length / steps)
    return start + np.vstack([np.zeros(2), np.cumsum(moves, axis=0)])


def stroke(size: int, points: np.ndarray, widths: np.ndarray, scale: int = 2) -> np.ndarray:
    """Return a mask (H, W) in [0, 1] of a line with a width for each point, drawn `scale` times as large."""
    canvas = np.zeros((size * scale, size * scale), np.uint8)
    for (a, b), width in zip(zip(points[:-1] * scale, points[1:] * scale), widths):
        cv2.line(canvas, tuple(map(int, a)), tuple(map(int, b)), 255, max(int(round(width * scale)), 1), cv2.LINE_8)
    return cv2.resize(canvas, (size, size), interpolation=cv2.INTER_AREA).astype(np.float32) / 255


def blob(rng: Rng, size: int, centre: np.ndarray, radius: float, ragged: float, stretch: float = 1.0,
         angle: float = 0.0) -> np.ndarray:
    """Return levels (H, W) of an irregular shape: pixels from its outline, negative inside.

    Args:
        ragged: how far the outline strays from an ellipse, as a share of `radius`.
        stretch: length over width; `radius` is the half width, `angle` the direction of the length.
    """
    half = int(2 * radius * stretch) + 2  # only the part of the image that the shape can reach
    corner = np.floor(centre).astype(int) - half
    side = 2 * half + 1
    along, across = local(side, centre - corner, angle)
    distance = norm(along / stretch, across)
    lobes = noise(rng, side, max(radius * stretch / 2, 1.5), max(radius / 2, 1.5), angle)
    window = np.where(distance > 1.8 * radius, radius, distance - radius + ragged * radius * lobes)
    return _placed(window.astype(np.float32), size, corner, radius)


def _placed(window: np.ndarray, size: int, corner: np.ndarray, around: float) -> np.ndarray:
    """Return an image (size, size) of the value `around`, with `window` at `corner` (x, y), which may lie outside."""
    picture = np.full((size, size), around, np.float32)
    (x1, y1), (x2, y2) = np.maximum(corner, 0), np.minimum(corner + window.shape[0], size)
    if x1 < x2 and y1 < y2:
        picture[y1:y2, x1:x2] = window[y1 - corner[1]:y2 - corner[1], x1 - corner[0]:x2 - corner[0]]
    return picture
