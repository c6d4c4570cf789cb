"""Draw synthetic steel: rolled texture, uneven light, four kinds of defects, and harmless marks that resemble them.

All images are float32 arrays (H, W) in grey levels; lengths are in pixels. Every function draws from the generator it
is given and from nothing else, so an image depends on its seed alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

from data.drawn.noise import Rng
from data.drawn.shapes import edge, path, stroke
from data.drawn.shapes import local as local_coordinates


@dataclass
class Plate:
    """A plate while it is drawn: grey levels (H, W), rolling direction in radians, strength of its texture (std).

    `difficulty` says how small, thin and faint its defects may be: 1 as much as any, 0 none but the largest and clearest.
    """

    grey: np.ndarray
    angle: float
    grain: float
    difficulty: float = 1.0

    @property
    def size(self) -> int:
        """Side of the square image in pixels."""
        return self.grey.shape[0]

    def least(self, low: float, high: float) -> float:
        """Return the lower limit of a measure of defects that reaches from `low` at difficulty 1 to `high`."""
        return low**self.difficulty * high ** (1 - self.difficulty)

    def length(self, rng: Rng, low: float, high: float) -> float:
        """Return a defect's length in pixels; `low` and `high` are those of a 256-pixel plate, log-uniform between them."""
        return float(np.exp(rng.uniform(np.log(self.least(low, high)), np.log(high)))) * self.size / 256

    def width(self, rng: Rng, low: float, high: float) -> float:
        """Return a defect's width, in the unit of `low` and `high`, uniform between them."""
        return rng.uniform(self.least(low, high), high)


