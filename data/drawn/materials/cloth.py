"""Fabric: plain weave, twill, ribs and mesh."""

from __future__ import annotations

import numpy as np

from data.drawn.noise import Rng, log_uniform, noise
from data.drawn.shapes import local
from data.drawn.surface import Surface, random_colour


def fabric(rng: Rng, size: int, unit: float) -> Surface:
    """Return woven cloth: warp and weft cross over and under, in one colour or two, slightly drawn out of line."""
    angle = rng.choice((0, np.pi / 4)) + rng.normal(0, 0.12)
    pitch = max(log_uniform(rng, 2.5, 10) * unit, 2.6)
    u, v = local(size, rng.uniform(0, size, 2), angle)
    warp = rng.uniform(0, 0.5) * pitch * noise(rng, size, 60 * unit)
    u, v = (u + warp) * np.pi / pitch, (v + warp) * np.pi / pitch
    across_u, across_v = np.abs(np.sin(u)), np.abs(np.sin(v))
    kind = rng.integers(4)
    if kind == 0:
        over = np.tanh(3 * np.sin(u) * np.sin(v))
    elif kind == 1:
        over = np.tanh(3 * np.sin((u + v) * rng.choice((0.5, 1))))
    elif kind == 2:
        over = np.full_like(u, rng.choice((-1, 1)))
    else:
        over = across_u - across_v
    share = (over + 1) / 2
    body = (share * across_u + (1 - share) * across_v)[..., None]
    first, grain = random_colour(rng, 30, 225, 0.6), log_uniform(rng, 3, 14)
    second = random_colour(rng, 30, 225, 0.6) if rng.random() < 0.3 else first * rng.uniform(0.8, 1.0)
    colour = share[..., None] * first + (1 - share[..., None]) * second
    fuzz = noise(rng, size, 1) + noise(rng, size, 5 * unit)
    depth = rng.uniform(0.1, 0.7)
    pixels = colour * (1 - depth + depth * body) + grain * 0.5 * fuzz[..., None]
    return Surface(pixels.astype(np.float32), float(angle), grain, unit, pitch=float(pitch))
