"""Circuit boards: bare copper, under solder mask, and as a binary image of the copper."""

from __future__ import annotations

import cv2
import numpy as np

from data.drawn.circuit import Circuit, draw_circuit
from data.drawn.noise import Rng, log_uniform, noise
from data.drawn.surface import Surface, random_colour

LAMINATES = ((95, 150, 165), (70, 120, 110), (60, 90, 140), (40, 45, 40), (170, 190, 190))  # BGR: resin, glass, paper
METALS = ((70, 120, 200), (90, 175, 215), (190, 195, 195), (120, 130, 140))  # copper, gold, tin, dull
MASKS = ((50, 105, 30), (35, 85, 20), (120, 55, 20), (30, 25, 140), (28, 28, 28), (225, 225, 220), (90, 30, 90))


def _around(rng: Rng, colours: tuple[tuple[int, int, int], ...]) -> np.ndarray:
    """Return one of the colours (3,), a little off."""
    return np.clip(np.array(colours[rng.integers(len(colours))]) * rng.uniform(0.75, 1.25, 3), 3, 250).astype(np.float32)


def _even(rng: Rng, size: int, colour: np.ndarray, grain: float, coarse: float) -> np.ndarray:
    """Return a nearly even image (H, W, 3) of `colour`."""
    relief = grain * (noise(rng, size, 1) + noise(rng, size, coarse))
    return cv2.merge([relief + np.float32(level) for level in colour])


def _finished(rng: Rng, circuit: Circuit, grain: float, unit: float, hole: np.ndarray) -> Surface:
    """Return the board; holes show `hole` (3,)."""
    drilled = circuit.holes.astype(np.float32)[..., None] / 255
    circuit.substrate = circuit.substrate * (1 - drilled) + hole * drilled
    return Surface(circuit.pixels(), 0.0, grain, unit, circuit=circuit)


def bare_board(rng: Rng, size: int, unit: float) -> Surface:
    """Return a board before the solder mask: metal on laminate."""
    circuit, grain = draw_circuit(rng, size, unit), log_uniform(rng, 1, 6)
    circuit.substrate = _even(rng, size, _around(rng, LAMINATES), grain, 4 * unit)
    circuit.conductor = _even(rng, size, _around(rng, METALS), grain, 12 * unit)
    if np.abs(circuit.substrate.mean((0, 1)) - circuit.conductor.mean((0, 1))).max() < 45:
        circuit.substrate *= 0.5
    return _finished(rng, circuit, grain, unit, random_colour(rng, 3, 40))


def masked_board(rng: Rng, size: int, unit: float) -> Surface:
    """Return a board under solder mask: traces shine through, pads are bare metal."""
    circuit, grain = draw_circuit(rng, size, unit), log_uniform(rng, 0.8, 5)
    mask = _around(rng, MASKS)
    circuit.substrate = _even(rng, size, mask, grain, 6 * unit)
    lift = rng.uniform(22, 60) * (1 if mask.mean() < 150 else -1)
    under = _even(rng, size, np.clip(mask * 1.1 + lift, 5, 250), grain, 6 * unit)
    metal = _even(rng, size, _around(rng, METALS[1:]), 2 * grain, 4 * unit)
    exposed = (circuit.pads.astype(np.float32) / 255)[..., None]
    circuit.conductor = under * (1 - exposed) + metal * exposed
    return _finished(rng, circuit, grain, unit, random_colour(rng, 3, 40))


def binary_board(rng: Rng, size: int, unit: float) -> Surface:
    """Return a thresholded scan: copper and laminate in two levels, outlines slightly ragged."""
    circuit = draw_circuit(rng, size, unit)
    soft = cv2.GaussianBlur(circuit.copper, (3, 3), 0.8).astype(np.float32)
    ragged = soft + rng.uniform(0, 30) * noise(rng, size, rng.uniform(1, 3)).clip(-3, 3)
    circuit.copper = cv2.GaussianBlur(np.where(ragged > 127, 255, 0).astype(np.uint8), (3, 3), rng.uniform(0.3, 0.6))
    low, high = rng.choice((0, rng.uniform(0, 60))), rng.choice((255, rng.uniform(180, 255)))
    copper, laminate = (low, high) if rng.random() < 0.6 else (high, low)
    circuit.substrate = np.full((size, size, 3), laminate, np.float32)
    circuit.conductor = np.full((size, size, 3), copper, np.float32)
    return _finished(rng, circuit, 0.0, unit, np.full(3, laminate, np.float32))
