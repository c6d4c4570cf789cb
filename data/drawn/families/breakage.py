"""Families of missing or added matter: chips, broken edges, foreign bodies."""

from __future__ import annotations

import cv2
import numpy as np

from data.drawn.noise import Rng, noise
from data.drawn.shapes import blob, edge, jagged, local, path, stroke
from data.drawn.surface import Surface, random_colour, shift


def _polygon(rng: Rng, size: int, centre: np.ndarray, radius: float, corners: int) -> np.ndarray:
    """Return a mask (H, W) in [0, 1] of an irregular polygon."""
    angles = np.sort(rng.uniform(0, 2 * np.pi, corners)) + rng.uniform(0, 1)
    radii = radius * rng.uniform(0.55, 1.25, corners)
    points = centre + np.column_stack([np.cos(angles), np.sin(angles)]) * radii[:, None]
    canvas = np.zeros((size, size), np.uint8)
    cv2.fillPoly(canvas, [np.round(points * 16).astype(np.int32)], 255, cv2.LINE_AA, 4)
    return canvas.astype(np.float32) / 255


def chip(rng: Rng, surface: Surface) -> np.ndarray:
    """Return the change (H, W, 3) of a chip or flake: the layer below shows, in facets, with a lit and a dark rim."""
    size, centre = surface.size, surface.place(rng)
    radius = max(surface.length(rng, 4, 26), 3.0)
    if rng.random() < 0.5:
        mask = _polygon(rng, size, centre, radius, int(rng.integers(5, 11)))
    else:
        mask = edge(blob(rng, size, centre, radius, 0.3, rng.uniform(1, 2), rng.uniform(0, np.pi)), 1.5)
    below = random_colour(rng, 10, 90) if surface.sign(rng, 0.5) < 0 else random_colour(rng, 150, 245, 0.2)
    along, _ = local(size, centre, rng.uniform(0, 2 * np.pi))
    facets = np.sign(noise(rng, size, radius)) * rng.uniform(0, 25) + 8 * noise(rng, size, 2)
    inner = cv2.blur(mask, (3, 3))
    rim = (mask - cv2.blur(mask, (5, 5))).clip(0, 1) * np.sign(along) * rng.uniform(40, 120)
    return surface.towards(inner, below) + shift(inner, 1.0) * facets[..., None] + shift(rim, 1.0)


def broken_edge(rng: Rng, surface: Surface) -> np.ndarray | None:
    """Return the change of a piece broken off the work piece's edge, ``None`` where no edge is in the image."""
    if surface.part is None:
        return None
    mask, behind = surface.part.mask, surface.part.behind
    ys, xs = np.nonzero((mask > 0.3) & (mask < 0.7))
    if not len(xs):
        return None
    i, size = int(rng.integers(len(xs))), surface.size
    centre, radius = np.array([xs[i], ys[i]], np.float64), max(surface.length(rng, 6, 30), 4.0)
    if rng.random() < 0.6:
        gone = _polygon(rng, size, centre, radius, int(rng.integers(5, 12)))
    else:
        gone = edge(blob(rng, size, centre, radius, 0.35), 1.5)
    fracture = cv2.GaussianBlur(gone, (0, 0), max(0.2 * radius, 1.0)) * (1 - gone) * mask
    rough = (1 + 0.6 * noise(rng, size, 2.5)).clip(0, 2)
    return gone[..., None] * mask[..., None] * (behind - surface.pixels) + shift(
        fracture * rough, surface.sign(rng, 0.4) * surface.contrast(rng, 1, 3))


def foreign_body(rng: Rng, surface: Surface) -> np.ndarray:
    """Return the change of something that lies on the surface, with its shadow: a fibre, a shaving, a lump or a drop."""
    size, unit, centre = surface.size, surface.unit, surface.place(rng)
    kind = rng.integers(3)
    if kind == 0:
        length = surface.length(rng, 20, 110)
        bent = path(rng, centre, rng.uniform(0, np.pi), length, rng.uniform(-0.5, 0.5))
        points = bent if rng.random() < 0.6 else jagged(rng, centre, rng.uniform(0, 6.3), length, 0.35)
        mask = stroke(size, points, np.full(len(points), rng.uniform(0.8, 2.2) * np.sqrt(unit)))
    elif kind == 1:
        mask = _polygon(rng, size, centre, max(surface.length(rng, 3.5, 16), 3.0), int(rng.integers(3, 8)))
    else:
        mask = edge(blob(rng, size, centre, max(surface.length(rng, 3, 14), 2.5), 0.15, rng.uniform(1, 2)), 1.5)
    step = np.array([[1, 0, rng.uniform(-3, 3) * unit], [0, 1, rng.uniform(-3, 3) * unit]], np.float32)
    shadow = cv2.GaussianBlur(cv2.warpAffine(mask, step, (size, size)), (0, 0), 1.2) * (1 - mask)
    level = float(surface.pixels[::8, ::8].mean())
    body = random_colour(rng, 150, 250, 0.4) if level < 110 else random_colour(rng, 5, 90, 0.6)
    sheen = shift(mask * noise(rng, size, 3), rng.uniform(3, 20))
    return surface.towards(mask, body) + sheen - rng.uniform(0, 0.5) * shadow[..., None] * surface.pixels
