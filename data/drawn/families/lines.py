"""Families of lines: scratches, cracks, crazing, faulty threads."""

from __future__ import annotations

import numpy as np

from data.drawn.noise import Rng, log_uniform, noise
from data.drawn.shapes import blob, edge, jagged, local, path, stroke
from data.drawn.surface import Surface, shift


def scratch(rng: Rng, surface: Surface) -> np.ndarray:
    """Return the change (H, W, 3) of a scratch: a thin groove, a bundle of them, or a broad scraped band."""
    kind = rng.random()
    if kind < 0.2:
        return _scraped_band(rng, surface)
    centre, angle = surface.place(rng), rng.uniform(0, np.pi)
    length = surface.length(rng, 15, 220)
    mask = np.zeros((surface.size, surface.size), np.float32)
    for _ in range(1 if kind < 0.8 else rng.integers(2, 6)):
        points = path(rng, centre + rng.normal(0, 4 * surface.unit, 2), angle + rng.normal(0, 0.06),
                      length * rng.uniform(0.6, 1), rng.uniform(-0.12, 0.12))
        taper = np.sin(np.linspace(0.15, np.pi - 0.15, len(points)))
        widths = rng.uniform(0.8, 2.6) * np.sqrt(surface.unit) * (0.5 + 0.5 * taper)
        mask = np.maximum(mask, stroke(surface.size, points, widths))
    mask *= (1 + 0.3 * noise(rng, surface.size, 4)).clip(0.25, 1.5)
    change = mask
    if rng.random() < 0.5:  # the groove's other flank
        change = mask - float(rng.uniform(0.2, 0.7)) * np.roll(mask, rng.choice((-1, 1)) * 2, rng.integers(2)) * (1 - mask)
    return shift(change, surface.sign(rng, 0.3) * surface.contrast(rng, 1.5, 5))


def _scraped_band(rng: Rng, surface: Surface) -> np.ndarray:
    """Return the change of a band scraped along or across the texture, streaked along its length, often through all."""
    angle = surface.angle + rng.choice((0, np.pi / 2)) + rng.normal(0, 0.03)
    along, across = local(surface.size, surface.place(rng), angle)
    width, length = surface.length(rng, 2, 16), surface.length(rng, 60, 400)
    streaks = noise(rng, surface.size, 60 * surface.unit, 1.2, angle)
    level = np.abs(across) - width / 2 * (1 + 0.25 * noise(rng, surface.size, 15 * surface.unit))
    mask = edge(level, 1.5) * edge(np.abs(along) - length / 2, 6 * surface.unit)
    return shift(mask * (1 + 0.4 * streaks).clip(0.1, 1.8), surface.sign(rng, 0.2) * surface.contrast(rng, 1, 4))


def crack(rng: Rng, surface: Surface) -> np.ndarray:
    """Return the change of a crack: a dark jagged line of uneven width, with branches."""
    length, angle = surface.length(rng, 25, 200), rng.uniform(0, 2 * np.pi)
    start = surface.place(rng) - 0.4 * length * np.array([np.cos(angle), np.sin(angle)])
    trunk = jagged(rng, start, angle, length, 0.45)
    width = rng.uniform(0.8, 2.4) * np.sqrt(surface.unit)
    mask = stroke(surface.size, trunk, np.linspace(width, 0.4 * width, len(trunk)))
    for _ in range(rng.integers(0, 4)):
        i = int(rng.integers(1, len(trunk)))
        aside = angle + rng.choice((-1, 1)) * rng.uniform(0.4, 1.2)
        fork = jagged(rng, trunk[i], aside, length * rng.uniform(0.15, 0.4), 0.45)
        mask = np.maximum(mask, stroke(surface.size, fork, np.linspace(0.7 * width, 0.3 * width, len(fork))))
    return shift(mask * rng.uniform(0.8, 1.2), surface.sign(rng, 0.85) * surface.contrast(rng, 2, 5))


def crazing(rng: Rng, surface: Surface) -> np.ndarray:
    """Return the change of crazing: a net of fine cracks all over a region, mostly drawn out in one direction."""
    size = surface.size
    radius, stretch = surface.length(rng, 18, 90), rng.uniform(1, 2)
    angle = surface.angle + rng.choice((0, np.pi / 2)) + rng.normal(0, 0.1)
    region = edge(blob(rng, size, surface.place(rng), radius, 0.3, stretch, angle), 0.4 * radius)
    mesh = log_uniform(rng, 3, 13) * surface.unit
    width = rng.uniform(0.10, 0.25)
    lines = np.zeros((size, size), np.float32)
    for _ in range(2):  # the zero crossings of noise are thin closed lines
        field = noise(rng, size, mesh * rng.uniform(1, 3), mesh, angle + rng.normal(0, 0.3))
        lines = np.maximum(lines, np.exp(-((field / width) ** 2)))
    broken = edge(noise(rng, size, 2.5 * mesh) - rng.uniform(0, 0.8), 0.6)
    return shift(region * lines * broken, surface.sign(rng, 0.85) * surface.contrast(rng, 1.5, 4))


def thread(rng: Rng, surface: Surface) -> np.ndarray:
    """Return the change of a faulty thread along warp or weft: missing, thick, or of another colour."""
    pitch = surface.pitch or 4 * surface.unit
    along, across = local(surface.size, surface.place(rng), surface.angle + rng.choice((0, np.pi / 2)))
    length = surface.length(rng, 40, 400)
    width = pitch * rng.uniform(0.8, 2.2)
    wave = pitch * 0.3 * noise(rng, surface.size, 30 * surface.unit)
    mask = edge(np.abs(across + wave) - width / 2, 1.5) * edge(np.abs(along) - length / 2, 2 * pitch)
    ripple = 1 + 0.35 * np.cos(np.pi * along / pitch)
    return shift(mask * ripple, surface.sign(rng, 0.5) * surface.contrast(rng, 1.2, 3))
