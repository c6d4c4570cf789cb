"""How a surface is lit (before its defects are measured) and photographed (after): light, lens, sensor, compression."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from data.drawn.noise import Rng, log_uniform, noise


@dataclass
class Light:
    """Light on a surface: pixels are multiplied by `gain` (H, W, 1 or 3) and `glare` (H, W, 1) is added."""

    gain: np.ndarray
    glare: np.ndarray

    def on(self, pixels: np.ndarray) -> np.ndarray:
        """Return lit pixels (H, W, 3)."""
        return pixels * self.gain + self.glare


def even_light(size: int) -> Light:
    """Return light that changes nothing."""
    return Light(np.ones((size, size, 1), np.float32), np.zeros((size, size, 1), np.float32))


def draw_light(rng: Rng, size: int, level: float, grey: bool) -> Light:
    """Return a light: a slope, a fall to the corners, cloudiness, a coloured lamp (unless `grey`) and sometimes glare.

    A surface of mean `level` is exposed so that it is neither black nor white, with few exceptions.
    """
    y, x = np.mgrid[0:size, 0:size].astype(np.float32) / size - 0.5
    heading = rng.uniform(0, 2 * np.pi)
    gain = 1 + rng.uniform(0, 0.7) * rng.random() * 2 * (x * float(np.cos(heading)) + y * float(np.sin(heading)))
    gain -= rng.uniform(0, 0.7) * rng.random() * ((x - rng.normal(0, 0.15)) ** 2 + (y - rng.normal(0, 0.15)) ** 2) * 2
    if rng.random() < 0.3:
        gain += rng.uniform(0.02, 0.08) * noise(rng, size, rng.uniform(0.2, 0.6) * size)
    gain = np.clip(gain * _exposure(rng, level), 0.35, 2.2)
    if grey:
        return Light(gain[..., None], _glare(rng, x, y))
    return Light(gain[..., None] * rng.normal(1, 0.05, 3).astype(np.float32), _glare(rng, x, y))


def _exposure(rng: Rng, level: float) -> float:
    """Return a gain about 1 that leaves a surface of mean `level` between 35 and 200, in nine images of ten."""
    gain = log_uniform(rng, 0.7, 1.35)
    if rng.random() < 0.1:
        return gain
    return float(np.clip(level * gain, 35, 200)) / max(level, 16.0)


def _glare(rng: Rng, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Return the mirror image of a lamp (H, W, 1), a soft spot or band, in one image of four."""
    if rng.random() > 0.25:
        return np.zeros((*x.shape, 1), np.float32)
    u, v, turn = x - rng.uniform(-0.6, 0.6), y - rng.uniform(-0.6, 0.6), rng.uniform(0, np.pi)
    cos, sin = float(np.cos(turn)), float(np.sin(turn))
    along, across = u * cos + v * sin, v * cos - u * sin
    spot = np.exp(-((across / rng.uniform(0.05, 0.3)) ** 2) - (along / rng.uniform(0.1, 3)) ** 2)
    return (spot * rng.uniform(15, 120))[..., None].astype(np.float32)


def photograph(rng: Rng, pixels: np.ndarray, grey: bool, clean: bool = False) -> np.ndarray:
    """Return the image (H, W, 3), uint8, that a camera makes of lit pixels (H, W, 3).

    Args:
        grey: the camera sees no colour; all three channels are the same.
        clean: a scanned binary image: no sensor noise, at most a little blur.
    """
    size = pixels.shape[0]
    if grey:
        pixels = cv2.cvtColor(np.ascontiguousarray(pixels, np.float32), cv2.COLOR_BGR2GRAY)
    if rng.random() < (0.25 if clean else 0.5):
        pixels = cv2.GaussianBlur(pixels, (0, 0), rng.uniform(0.35, 0.55 if clean else 0.9) * max(size / 200, 0.8))
    if not clean:
        strength = log_uniform(rng, 0.4, 5)
        pixels = pixels + np.float32(strength) * rng.standard_normal(pixels.shape, dtype=np.float32)
    picture = np.clip(pixels + 0.5, 0, 255).astype(np.uint8)
    if rng.random() < 0.25:
        quality = [cv2.IMWRITE_JPEG_QUALITY, int(rng.integers(45, 91))]
        picture = np.asarray(cv2.imdecode(cv2.imencode(".jpg", picture, quality)[1], cv2.IMREAD_UNCHANGED), np.uint8)
    return cv2.cvtColor(picture, cv2.COLOR_GRAY2BGR) if grey else picture