def smooth_noise(rng: Rng, size: int, along: float, across: float, angle: float = 0.0) -> np.ndarray:
    """Return noise (size, size) of mean 0 and std 1, smooth over `along` pixels in direction `angle`, else `across`."""
    big = int(size * 1.5) + 8
    step_x, step_y = max(int(along / 3), 1), max(int(across / 3), 1)  # smooth noise needs few points: 10 times faster
    noise: np.ndarray = rng.standard_normal((big // step_y + 1, big // step_x + 1), dtype=np.float32)
    noise = cv2.GaussianBlur(noise, (0, 0), along / step_x, sigmaY=across / step_y)
    noise = cv2.resize(noise, (big, big), interpolation=cv2.INTER_CUBIC)
    if angle:
        turn = cv2.getRotationMatrix2D((big / 2, big / 2), -np.degrees(angle), 1.0)
        noise = cv2.warpAffine(noise, turn, (big, big), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    start = (big - size) // 2
    noise = noise[start:start + size, start:start + size]
    return (noise - noise.mean()) / (noise.std() + 1e-6)


def draw_plate(rng: Rng, size: int, difficulty: float = 1.0) -> Plate:
    """Return a defect-free plate: base grey, uneven light, mottling, rolling lines and grain; `difficulty` as in `Plate`."""
    unit = size / 256
    angle = rng.choice((0.0, np.pi / 2)) + rng.normal(0, 0.06)
    base, grain = rng.uniform(70, 190), rng.uniform(2.5, 7.0)
    y, x = np.mgrid[0:size, 0:size].astype(np.float32) / size - 0.5
    direction, slope = rng.uniform(0, 2 * np.pi), rng.uniform(0, 75)
    centre, fall = rng.uniform(-0.4, 0.4, 2), rng.uniform(0, 60)
    light = slope * (x * np.cos(direction) + y * np.sin(direction))
    light -= fall * ((x - centre[0]) ** 2 + (y - centre[1]) ** 2)
    grey = base + light
    grey += rng.uniform(1, 6) * smooth_noise(rng, size, 60 * unit, 40 * unit, angle)
    grey += grain * rng.uniform(0.5, 1.0) * smooth_noise(rng, size, 45 * unit, 1.1, angle)
    grey += grain * rng.uniform(0.4, 0.9) * smooth_noise(rng, size, 5 * unit, 0.9, angle)
    grey += grain * rng.uniform(0.3, 0.7) * smooth_noise(rng, size, 0.7, 0.7)
    return Plate(grey.astype(np.float32), float(angle), float(grain), difficulty)


def _local(size: int, centre: np.ndarray, angle: float) -> tuple[np.ndarray, np.ndarray]:
    """Return coordinates in float64: in float32 the images of earlier versions would differ in single pixels."""
    return local_coordinates(size, centre, angle, np.float64)


def scratch(rng: Rng, plate: Plate, centre: np.ndarray) -> np.ndarray:
    """Return the change of grey (H, W) of a scratch: a thin bent groove at any angle, bright with a dark flank."""
    size, unit = plate.size, plate.size / 256
    length = plate.length(rng, 18, 125)
    angle = plate.angle + rng.uniform(0.25, np.pi - 0.25)  # never along the rolling lines: those are harmless
    points = path(rng, centre, angle, length, rng.uniform(-0.12, 0.12))
    taper = np.sin(np.linspace(0.15, np.pi - 0.15, len(points)))
    widths = plate.width(rng, 1.0, 2.6) * np.sqrt(unit) * (0.5 + 0.5 * taper)
    core = stroke(size, points, widths, scale=4) * (1 + 0.25 * smooth_noise(rng, size, 4, 4)).clip(0.3, 1.6)
    flank = stroke(size, points + rng.choice((-1, 1)) * np.array([1.2, 1.2]), widths, scale=4)
    change = core - rng.uniform(0.2, 0.6) * flank * (1 - core.clip(0, 1))
    return _defect_contrast(rng, plate, 2.6, 7.0) * change * (1 if rng.random() < 0.75 else -1)


def pit(rng: Rng, plate: Plate, centre: np.ndarray) -> np.ndarray:
    """Return the change of grey of a pit: a small round hollow, dark on the side of the light, bright on the other."""
    radius = max(plate.length(rng, 3.2, 13), 3.0)
    along, across = _local(plate.size, centre, rng.uniform(0, np.pi))
    distance = np.hypot(along, across * rng.uniform(1.0, 1.35))
    distance += 0.12 * radius * smooth_noise(rng, plate.size, 3, 3)
    inside = edge(distance - radius, 1.5)
    rim = np.exp(-((distance - radius) / (0.22 * radius + 0.6)) ** 2)
    shade = np.tanh(along / (0.5 * radius))  # one light for the plate would be truer; a free one is harder
    return _defect_contrast(rng, plate, 3.0, 7.0) * (inside * (0.35 * shade - 0.8) + 0.45 * rim * (shade > 0) * (1 - inside))


def inclusion(rng: Rng, plate: Plate, centre: np.ndarray) -> np.ndarray:
    """Return the change of grey of an inclusion: dark ragged stringers, drawn out along the rolling direction."""
    length = plate.length(rng, 14, 100)
    width = max(length * plate.width(rng, 0.10, 0.28), 4.0)
    along, across = _local(plate.size, centre, plate.angle + rng.normal(0, 0.04))
    ragged = smooth_noise(rng, plate.size, max(length / 9, 2.5), 1.5, plate.angle)
    level = (2 * along / length) ** 2 + (2 * across / width) ** 2 - 1 + 0.5 * ragged
    far = (np.abs(along) > 0.62 * length) | (np.abs(across) > 0.75 * width)
    mask = edge(np.where(far, 9.0, level), 0.45)
    return -_defect_contrast(rng, plate, 2.4, 6.0) * mask * (1 + 0.2 * ragged).clip(0.4, 1.5)


def patch(rng: Rng, plate: Plate, centre: np.ndarray) -> np.ndarray:
    """Return the change of grey of a patch: a large blotch with a lobed, crisp outline and a coarse surface."""
    unit = plate.size / 256
    radius = plate.length(rng, 14, 64)
    along, across = _local(plate.size, centre, plate.angle)
    lobes = smooth_noise(rng, plate.size, radius / 2.6, radius / 2.6)
    distance = np.hypot(along * rng.uniform(0.75, 1.0), across * rng.uniform(1.0, 1.4)) + 0.26 * radius * lobes
    far = np.hypot(along, across) > 1.35 * radius
    mask = edge(np.where(far, radius, distance - radius), rng.uniform(3, 7) * unit)
    coarse = smooth_noise(rng, plate.size, 2.2, 2.2)
    sign = -1 if rng.random() < 0.7 else 1
    return _defect_contrast(rng, plate, 1.2, 4.0) * mask * (sign + rng.uniform(0.35, 0.7) * coarse)


def _defect_contrast(rng: Rng, plate: Plate, low: float, high: float) -> float:
    """Return a contrast as `_contrast` does, for what is to be found: an easy plate has no faint defects."""
    return _contrast(rng, plate, plate.least(low, high), high)


def _contrast(rng: Rng, plate: Plate, low: float, high: float) -> float:
    """Return a contrast in grey levels, between `low` and `high` times the plate's grain, faint ones more often."""
    return plate.grain * (low + (high - low) * rng.random() ** 1.5) + rng.uniform(0, 6)


def rolling_streak(rng: Rng, plate: Plate) -> np.ndarray:
    """Return a harmless streak: straight along the rolling direction, from edge to edge, soft."""
    _, across = _local(plate.size, rng.uniform(0, plate.size, 2), plate.angle)
    width = rng.uniform(0.7, 3.0)
    wave = 1 + 0.4 * smooth_noise(rng, plate.size, 40, 3, plate.angle)
    return rng.choice((-1, 1)) * _contrast(rng, plate, 0.8, 3.2) * np.exp(-(across / width) ** 2) * wave


def water_mark(rng: Rng, plate: Plate) -> np.ndarray:
    """Return a dried drop: a thin pale ring around nothing."""
    radius = rng.uniform(5, 26) * plate.size / 256
    along, across = _local(plate.size, rng.uniform(0, plate.size, 2), rng.uniform(0, np.pi))
    distance = np.hypot(along, across * rng.uniform(1.0, 1.4)) + 0.1 * radius * smooth_noise(rng, plate.size, 7, 7)
    ring = np.exp(-((distance - radius) / 1.4) ** 2) - 0.12 * (distance < radius)
    return rng.choice((-1, 1)) * _contrast(rng, plate, 1.2, 3.0) * ring


def shade(rng: Rng, plate: Plate) -> np.ndarray:
    """Return a stain of light or oil: as large and dark as a patch, but without an outline or a surface of its own."""
    radius = rng.uniform(15, 55) * plate.size / 256
    along, across = _local(plate.size, rng.uniform(0, plate.size, 2), plate.angle)
    bump = np.exp(-(along / (radius * rng.uniform(1.0, 2.0))) ** 2 - (across / radius) ** 2)
    return rng.choice((-1, 1)) * _contrast(rng, plate, 1.5, 4.5) * bump


def speck(rng: Rng, plate: Plate) -> np.ndarray:
    """Return dust: a handful of dots, too small to be pits, bright or dark."""
    change = np.zeros((plate.size, plate.size), np.float32)
    for x, y in rng.integers(2, plate.size - 2, (rng.integers(2, 9), 2)):
        change[y, x] = rng.choice((-1, 1)) * rng.uniform(0.7, 1.5)
    return _contrast(rng, plate, 3.0, 6.0) * cv2.GaussianBlur(change, (3, 3), 0.7) * 2.5


DEFECTS: dict[str, Callable[[Rng, Plate, np.ndarray], np.ndarray]] = {
    "scratch": scratch, "pit": pit, "inclusion": inclusion, "patch": patch}
HARMLESS: tuple[Callable[[Rng, Plate], np.ndarray], ...] = (rolling_streak, water_mark, shade, speck)
