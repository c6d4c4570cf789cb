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
    sides = boxes.T[:, :, None]
    inside = _inside(outlines, (sides[:2] + sides[2:]) / 2)
    keep: np.ndarray = ~np.any(inside[:, wanted:], axis=1)
    if wanted:
        keep &= inside[:, :wanted].any(1)
    if not keep.all():  # where the centre does not settle it
        rows = np.flatnonzero(~keep)
        crossed, inside = _crossed(outlines, sides[:, rows]), inside[rows]
        found = (crossed | inside)[:, :wanted].any(1) if wanted else True
        keep[rows] = found & ~(inside & ~crossed)[:, wanted:].any(1)
    return keep


class Outlines(NamedTuple):
    """The edges of all polygons of a plan in one table: a few operations for an image, not a few for each polygon.

    Attributes:
        begin, end: (2, 1, V) x and y in pixels of each edge's ends.
        low, high: (2, 1, V) the smaller and the larger of the two.
        edges: (2, 1, V) end - begin.
        slope: (1, V) dx / dy, 0 where an edge runs along x.
        starts: (P,) the first column of each polygon, those to look at first.
    """

    begin: np.ndarray
    end: np.ndarray
    low: np.ndarray
    high: np.ndarray
    edges: np.ndarray
    slope: np.ndarray
    starts: np.ndarray


@lru_cache(maxsize=256)
def _outlines(regions: Regions, width: int, height: int) -> Outlines:
    scale = (width, height) if regions.unit == RELATIVE else (1, 1)
    polygons = [np.asarray(polygon, dtype=float) * scale for polygon in (*regions.look_at, *regions.leave_out)]
    begin = np.concatenate(polygons).T[:, None].copy()
    end = np.concatenate([np.roll(polygon, -1, axis=0) for polygon in polygons]).T[:, None].copy()
    edges = end - begin
    slope = np.divide(edges[0], edges[1], out=np.zeros_like(edges[0]), where=edges[1] != 0)
    return Outlines(begin, end, np.minimum(begin, end), np.maximum(begin, end), edges, slope, np.cumsum([0, *map(len, polygons[:-1])]))


def _inside(of: Outlines, points: np.ndarray) -> np.ndarray:
    """Whether each point, x and y as (2, N, 1), lies inside each polygon (N, P): a ray to the right crosses its outline an odd
    number of times.
    """
    x, y = points
    spans = (of.begin[1] > y) != (of.end[1] > y)
    spans &= of.begin[0] + (y - of.begin[1]) * of.slope > x
    return np.logical_xor.reduceat(spans, of.starts, axis=1)


def _crossed(of: Outlines, sides: np.ndarray) -> np.ndarray:
    """Whether an edge of each polygon runs through each open box (N, P), by separating axes.

    Args:
        sides: (4, N, 1) x1, y1, x2, y2.
    """
    near, far = sides[:2], sides[2:]
    x, y = (of.low < far) & (of.high > near)
    # The line of the edge: the box's centre is nearer to it than the box reaches.
    across, reach = (near + far) / 2 - of.begin, (far - near) / 2
    distance = of.edges[0] * across[1] - of.edges[1] * across[0]
    extent = np.abs(of.edges[0]) * reach[1] + np.abs(of.edges[1]) * reach[0]
    return np.logical_or.reduceat(x & y & (np.abs(distance) < extent), of.starts, axis=1)
