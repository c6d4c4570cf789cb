"""Which boxes lie in the regions of a plan. Polygons are simple or not: what lies inside is by the even-odd rule."""

from __future__ import annotations

from functools import lru_cache

import numpy as np

from inspection.plan import RELATIVE, Polygon, Regions


def looked_at(regions: Regions, boxes_xyxy: np.ndarray, height: int, width: int) -> np.ndarray:
    """Which boxes (N,) are in a region to look at, at least in part, and not wholly in one to leave out.

    Args:
        regions: of the plan.
        boxes_xyxy: (N, 4) pixels of an image of `height` x `width`.
    """
    scale = (width, height) if regions.unit == RELATIVE else (1, 1)
    keep = np.ones(len(boxes_xyxy), dtype=bool)
    if regions.look_at:
        keep = np.zeros(len(boxes_xyxy), dtype=bool)
        for polygon in regions.look_at:
            crossed, inside = _place(polygon, scale, boxes_xyxy)
            keep |= crossed | inside
    for polygon in regions.leave_out:
        crossed, inside = _place(polygon, scale, boxes_xyxy)
        keep &= crossed | ~inside
    return keep


@lru_cache(maxsize=256)
def _outline(polygon: Polygon, scale: tuple[int, int]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Corners (V, 2) in pixels, the edges (V, 2) that begin there, and 1 / edge, 0 where an edge does not move along an axis."""
    corners = np.asarray(polygon, dtype=float) * scale
    edges = np.roll(corners, -1, axis=0) - corners
    inverse = np.divide(1.0, edges, out=np.zeros_like(edges), where=edges != 0)
    return corners, edges, inverse


def _place(polygon: Polygon, scale: tuple[int, int], boxes_xyxy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Whether an edge of the polygon runs through the interior of each box (N,), and whether the box's centre is inside (N,)."""
    corners, edges, inverse = _outline(polygon, scale)
    boxes = np.asarray(boxes_xyxy, dtype=float)
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    return _crossed(corners, edges, inverse, boxes), _inside(corners, edges, inverse, centres)


def _crossed(corners: np.ndarray, edges: np.ndarray, inverse: np.ndarray, boxes_xyxy: np.ndarray) -> np.ndarray:
    """Whether any edge (V, 2) from its corner (V, 2) meets each open box, by clipping it to the box's slabs (Liang-Barsky)."""
    low, high = boxes_xyxy[:, None, :2] - corners, boxes_xyxy[:, None, 2:] - corners
    first, second = low * inverse, high * inverse
    enter, leave = np.minimum(first, second), np.maximum(first, second)
    parallel = edges == 0
    outside = parallel & ((low >= 0) | (high <= 0))
    enter[:, parallel], leave[:, parallel] = -np.inf, np.inf
    enter[outside] = np.inf
    return (np.maximum(enter.max(-1), 0) < np.minimum(leave.min(-1), 1)).any(1)


def _inside(corners: np.ndarray, edges: np.ndarray, inverse: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Whether each point (N, 2) lies inside: a ray to the right crosses the outline an odd number of times."""
    x, y = points[:, :1], points[:, 1:]
    spans = (corners[:, 1] > y) != (corners[:, 1] + edges[:, 1] > y)
    meets = corners[:, 0] + (y - corners[:, 1]) * inverse[:, 1] * edges[:, 0]
    return (spans & (meets > x)).sum(1) % 2 == 1
