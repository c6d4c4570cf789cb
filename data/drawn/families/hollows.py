"""Families of hollows: pits, fields of pits, rolled-in scale, blowholes, holes in cloth."""

from __future__ import annotations

import cv2
import numpy as np

from data.drawn.noise import Rng, log_uniform, noise
from data.drawn.shapes import blob, edge, jagged, local, norm, stroke
from data.drawn.surface import Surface, random_colour, shift


def pit(rng: Rng, surface: Surface) -> np.ndarray:
    """Return the change (H, W, 3) of a pit: a small hollow, dark towards the light, with a bright far rim."""
    radius = max(surface.length(rng, 2.5, 9), 2.0)
    angle = rng.uniform(0, 2 * np.pi)
    along, across = local(surface.size, surface.place(rng), angle)
    distance = norm(along, across * rng.uniform(1.0, 1.5)) + 0.12 * radius * noise(rng, surface.size, 3)
    inside = edge(distance - radius, 1.5)
    rim = np.exp(-(((distance - radius) / (0.22 * radius + 0.6)) ** 2))
    shade = np.tanh(along / (0.5 * radius))
    change = inside * (0.35 * shade - 0.8) + 0.5 * rim * (shade > 0) * (1 - inside)
    return shift(change, -surface.sign(rng, 0.9) * surface.contrast(rng, 2, 6))


def _flecks(rng: Rng, surface: Surface, count: int, radius: float, stretch: float, angle: float) -> np.ndarray:
    """Return a mask (H, W) of `count` small spots, strewn over a region of `radius`, drawn out `stretch` times."""
    size, unit, scale = surface.size, surface.unit, 16
    canvas = np.zeros((size, size), np.uint8)
    offsets = rng.normal(0, radius / 2, (count, 2)) * (stretch, 1)
    turn = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    spots = surface.place(rng) + offsets @ turn
    longest = rng.uniform(1.0, 4.0)
    for (x, y), half in zip(spots, rng.gamma(2, log_uniform(rng, 0.25, 1.2), count) * unit + 0.5):
        axes = (int(half * rng.uniform(1, longest) * scale), int(half * scale))
        cv2.ellipse(canvas, ((int(x * scale)), int(y * scale)), axes, np.degrees(angle) + rng.normal(0, 12), 0, 360,
                    int(rng.integers(110, 256)), -1, cv2.LINE_AA, 4)
    return canvas.astype(np.float32) / 255


def pitting(rng: Rng, surface: Surface) -> np.ndarray:
    """Return the change of a pitted region: many small dark spots close together."""
    count = int(log_uniform(rng, 12, 200))
    mask = _flecks(rng, surface, count, surface.length(rng, 12, 90), rng.uniform(1, 2), surface.angle)
    return shift(mask, surface.sign(rng, 0.9) * surface.contrast(rng, 1.5, 4))


def scale(rng: Rng, surface: Surface) -> np.ndarray:
    """Return the change of rolled-in scale: flecks drawn out in one direction on a faintly darker ground."""
    angle = surface.angle + rng.choice((0, np.pi / 2)) + rng.normal(0, 0.15)
    radius, stretch = surface.length(rng, 12, 70), rng.uniform(1.2, 3)
    mask = _flecks(rng, surface, int(log_uniform(rng, 6, 45)), radius, stretch, angle)
    ground = cv2.GaussianBlur(mask, (0, 0), max(5 * surface.unit, 1.0)) * rng.uniform(0, 0.8)
    ragged = (1 + 0.5 * noise(rng, surface.size, 2.5 * surface.unit)).clip(0, 1.6)
    return shift(np.maximum(mask * ragged, ground), surface.sign(rng, 0.8) * surface.contrast(rng, 1.5, 4.5))


def blowhole(rng: Rng, surface: Surface) -> np.ndarray:
    """Return the change of a gas hole, or a few: deep, round, nearly black, one wall in the light."""
    size, centre = surface.size, surface.place(rng)
    radius = max(surface.length(rng, 4, 22), 3.0)
    depth, wall = rng.uniform(0.5, 0.95), rng.uniform(0.1, 0.5)
    change = np.zeros((size, size, 3), np.float32)
    light = rng.uniform(0, 2 * np.pi)
    for _ in range(1 if rng.random() < 0.7 else rng.integers(2, 5)):
        along, across = local(size, centre, light)
        distance = norm(along, across * rng.uniform(0.8, 1.25)) + 0.08 * radius * noise(rng, size, radius)
        inside = edge(distance - radius, 1.8)
        lit = np.clip(along / radius, 0, 1) ** 2 * inside
        hole = -depth * inside[..., None] * surface.pixels + shift(lit, wall * 120)
        change = np.where(inside[..., None] > 0.02, hole, change)
        centre, radius = centre + rng.normal(0, 2 * radius, 2), max(radius * rng.uniform(0.4, 0.9), 2.0)
    return change


def hole(rng: Rng, surface: Surface) -> np.ndarray:
    """Return the change of a hole or tear in cloth: the ground shows through, torn threads hang into it."""
    size = surface.size
    radius = max(surface.length(rng, 4, 20), 3.0)
    centre, angle = surface.place(rng), surface.angle + rng.choice((0, np.pi / 2)) + rng.normal(0, 0.3)
    mask = edge(blob(rng, size, centre, radius, 0.3, rng.uniform(1, 3), angle), 1.5)
    ground = random_colour(rng, 2, 40) if surface.sign(rng, 0.8) < 0 else random_colour(rng, 200, 250, 0.1)
    for _ in range(rng.integers(0, 6)):
        start = centre + rng.normal(0, radius, 2)
        hanging = stroke(size, jagged(rng, start, rng.uniform(0, 2 * np.pi), radius * rng.uniform(0.8, 1.6), 0.3),
                         np.full(64, max(surface.unit, 1.0)))
        mask = mask * (1 - hanging)
    return surface.towards(mask, ground)
