"""Covered sheet: metal-coated (zinc, tin), painted, and film or plastic."""

from __future__ import annotations

import cv2
import numpy as np

from data.drawn.materials.finish import end_within, metal_colour, tinted
from data.drawn.noise import Rng, clouds, log_uniform, noise
from data.drawn.surface import Surface, random_colour


def _crystals(rng: Rng, size: int, mean_side: float) -> np.ndarray:
    """Return a level of mean 0 for each crystal (H, W): the cells nearest to strewn points."""
    seeds = np.full((size, size), 255, np.uint8)
    count = max(int((size / mean_side) ** 2), 6)
    seeds[rng.integers(0, size, count), rng.integers(0, size, count)] = 0
    _, cells = cv2.distanceTransformWithLabels(seeds, cv2.DIST_L2, 3, labelType=cv2.DIST_LABEL_CCOMP)
    return rng.standard_normal(int(cells.max()) + 1).astype(np.float32)[cells]


def coated(rng: Rng, size: int, unit: float) -> Surface:
    """Return zinc- or tin-coated sheet: bright, with crystals (spangle) or a smooth cloudy film."""
    grain = log_uniform(rng, 1.5, 10)
    colour = metal_colour(rng, 90, 215)
    level = colour.mean() + grain * 0.5 * noise(rng, size, 1)
    if rng.random() < 0.6:
        level += rng.uniform(3, 16) * cv2.GaussianBlur(_crystals(rng, size, rng.uniform(8, 40) * unit), (3, 3), 0.7)
    else:
        level += rng.uniform(2, 12) * clouds(rng, size, 50 * unit, 3, stretch=rng.uniform(1, 4))
    angle = rng.choice((0.0, np.pi / 2))
    level += grain * rng.uniform(0, 0.8) * noise(rng, size, 70 * unit, 1.5, angle)
    return end_within(rng, Surface(tinted(level, colour), float(angle), grain, unit), 0.2)


def painted(rng: Rng, size: int, unit: float) -> Surface:
    """Return a painted or lacquered panel in any colour: smooth, orange peel, or metallic flakes."""
    colour = random_colour(rng, 15, 230, 0.8)
    grain = log_uniform(rng, 0.8, 7)
    level = colour.mean() + grain * rng.uniform(0.3, 1) * clouds(rng, size, rng.uniform(3, 8) * unit, 2)
    if rng.random() < 0.35:
        level += grain * rng.uniform(0.5, 1.5) * np.abs(noise(rng, size, 1))
    level += rng.uniform(0, 6) * noise(rng, size, 90 * unit)
    return end_within(rng, Surface(tinted(level, colour), float(rng.uniform(0, np.pi)), grain, unit), 0.35)


def film(rng: Rng, size: int, unit: float) -> Surface:
    """Return plastic film, rubber, paper or leather: matt and nearly even, or with a pressed grain."""
    colour = random_colour(rng, 20, 235, 0.35)
    grain = log_uniform(rng, 0.8, 9)
    height = noise(rng, size, rng.uniform(2, 6) * unit)
    if rng.random() < 0.5:
        height = np.minimum(np.abs(height), 1.2) * 1.5
    level = colour.mean() + grain * height + rng.uniform(0, 8) * clouds(rng, size, 60 * unit, 2)
    return Surface(tinted(level, colour), float(rng.uniform(0, np.pi)), grain, unit)
