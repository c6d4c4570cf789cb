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
    if not (regions.look_at or regions.leave_out):
        return np.ones(len(boxes_xyxy), dtype=bool)
    wanted = len(regions.look_at)
    inside, crossed = _met(_outlines(regions, width, height), boxes_xyxy)
    keep: np.ndarray = ~np.logical_or.reduce(inside[wanted:] > crossed[wanted:], axis=0)
    if wanted:
        keep &= np.logical_or.reduce(inside[:wanted] | crossed[:wanted], axis=0)
    return keep


class Outlines(NamedTuple):
    """The edges of all polygons of a plan in one table: a few operations for an image, not a few for each polygon.

    Attributes:
        edges: (12, V) in pixels: x and y where each edge begins; x and y from there to its end; their absolute values; the
            smallest x, the largest, the smallest y, the largest along it; y where it ends; dx / dy, 0 where it runs along x.
        top, bottom: (V, 1) the smallest and the largest y again.
        polygon: (V,) which polygon an edge is of, those to look at first.
        polygons: how many there are.
    """

    edges: np.ndarray
    top: np.ndarray
    bottom: np.ndarray
    polygon: np.ndarray
    polygons: int


@lru_cache(maxsize=256)
def _outlines(regions: Regions, width: int, height: int) -> Outlines:
    scale = (width, height) if regions.unit == RELATIVE else (1, 1)
    polygons = [np.asarray(polygon, dtype=float) * scale for polygon in (*regions.look_at, *regions.leave_out)]
    begin = np.concatenate(polygons).T
    end = np.concatenate([np.roll(polygon, -1, axis=0) for polygon in polygons]).T
    edges, low, high = end - begin, np.minimum(begin, end), np.maximum(begin, end)
    slope = np.divide(edges[0], edges[1], out=np.zeros_like(edges[0]), where=edges[1] != 0)
    table = np.stack([*begin, *edges, *np.abs(edges), low[0], high[0], low[1], high[1], end[1], slope])
    polygon = np.repeat(np.arange(len(polygons)), [len(polygon) for polygon in polygons])
    return Outlines(table, low[1][:, None], high[1][:, None], polygon, len(polygons))


def _met(of: Outlines, boxes_xyxy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Whether the centre of each box lies inside each polygon (P, N), and whether an edge of it runs through the open box (P, N).

    A centre is inside where a ray from it to the right meets the outline an odd number of times; an edge and a box are told apart by
    separating axes. Only edges at the height of a box can do either: few of them, and the arithmetic is done for these pairs alone.
    """
    count, sides = len(boxes_xyxy), np.empty((8, len(boxes_xyxy)))
    sides[:4] = boxes_xyxy.T
    near, far = sides[:2], sides[2:4]
    sides[4:6], sides[6:] = (near + far) * 0.5, (far - near) * 0.5
    level = of.top <= np.maximum(near[1], far[1])
    level &= of.bottom >= np.minimum(near[1], far[1])
    cells = level.ravel().nonzero()[0]
    edge = cells // count
    box = cells - edge * count

    begin_x, begin_y, edge_x, edge_y, wide, tall, low_x, high_x, low_y, high_y, end_y, slope = of.edges.take(edge, axis=1)
    x1, y1, x2, y2, x, y, reach_x, reach_y = sides.take(box, axis=1)
    right, down = x - begin_x, y - begin_y
    ray = (down < 0) != (end_y > y)
    ray &= begin_x + down * slope > x
    # The line of the edge: the box's centre is nearer to it than the box reaches.
    through = np.abs(edge_x * down - edge_y * right) < wide * reach_y + tall * reach_x
    through &= (low_x < x2) & (high_x > x1) & (low_y < y2) & (high_y > y1)

    pair, pairs = of.polygon[edge] * count + box, of.polygons * count
    inside, crossed = (np.bincount(pair[which], minlength=pairs).reshape(-1, count) for which in (ray, through))
    return (inside & 1).astype(bool), crossed.astype(bool)
