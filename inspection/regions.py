"""Which boxes lie in the regions of a plan. Polygons are simple or not: what lies inside is by the even-odd rule."""

from __future__ import annotations

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


def _place(polygon: Polygon, scale: tuple[int, int], boxes_xyxy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Whether an edge of the polygon runs through the interior of each box (N,), and whether the box's centre is inside (N,)."""
    corners = np.asarray(polygon, dtype=float) * scale
    boxes = np.asarray(boxes_xyxy, dtype=float)
    edges = np.roll(corners, -1, axis=0) - corners
    return _crossed(corners, edges, boxes), _inside(corners, edges, (boxes[:, :2] + boxes[:, 2:]) / 2)


def _crossed(corners: np.ndarray, edges: np.ndarray, boxes_xyxy: np.ndarray) -> np.ndarray:
    """Whether any edge (V, 2) from its corner (V, 2) meets each open box, by clipping it to the box's slabs (Liang-Barsky)."""
    low, high = boxes_xyxy[:, None, :2] - corners, boxes_xyxy[:, None, 2:] - corners
    with np.errstate(divide="ignore", invalid="ignore"):
        first, second = low / edges, high / edges
    parallel = np.broadcast_to(edges == 0, low.shape)
    within = (low < 0) & (high > 0)
    enter = np.where(parallel, np.where(within, -np.inf, np.inf), np.minimum(first, second)).max(-1).clip(min=0)
    leave = np.where(parallel, np.where(within, np.inf, -np.inf), np.maximum(first, second)).min(-1).clip(max=1)
    return (enter < leave).any(1)


def _inside(corners: np.ndarray, edges: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Whether each point (N, 2) lies inside: a ray to the right crosses the outline an odd number of times."""
    x, y = points[:, :1], points[:, 1:]
    ends = corners[:, 1] + edges[:, 1]
    spans = (corners[:, 1] > y) != (ends > y)
    with np.errstate(divide="ignore", invalid="ignore"):
        meets = corners[:, 0] + (y - corners[:, 1]) / edges[:, 1] * edges[:, 0]
    return (spans & (meets > x)).sum(1) % 2 == 1
