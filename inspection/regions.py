"""Which boxes lie in the regions of a plan. Polygons are simple or not: what lies inside is by the even-odd rule."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from inspection.plan import RELATIVE, Regions


def looked_at(regions: Regions, boxes_xyxy: np.ndarray, height: int, width: int) -> np.ndarray:
    """Which boxes (N,) are in a region to look at, at least in part, and not wholly in one to leave out.

    Args:
        regions: of the plan.
        boxes_xyxy: (N, 4) pixels of an image of `height` x `width`.
    """
    boxes = np.asarray(boxes_xyxy, dtype=float)
    if not (regions.look_at or regions.leave_out):
        return np.ones(len(boxes), dtype=bool)
    outlines, wanted = _outlines(regions, width, height), len(regions.look_at)
    inside = _inside(outlines, (boxes[:, :2] + boxes[:, 2:]) / 2)
    keep = ~inside[:, wanted:].any(1)
    if wanted:
        keep &= inside[:, :wanted].any(1)
    open_rows = np.flatnonzero(~keep)  # whose centre does not settle it
    if len(open_rows):
        crossed, inside = _crossed(outlines, boxes[open_rows]), inside[open_rows]
        found = (crossed | inside)[:, :wanted].any(1) if wanted else True
        keep[open_rows] = found & ~(inside & ~crossed)[:, wanted:].any(1)
    return keep


class Outlines(NamedTuple):
    """The edges of all polygons of a plan in one table: a few operations for an image, not a few for each polygon.

    x and y come first, so that nothing is gathered or reduced over an axis of two numbers.

    Attributes:
        corners: (2, 1, V) in pixels.
        edges: (2, 1, V) from each corner to the next of its polygon.
        inverse: (2, 1, V) 1 / edge, 0 where an edge does not move along an axis.
        parallel: (2, 1, V) where that is.
        starts: (P,) the first column of each polygon, those to look at first.
    """

    corners: np.ndarray
    edges: np.ndarray
    inverse: np.ndarray
    parallel: np.ndarray
    starts: np.ndarray


@lru_cache(maxsize=256)
def _outlines(regions: Regions, width: int, height: int) -> Outlines:
    scale = (width, height) if regions.unit == RELATIVE else (1, 1)
    polygons = [np.asarray(polygon, dtype=float) * scale for polygon in (*regions.look_at, *regions.leave_out)]
    corners = np.concatenate(polygons).T[:, None]
    edges = np.concatenate([np.roll(polygon, -1, axis=0) - polygon for polygon in polygons]).T[:, None]
    inverse = np.divide(1.0, edges, out=np.zeros_like(edges), where=edges != 0)
    return Outlines(corners, edges, inverse, edges == 0, np.cumsum([0, *map(len, polygons[:-1])]))


def _crossed(of: Outlines, boxes_xyxy: np.ndarray) -> np.ndarray:
    """Whether any edge of each polygon meets each open box (N, P), by clipping it to the box's slabs (Liang-Barsky)."""
    low, high = boxes_xyxy.T[:2, :, None] - of.corners, boxes_xyxy.T[2:, :, None] - of.corners
    first, second = low * of.inverse, high * of.inverse
    enter, leave = np.minimum(first, second), np.maximum(first, second)
    # An edge along a side of the box, or beside the box, never enters it; one between its sides is always within them.
    np.copyto(enter, np.where((low < 0) & (high > 0), -np.inf, np.inf), where=of.parallel)
    np.copyto(leave, np.inf, where=of.parallel)
    meets = np.maximum(np.maximum(enter[0], enter[1]), 0) < np.minimum(np.minimum(leave[0], leave[1]), 1)
    return np.logical_or.reduceat(meets, of.starts, axis=1)


def _inside(of: Outlines, points: np.ndarray) -> np.ndarray:
    """Whether each point (N, 2) lies inside each polygon (N, P): a ray to the right crosses its outline an odd number of times."""
    x, y = points.T[:, :, None]
    spans = (of.corners[1] > y) != (of.corners[1] + of.edges[1] > y)
    meets = of.corners[0] + (y - of.corners[1]) * of.inverse[1] * of.edges[0]
    return np.logical_xor.reduceat(spans & (meets > x), of.starts, axis=1)
