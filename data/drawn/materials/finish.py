"""What several materials share: tinted relief, and the edge of a work piece."""

from __future__ import annotations

import cv2
import numpy as np

from data.drawn.noise import Rng, clouds, noise
from data.drawn.shapes import edge, local
from data.drawn.surface import Part, Surface, random_colour


def tinted(level: np.ndarray, colour: np.ndarray) -> np.ndarray:
    """Return pixels (H, W, 3) of grey levels (H, W), in the hue of `colour` (3,)."""
    return cv2.merge([level * np.float32(share) for share in colour / colour.mean()])  # numpy is slow along short axes


def metal_colour(rng: Rng, low: float = 45, high: float = 200) -> np.ndarray:
    """Return the colour (3,) of a metal: mostly nearly grey, now and then copper or brass."""
    if rng.random() < 0.15:
        return random_colour(rng, low, high, 0.05) * np.array([0.65, 1.0, 1.3], np.float32)
    return random_colour(rng, low, high, 0.07)


def end_within(rng: Rng, surface: Surface, chance: float) -> Surface:
    """With probability `chance` let the work piece end within the image: something else lies behind a straight edge."""
    if rng.random() >= chance:
        return surface
    size = surface.size
    angle = rng.choice((0, 0.5, 1, 1.5)) * np.pi + rng.normal(0, 0.08)
    centre = size / 2 + rng.uniform(0.1, 0.42) * size * np.array([np.cos(angle), np.sin(angle)])
    along, _ = local(size, centre, angle)
    along += rng.uniform(0, 0.6) * noise(rng, size, 8 * surface.unit)
    mask = edge(along, 1.5)
    behind = np.empty_like(surface.pixels)
    behind[:] = random_colour(rng, 5, 60, 0.3) if rng.random() < 0.7 else random_colour(rng, 170, 245, 0.1)
    behind += rng.uniform(0, 6) * clouds(rng, size, 60, 2)[..., None]
    bevel = np.exp(-(((along + 2) / rng.uniform(1, 3)) ** 2)) * rng.uniform(-50, 50)
    surface.pixels = mask[..., None] * (surface.pixels + bevel[..., None]) + (1 - mask[..., None]) * behind
    surface.part = Part(mask, behind)
    return surface
