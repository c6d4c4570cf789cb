"""The layout of a circuit board: traces, pads, holes and copper areas, drawn free of contact with each other."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import cv2
import numpy as np

from data.drawn.noise import Rng, log_uniform

SHIFT = 4  # fractional bits of OpenCV's coordinates
STEPS = np.array([(1, 0), (1, 1), (0, 1), (-1, 1), (-1, 0), (-1, -1), (0, -1), (1, -1)])


@dataclass
class Circuit:
    """A layout (H, W): `copper` in [0, 1], `pads` what no solder mask covers, `holes` drilled, `substrate` and `conductor`
    the images (H, W, 3) of what lies bare and under copper; `traces` with their points (m, 2) and width in pixels.
    """

    size: int
    width: float
    copper: np.ndarray = field(init=False)
    pads: np.ndarray = field(init=False)
    holes: np.ndarray = field(init=False)
    drilled: list[tuple[float, float, float]] = field(default_factory=list)
    traces: list[tuple[np.ndarray, float]] = field(default_factory=list)
    substrate: np.ndarray = field(init=False)
    conductor: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.copper, self.pads, self.holes = (np.zeros((self.size, self.size), np.uint8) for _ in range(3))

    @cached_property
    def conducts(self) -> np.ndarray:
        """Where there is copper and no hole, (H, W), float32 in [0, 1]."""
        return self.copper.astype(np.float32) / 255 * (1 - self.holes.astype(np.float32) / 255)

    @cached_property
    def depth(self) -> np.ndarray:
        """Distance in pixels from the outline of the copper, (H, W): positive inside, negative outside."""
        solid = (self.conducts > 0.5).astype(np.uint8)
        return cv2.distanceTransform(solid, cv2.DIST_L2, 3) - cv2.distanceTransform(1 - solid, cv2.DIST_L2, 3)

    @cached_property
    def conductors(self) -> np.ndarray:
        """The number of the conductor that a pixel belongs to, (H, W): 0 for none."""
        return cv2.connectedComponents((self.conducts > 0.5).astype(np.uint8))[1]

    def change(self, conducts: np.ndarray) -> np.ndarray:
        """Return the change (H, W, 3) of the image when copper becomes `conducts` (H, W)."""
        return (conducts - self.conducts)[..., None] * (self.conductor - self.substrate)

    def pixels(self) -> np.ndarray:
        """Return the image (H, W, 3)."""
        return self.substrate + self.conducts[..., None] * (self.conductor - self.substrate)


def draw_circuit(rng: Rng, size: int, unit: float) -> Circuit:
    """Return a layout without images; traces are about 2 to 10 units wide."""
    circuit = Circuit(size, max(log_uniform(rng, 2.2, 9) * unit, 1.6))
    for part in rng.permutation(4):  # what comes first finds most room
        if part == 0 and rng.random() < 0.6:
            _copper_areas(rng, circuit)
        elif part == 1 and rng.random() < 0.7:
            _pad_row(rng, circuit)
        elif part == 2:
            for _ in range(rng.integers(5, 22)):
                _trace_bundle(rng, circuit)
        elif part == 3:
            for _ in range(rng.integers(0, 6)):
                _pad(rng, circuit, rng.uniform(0, size, 2), bool(rng.integers(2)), circuit.width * rng.uniform(1, 2.2))
    return circuit


def _fixed(points: np.ndarray) -> np.ndarray:
    return np.round(points * (1 << SHIFT)).astype(np.int32)


def _free(circuit: Circuit, drawn: np.ndarray) -> bool:
    """Whether `drawn` (H, W) keeps its distance from all copper."""
    reach = 2 * max(int(round(circuit.width * 0.5)), 2) + 1
    return not np.any(cv2.dilate(drawn, np.ones((reach, reach), np.uint8)) & circuit.copper)


def _trace_bundle(rng: Rng, circuit: Circuit) -> None:
    """Add one to five traces side by side: straight runs with bends of 45 degrees, mostly ending in pads."""
    size, count = circuit.size, int(rng.choice((1, 2, 3, 4, 5), p=(0.5, 0.2, 0.12, 0.1, 0.08)))
    width = circuit.width * rng.uniform(0.7, 1.4)
    heading, point = int(rng.integers(8)), rng.uniform(-0.1, 1.1, 2) * size
    points = [point]
    for _ in range(rng.integers(1, 6)):
        points.append(points[-1] + STEPS[heading] * rng.uniform(0.1, 0.5) * size)
        heading = (heading + rng.choice((-1, 1))) % 8
    line = np.array(points)
    side = np.array([-1, 1]) * STEPS[(heading + 2) % 8][::-1]
    pads, ends = rng.random() < 0.7, width * rng.uniform(1.1, 1.8)
    for k in range(count):
        moved = line + side * k * width * rng.uniform(2.0, 2.3)
        drawn = np.zeros((size, size), np.uint8)
        cv2.polylines(drawn, [_fixed(moved)], False, 255, max(int(round(width)), 1), cv2.LINE_AA, SHIFT)
        if _free(circuit, drawn):
            circuit.copper |= drawn
            circuit.traces.append((moved, max(round(width), 1)))
            for end in moved[[0, -1]] if pads else ():
                _pad(rng, circuit, end, True, ends, keep_apart=False)


def _pad(rng: Rng, circuit: Circuit, centre: np.ndarray, drilled: bool, radius: float, keep_apart: bool = True) -> None:
    """Add a pad, round or square, with a hole or for a part on the surface."""
    drawn = np.zeros_like(circuit.copper)
    middle = tuple(int(v) for v in _fixed(centre))
    if rng.random() < 0.7 or drilled:
        cv2.circle(drawn, middle, int(radius * (1 << SHIFT)), 255, -1, cv2.LINE_AA, SHIFT)
    else:
        half = radius * rng.uniform(0.6, 1.6, 2)
        low, high = (np.round(centre + s * half).astype(int).tolist() for s in (-1, 1))
        cv2.rectangle(drawn, low, high, 255, -1)
    if keep_apart and not _free(circuit, drawn):
        return
    circuit.copper |= drawn
    circuit.pads |= drawn
    hole = radius * rng.uniform(0.4, 0.7)
    if drilled and hole >= 1.3:
        cv2.circle(circuit.holes, middle, int(hole * (1 << SHIFT)), 255, -1, cv2.LINE_AA, SHIFT)
        if 0 < centre[0] < circuit.size and 0 < centre[1] < circuit.size:
            circuit.drilled.append((float(centre[0]), float(centre[1]), hole))


def _pad_row(rng: Rng, circuit: Circuit) -> None:
    """Add one or two rows of equal pads, as parts with pins have."""
    size, pitch = circuit.size, circuit.width * rng.uniform(3, 5)
    start, axis, drilled = rng.uniform(0, 0.7, 2) * size, int(rng.integers(2)), bool(rng.random() < 0.6)
    radius = pitch * rng.uniform(0.28, 0.38)
    for row in range(rng.integers(1, 3)):
        for k in range(rng.integers(3, 10)):
            step = np.array([k * pitch, row * 3 * pitch])
            _pad(rng, circuit, start + (step if axis == 0 else step[::-1]), drilled, radius)


def _copper_areas(rng: Rng, circuit: Circuit) -> None:
    """Add one or two large areas of copper with chamfered corners."""
    for _ in range(rng.integers(1, 3)):
        width, height = rng.uniform(0.15, 0.6, 2) * circuit.size
        x, y = rng.uniform(-0.2, 0.9, 2) * circuit.size
        cut = rng.uniform(0, 0.4) * min(width, height)
        points = np.array([(cut, 0), (width, 0), (width, height - cut), (width - cut, height), (0, height), (0, cut)])
        drawn = np.zeros_like(circuit.copper)
        cv2.fillPoly(drawn, [_fixed(points + (x, y))], 255, cv2.LINE_AA, SHIFT)
        if _free(circuit, drawn):
            circuit.copper |= drawn
