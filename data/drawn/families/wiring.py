"""Families of circuit boards: open, short, spur, mousebite, island of copper, pinhole, missing hole.

All change where there is copper, and take their colours from the board (`Circuit.change`).
"""

from __future__ import annotations

import cv2
import numpy as np

from data.drawn.noise import Rng, noise
from data.drawn.shapes import blob, edge, jagged, local, stroke
from data.drawn.surface import Surface


def _pick(rng: Rng, chosen: np.ndarray) -> np.ndarray | None:
    """Return one of the pixels (x, y) where `chosen` (H, W) is true and no closer than 3 to the border."""
    ys, xs = np.nonzero(chosen[3:-3, 3:-3])
    if not len(xs):
        return None
    i = int(rng.integers(len(xs)))
    return np.array([xs[i] + 3.0, ys[i] + 3.0])


def _outwards(depth: np.ndarray, point: np.ndarray) -> np.ndarray:
    """Return the unit vector (x, y) that leads out of the copper at `point`."""
    x, y = point.astype(int)
    slope = -np.array([depth[y, x + 1] - depth[y, x - 1], depth[y + 1, x] - depth[y - 1, x]], np.float64)
    return slope / (np.linalg.norm(slope) + 1e-6)


def open_circuit(rng: Rng, surface: Surface) -> np.ndarray | None:
    """Return the change (H, W, 3) of a trace cut through, ``None`` where no trace crosses the image."""
    circuit = surface.board
    if not circuit.traces:
        return None
    points, width = circuit.traces[rng.integers(len(circuit.traces))]
    i = int(rng.integers(len(points) - 1))
    a, b = points[i], points[i + 1]
    centre = a + (b - a) * rng.uniform(0.2, 0.8)
    if not np.all((centre > 3) & (centre < surface.size - 3)):
        return None
    along, across = local(surface.size, centre, float(np.arctan2(*(b - a)[::-1])))
    gap = max(width * rng.uniform(0.4, 2), 2.0)
    ragged = across * rng.uniform(-0.4, 0.4) + 0.4 * noise(rng, surface.size, 1)
    cut = edge(np.abs(along + ragged) - gap / 2, 1.0) * (np.abs(across) < 0.8 * width + 1.5)
    return circuit.change(circuit.conducts * (1 - cut))


def short(rng: Rng, surface: Surface) -> np.ndarray | None:
    """Return the change of a bridge between two conductors, ``None`` where none are near each other."""
    circuit, reach = surface.board, max(8 * surface.unit, 4 * surface.board.width)
    start = _pick(rng, (circuit.depth < 0) & (circuit.depth > -1.6))
    if start is None:
        return None
    out = _outwards(circuit.depth, start)
    walk = start + np.outer(np.arange(2, reach), out)
    inside = np.all((walk >= 1) & (walk < surface.size - 1), axis=1)
    x, y = walk[inside].astype(int).T
    met, own = circuit.conductors[y, x], circuit.conductors[tuple(int(v) for v in (start - 2 * out)[::-1])]
    hits = np.nonzero(met)[0]
    if not len(hits) or met[hits[0]] == own:
        return None
    ends = np.array([start - 1.5 * out, walk[hits[0]] + 1.5 * out])
    middle = ends.mean(0) + rng.normal(0, 1, 2)
    width = max(circuit.width * rng.uniform(0.4, 1.2), 1.5)
    bridge = stroke(surface.size, np.array([ends[0], middle, ends[1]]), np.array([width, width * rng.uniform(0.6, 1)]))
    return circuit.change(np.maximum(circuit.conducts, bridge * (circuit.holes < 128)))


def spur(rng: Rng, surface: Surface) -> np.ndarray | None:
    """Return the change of a spike or bulge on the outline of a conductor."""
    circuit = surface.board
    root = _pick(rng, np.abs(circuit.depth) < 1.6)
    if root is None:
        return None
    out = _outwards(circuit.depth, root)
    length = max(circuit.width * rng.uniform(0.6, 1.6), 3.0)
    width = max(length * rng.uniform(0.3, 0.8), 1.5)
    heading = float(np.arctan2(out[1], out[0])) + rng.normal(0, 0.3)
    points = jagged(rng, root - out, heading, length + 1, 0.3)
    bump = stroke(surface.size, points, np.linspace(width, width * rng.uniform(0.3, 1), len(points)))
    return circuit.change(np.maximum(circuit.conducts, bump * (circuit.holes < 128)))


def mousebite(rng: Rng, surface: Surface) -> np.ndarray | None:
    """Return the change of a bite taken out of a conductor's outline."""
    circuit = surface.board
    centre = _pick(rng, (circuit.depth > 0) & (circuit.depth < 1.6))
    if centre is None:
        return None
    radius = max(circuit.width * rng.uniform(0.3, 0.6), 1.8)
    bite = edge(blob(rng, surface.size, centre, radius, 0.2, rng.uniform(1, 1.6), rng.uniform(0, np.pi)), 1.0)
    return circuit.change(circuit.conducts * (1 - bite))


def island(rng: Rng, surface: Surface) -> np.ndarray | None:
    """Return the change of copper left where none should be, touching nothing."""
    circuit = surface.board
    radius = max(circuit.width * rng.uniform(0.3, 0.8), 1.8)
    centre = _pick(rng, circuit.depth < -1.5 * radius - 2)
    if centre is None:
        return None
    if rng.random() < 0.5:
        lump = edge(blob(rng, surface.size, centre, radius, 0.3, rng.uniform(1, 2), rng.uniform(0, np.pi)), 1.0)
    else:
        points = jagged(rng, centre, rng.uniform(0, 2 * np.pi), 2.5 * radius, 0.6)
        lump = stroke(surface.size, points, np.linspace(radius, 0.5 * radius, len(points)))
        lump *= edge(circuit.depth + 1.5, 1.0)
    return circuit.change(np.maximum(circuit.conducts, lump))


def pinhole(rng: Rng, surface: Surface) -> np.ndarray | None:
    """Return the change of a small hole within a conductor, ``None`` where all are too narrow."""
    circuit = surface.board
    radius = max(circuit.width * rng.uniform(0.15, 0.4), 1.3)
    centre = _pick(rng, circuit.depth > radius + 1)
    if centre is None:
        return None
    void = edge(blob(rng, surface.size, centre, radius, 0.15), 1.0)
    return circuit.change(circuit.conducts * (1 - void))


def missing_hole(rng: Rng, surface: Surface) -> np.ndarray | None:
    """Return the change of a pad whose hole was not drilled, ``None`` where no pad has one."""
    circuit = surface.board
    if not circuit.drilled:
        return None
    x, y, radius = circuit.drilled[rng.integers(len(circuit.drilled))]
    filled = np.zeros_like(circuit.copper)
    cv2.circle(filled, (round(x), round(y)), int(np.ceil(radius)) + 1, 255, -1)
    return circuit.change(np.maximum(circuit.conducts, (filled & circuit.copper).astype(np.float32) / 255))
