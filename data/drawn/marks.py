"""Harmless things on a surface, which are not labelled: dust, streaks, drops, shades, seams, lettering."""

from __future__ import annotations

import cv2
import numpy as np

from data.drawn.noise import Rng, log_uniform, noise
from data.drawn.shapes import local, norm
from data.drawn.surface import Surface, random_colour, shift


def dust(rng: Rng, surface: Surface) -> np.ndarray:
    """Return the change (H, W, 3) of some dots, too small to be pits."""
    change = np.zeros((surface.size, surface.size), np.float32)
    for x, y in rng.integers(2, surface.size - 2, (rng.integers(2, 16), 2)):
        change[y, x] = rng.choice((-1, 1)) * rng.uniform(0.7, 1.5)
    return shift(cv2.GaussianBlur(change, (3, 3), 0.6) * 2, rng.uniform(10, 35))


def streak(rng: Rng, surface: Surface) -> np.ndarray:
    """Return the change of a soft straight streak along the texture, from border to border."""
    _, across = local(surface.size, rng.uniform(0, surface.size, 2), surface.angle)
    width = log_uniform(rng, 1, 25) * surface.unit
    return shift(np.exp(-((across / width) ** 2)), rng.choice((-1, 1)) * rng.uniform(4, 16))


def shade(rng: Rng, surface: Surface) -> np.ndarray:
    """Return the change of a shadow or reflection: large, without an outline."""
    along, across = local(surface.size, rng.uniform(0, surface.size, 2), rng.uniform(0, np.pi))
    radius = rng.uniform(20, 70) * surface.unit
    bump = np.exp(-((along / (radius * rng.uniform(1, 2.5))) ** 2) - (across / radius) ** 2)
    return shift(bump, rng.choice((-1, 1)) * rng.uniform(5, 35))


def drop(rng: Rng, surface: Surface) -> np.ndarray:
    """Return the change of a dried drop: a faint ring."""
    radius = rng.uniform(5, 26) * surface.unit
    along, across = local(surface.size, rng.uniform(0, surface.size, 2), rng.uniform(0, np.pi))
    distance = norm(along, across * rng.uniform(1, 1.4)) + 0.1 * radius * noise(rng, surface.size, 7)
    return shift(np.exp(-(((distance - radius) / 1.3) ** 2)), rng.choice((-1, 1)) * rng.uniform(4, 11))


def seam(rng: Rng, surface: Surface) -> np.ndarray:
    """Return the change of a straight seam or step from border to border: one side slightly darker, a fine line between."""
    _along, across = local(surface.size, rng.uniform(0.2, 0.8, 2) * surface.size, surface.angle + rng.choice((0, np.pi / 2)))
    line = np.exp(-((across / rng.uniform(0.8, 2)) ** 2)) * rng.uniform(-14, 14)
    return shift(line + rng.uniform(-18, 18) * (across > 0), 1.0)


def lettering(rng: Rng, surface: Surface) -> np.ndarray:
    """Return the change of some printed or stamped characters and a frame, as boards and parts carry."""
    size = surface.size
    canvas = np.zeros((size, size), np.uint8)
    text = "".join(rng.choice(list("ABCDEFGHKLMNPRSTUXYZ0123456789-"), rng.integers(1, 7)))
    height = max(rng.uniform(0.25, 0.7) * surface.unit, 0.3)
    where = tuple(int(v) for v in rng.uniform(0, 0.85, 2) * size)
    cv2.putText(canvas, text, where, cv2.FONT_HERSHEY_SIMPLEX, height, 255, max(int(1.5 * surface.unit), 1), cv2.LINE_AA)
    if rng.random() < 0.3:
        corner = tuple(int(v) for v in np.array(where) + rng.uniform(10, 50, 2) * surface.unit)
        cv2.rectangle(canvas, where, corner, 255, 1)
    if rng.random() < 0.4:
        canvas = np.rot90(canvas).copy()
    colour = random_colour(rng, 200, 250, 0.05) if surface.pixels[::8, ::8].mean() < 130 else random_colour(rng, 5, 60, 0.2)
    return surface.towards(canvas.astype(np.float32) / 255 * rng.uniform(0.4, 1), colour)


MARKS = (dust, streak, shade, drop, seam)
