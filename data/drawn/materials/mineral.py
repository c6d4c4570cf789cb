"""Ceramic tile and glass."""

from __future__ import annotations

import numpy as np

from data.drawn.materials.finish import end_within, tinted
from data.drawn.noise import Rng, clouds, log_uniform, noise
from data.drawn.shapes import edge, local
from data.drawn.surface import Surface, random_colour


def _tile_pattern(rng: Rng, size: int, unit: float, grain: float) -> np.ndarray:
    """Return the pattern of a glaze (H, W), mean about 0: plain, speckled, marbled or lined like wood."""
    kind = rng.integers(4)
    if kind == 1:
        specks = noise(rng, size, rng.uniform(1.2, 4) * unit) > rng.uniform(1.2, 2)
        return -rng.uniform(3, 10) * grain * specks.astype(np.float32)
    if kind == 2:
        veins = np.exp(-((clouds(rng, size, rng.uniform(25, 80) * unit, 4, 0.55) / rng.uniform(0.08, 0.3)) ** 2))
        return rng.uniform(-5, 3) * grain * veins + grain * clouds(rng, size, 50 * unit)
    if kind == 3:
        return 2 * grain * noise(rng, size, 90 * unit, rng.uniform(2, 8) * unit, rng.choice((0, np.pi / 2)))
    return grain * 0.5 * clouds(rng, size, 30 * unit)


def tile(rng: Rng, size: int, unit: float) -> Surface:
    """Return glazed ceramic: plain or patterned, in one piece or as several tiles with joints between them."""
    colour, grain = random_colour(rng, 40, 235, 0.3), log_uniform(rng, 1, 8)
    level = colour.mean() + _tile_pattern(rng, size, unit, grain) + 0.5 * grain * noise(rng, size, 1)
    pixels, angle = tinted(level, colour), rng.normal(0, 0.03)
    if rng.random() < 0.4:
        side, joint = rng.uniform(60, 160) * unit, max(rng.uniform(2, 6) * unit, 1.5)
        u, v = local(size, rng.uniform(0, size, 2), angle)
        gap = side / 2 - np.maximum(np.abs(u % side - side / 2), np.abs(v % side - side / 2))
        joints = edge(gap - joint / 2, 1.5)[..., None]
        grout = random_colour(rng, 30, 210, 0.1) + rng.uniform(2, 12) * noise(rng, size, 1)[..., None]
        pixels = pixels * (1 - joints) + grout * joints
        return Surface(pixels, float(angle), grain, unit)
    return end_within(rng, Surface(pixels, float(angle), grain, unit), 0.5)


def glass(rng: Rng, size: int, unit: float) -> Surface:
    """Return a pane or bottle wall: very even, with what lies behind it blurred, and soft reflections."""
    colour, grain = random_colour(rng, 15, 240, 0.2), log_uniform(rng, 0.4, 3)
    level = colour.mean() + rng.uniform(1, 18) * clouds(rng, size, rng.uniform(60, 150) * unit, 2)
    for _ in range(rng.integers(0, 3)):
        _, across = local(size, rng.uniform(0, size, 2), rng.uniform(0, np.pi))
        level += rng.uniform(-10, 35) * np.exp(-((across / (rng.uniform(8, 50) * unit)) ** 2))
    level += grain * noise(rng, size, 1)
    return end_within(rng, Surface(tinted(level, colour), float(rng.uniform(0, np.pi)), grain, unit), 0.5)
