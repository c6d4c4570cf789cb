"""Bare metal: rolled strip, brushed sheet, castings, turned faces."""

from __future__ import annotations

import numpy as np

from data.drawn.materials.finish import end_within, metal_colour, tinted
from data.drawn.noise import Rng, clouds, log_uniform, noise
from data.drawn.surface import Surface


def rolled(rng: Rng, size: int, unit: float) -> Surface:
    """Return hot- or cold-rolled strip: mottled, with lines along the rolling direction and grain from faint to coarse."""
    angle = rng.choice((0.0, np.pi / 2)) + rng.normal(0, 0.04)
    grain = log_uniform(rng, 1.5, 22)
    colour = metal_colour(rng)
    level = colour.mean() + rng.uniform(1, 12) * noise(rng, size, 60 * unit, 30 * unit, angle)
    level += grain * rng.uniform(0.1, 0.9) * noise(rng, size, 50 * unit, 1.2 * unit, angle)
    level += grain * rng.uniform(0.1, 0.8) * noise(rng, size, 6 * unit, rng.uniform(1, 2.5) * unit, angle)
    level += grain * rng.uniform(0.3, 0.9) * noise(rng, size, 1)
    if rng.random() < 0.3:  # uneven cooling; without outlines, or it would be patches
        level += rng.uniform(3, 14) * clouds(rng, size, 60 * unit, 3, stretch=2, angle=angle)
    return Surface(tinted(level, colour), float(angle), grain, unit)


def brushed(rng: Rng, size: int, unit: float) -> Surface:
    """Return brushed or ground sheet: fine long lines at any angle."""
    angle = rng.uniform(0, np.pi) if rng.random() < 0.5 else rng.choice((0, np.pi / 2))
    grain = log_uniform(rng, 2, 18)
    colour = metal_colour(rng, 60, 215)
    level = colour.mean() + rng.uniform(0, 8) * noise(rng, size, 80 * unit)
    for length, share in ((150, 0.8), (40, 0.7), (12, 0.4)):
        level += grain * share * rng.uniform(0.4, 1) * noise(rng, size, length * unit, rng.uniform(1, 1.8), angle)
    return end_within(rng, Surface(tinted(level, colour), float(angle), grain, unit), 0.25)


def cast(rng: Rng, size: int, unit: float) -> Surface:
    """Return a casting, as cast or blasted: rough, lit from one side, without direction."""
    grain = log_uniform(rng, 4, 20)
    colour = metal_colour(rng, 45, 180)
    height = clouds(rng, size, rng.uniform(4, 14) * unit, 4, rng.uniform(0.6, 0.9))
    slope = height - np.roll(height, (1, 1), (0, 1))
    level = colour.mean() + grain * (slope / (slope.std() + 1e-6) * 0.8 + 0.5 * height)
    level += rng.uniform(2, 10) * noise(rng, size, 70 * unit)
    return end_within(rng, Surface(tinted(level, colour), float(rng.uniform(0, np.pi)), grain, unit), 0.4)


def turned(rng: Rng, size: int, unit: float) -> Surface:
    """Return a turned or milled face: arcs of tool marks, evenly spaced."""
    y, x = np.mgrid[0:size, 0:size].astype(np.float32)
    centre = size / 2 + rng.uniform(0.2, 2.5) * size * np.array([np.cos(t := rng.uniform(0, 6.3)), np.sin(t)])
    radius = np.hypot(x - centre[0], y - centre[1])
    pitch, grain = max(rng.uniform(2, 9) * unit, 2.2), log_uniform(rng, 2, 14)
    colour = metal_colour(rng, 70, 210)
    profile = noise(rng, int(radius.max()) + 2, 1.5)[0]  # one line of noise, the same all around
    level = colour.mean() + grain * (0.7 * np.sin(2 * np.pi * radius / pitch) + 0.8 * profile[radius.astype(int)])
    level += rng.uniform(1, 10) * noise(rng, size, 60 * unit) + 0.3 * grain * noise(rng, size, 1)
    return end_within(rng, Surface(tinted(level, colour), float(t + np.pi / 2), grain, unit), 0.35)
