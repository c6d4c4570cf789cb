"""Families of relief, seen by their shading alone: wrinkles, dents, blisters."""

from __future__ import annotations

import numpy as np

from data.drawn.noise import Rng, noise
from data.drawn.shapes import edge, local, norm
from data.drawn.surface import Surface, shift


def wrinkle(rng: Rng, surface: Surface) -> np.ndarray:
    """Return the change (H, W, 3) of one to five wavy folds side by side, bright on one flank, dark on the other."""
    size, unit = surface.size, surface.unit
    along, across = local(size, surface.place(rng), rng.uniform(0, np.pi))
    width, length = surface.length(rng, 2.5, 9), surface.length(rng, 30, 180)
    count = int(rng.integers(1, 6))
    bent = across + rng.uniform(0.5, 2) * width * noise(rng, size, length / 2)
    spread = 2.8 * width * count / 2
    folds = np.sin(2 * np.pi * bent / (2.8 * width)) * (1 + 0.3 * noise(rng, size, 20 * unit))
    taper = edge(np.abs(along) - length / 2 * (1 + 0.3 * noise(rng, size, 3 * width)), 0.35 * length)
    mask = edge(np.abs(bent) - spread / 2, width) * taper
    return shift(mask * folds, 0.8 * surface.contrast(rng, 1.2, 4))


def _bump(along: np.ndarray, across: np.ndarray, radius: float, sharp: float) -> np.ndarray:
    """Return the shading of a round bump lit along its first axis; `sharp` from 0, a soft swelling, to 1, a firm rim."""
    distance = norm(along, across) / radius
    rim = np.exp(-(((distance - 0.75) / (0.5 - 0.25 * sharp)) ** 2))
    return rim * along / (radius * (distance + 0.15))


def dent(rng: Rng, surface: Surface) -> np.ndarray:
    """Return the change of a dent: a wide shallow hollow, shaded on one side and lit on the other."""
    radius = surface.length(rng, 6, 35)
    along, across = local(surface.size, surface.place(rng), rng.uniform(0, 2 * np.pi))
    shade = _bump(along, across * rng.uniform(0.7, 1.4), radius, rng.uniform(0, 0.7))
    return shift(shade, 0.9 * surface.contrast(rng, 1.5, 4))


def blister(rng: Rng, surface: Surface) -> np.ndarray:
    """Return the change of a blister or a cluster of them: small firm bumps with a highlight."""
    size, centre = surface.size, surface.place(rng)
    light = rng.uniform(0, 2 * np.pi)
    radius = max(surface.length(rng, 3, 14), 2.5)
    change = np.zeros((size, size), np.float32)
    for _ in range(1 if rng.random() < 0.6 else rng.integers(2, 8)):
        along, across = local(size, centre, light)
        glint = np.exp(-(((along - 0.4 * radius) ** 2 + across**2) / (0.25 * radius) ** 2))
        change += _bump(along, across, radius, rng.uniform(0.5, 1)) + rng.uniform(0.2, 1.2) * glint
        centre, radius = centre + rng.normal(0, 2.2 * radius, 2), max(radius * rng.uniform(0.5, 1.1), 2.0)
    return shift(change, surface.contrast(rng, 1.5, 4))
