"""Families of areas: inclusions, patches, stains."""

from __future__ import annotations

import numpy as np

from data.drawn.noise import Rng, clouds, noise
from data.drawn.shapes import blob, edge, local
from data.drawn.surface import Surface, random_colour, shift


def inclusion(rng: Rng, surface: Surface) -> np.ndarray:
    """Return the change (H, W, 3) of foreign matter within the material: one or several ragged stringers or lumps."""
    size, centre = surface.size, surface.place(rng)
    mask = np.zeros((size, size), np.float32)
    stretch = rng.uniform(1, 7) if rng.random() < 0.75 else 1.0
    width = max(surface.length(rng, 1.5, 9), 1.2)
    for _ in range(1 if rng.random() < 0.6 else rng.integers(2, 5)):
        level = blob(rng, size, centre, width, 0.45, stretch, surface.angle + rng.normal(0, 0.04))
        mask = np.maximum(mask, edge(level, 1.6))
        centre = centre + rng.normal(0, 4 * width + 3, 2)
    texture = (1 + 0.25 * noise(rng, size, 3, 1.5, surface.angle)).clip(0.3, 1.6)
    return shift(mask * texture, surface.sign(rng, 0.85) * surface.contrast(rng, 1.5, 5))


def patch(rng: Rng, surface: Surface) -> np.ndarray:
    """Return the change of a patch: a large region with a lobed outline and a surface of its own, crisp or soft."""
    size = surface.size
    radius = surface.length(rng, 10, 60)
    level = blob(rng, size, surface.place(rng), radius, rng.uniform(0.15, 0.4), rng.uniform(1, 2.5),
                 surface.angle + rng.choice((0, np.pi / 2)) + rng.normal(0, 0.1))
    mask = edge(level, rng.uniform(2, 14) * surface.unit)
    coarse = noise(rng, size, rng.uniform(1, 4) * surface.unit)
    texture = 1 + rng.uniform(0.1, 0.6) * coarse
    return shift(mask * texture, surface.sign(rng, 0.65) * surface.contrast(rng, 0.8, 3))


def stain(rng: Rng, surface: Surface) -> np.ndarray:
    """Return the change of a stain: coloured (rust, oil, water), cloudy, with an edge darker or paler than its middle."""
    size = surface.size
    radius = surface.length(rng, 7, 45)
    centre = surface.place(rng)
    level = blob(rng, size, centre, radius, rng.uniform(0.05, 0.3), rng.uniform(1, 1.8), rng.uniform(0, np.pi))
    inside = edge(level, rng.uniform(1.5, 8) * surface.unit)
    ring = np.exp(-((level / (0.12 * radius + 0.8)) ** 2)) * rng.uniform(0, 0.6)
    body = inside * (rng.uniform(0.3, 0.7) + 0.2 * clouds(rng, size, radius)).clip(0.1, 1)
    if rng.random() < 0.3:  # it ran down
        along, across = local(size, centre, rng.choice((0, np.pi / 2)))
        run = edge(np.abs(across) - 0.3 * radius, 2) * edge(np.abs(along - radius) - rng.uniform(1, 3) * radius, 3)
        body = np.maximum(body, 0.5 * run * (along > 0))
    opacity = np.clip(body + ring, 0, 1) * rng.uniform(0.6, 1)
    if surface.sign(rng, 0.75) < 0:
        return surface.towards(opacity, random_colour(rng, 10, 90, 0.6))
    return surface.towards(opacity, random_colour(rng, 180, 240, 0.25))
