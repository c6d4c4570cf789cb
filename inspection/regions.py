"""Which boxes lie in the regions of a plan. Polygons are simple or not: what lies inside is by the even-odd rule."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from inspection.plan import RELATIVE, Regions

Edge = tuple[float, ...]  # x and y where it begins, x and y where it ends, in pixels

FEW = 150  # pairs of a box and an edge: up to so many, one by one is quicker
CONDITIONS, THROUGH = 9, 6  # of an edge; of them those that it runs through the box
NONE = np.zeros(0, dtype=int)

ROUNDING = 1e-5  # of the image's longer side: four times the most that five terms of single precision are wrong by


def looked_at(regions: Regions, boxes_xyxy: np.ndarray, height: int, width: int) -> np.ndarray:
    """Which boxes (N,) are in a region to look at, at least in part, and not wholly in one to leave out.

    A few boxes are compared with each edge. What that asks is linear in the sides of a box, and so one product of matrices answers it for
    many boxes; those for which rounding could matter are compared as well.

    Args:
        regions: of the plan.
        boxes_xyxy: (N, 4) pixels of an image of `height` x `width`.
    """
    if not (regions.look_at or regions.leave_out):
        return np.ones(len(boxes_xyxy), dtype=bool)
    of = _outlines(regions, width, height)
    if len(boxes_xyxy) * len(of.conditions) <= FEW * CONDITIONS:
        return np.array([_one_looked_at(of, *box) for box in boxes_xyxy.tolist()], dtype=bool)
    keep, unclear = _many_looked_at(of, boxes_xyxy)
    for index in unclear.tolist():
        keep[index] = _one_looked_at(of, *boxes_xyxy[index].tolist())
    return keep


class Outlines(NamedTuple):
    """The polygons of a plan in an image of some size.

    Attributes:
        look_at, leave_out: edges of each polygon.
        conditions: (CONDITIONS * V, 5) factors of x1, y1, x2, y2 and 1, by `_conditions` of all V edges.
        first: (P,) the first edge of each polygon, those to look at first.
        clear: pixels: a sum by `conditions` that is farther from 0 has the right sign, however it was rounded.
    """

    look_at: list[list[Edge]]
    leave_out: list[list[Edge]]
    conditions: np.ndarray
    first: np.ndarray
    clear: float


@lru_cache(maxsize=256)
def _outlines(regions: Regions, width: int, height: int) -> Outlines:
    scale = (width, height) if regions.unit == RELATIVE else (1, 1)
    look_at, leave_out = ([_edges(np.asarray(polygon, dtype=float) * scale) for polygon in part]
                          for part in (regions.look_at, regions.leave_out))  # fmt: skip
    polygons = [*look_at, *leave_out]
    conditions = _conditions(np.concatenate([np.array(edges) for edges in polygons]))
    return Outlines(look_at, leave_out, conditions, np.cumsum([0, *map(len, polygons[:-1])]), ROUNDING * max(width, height))


def _edges(corners: np.ndarray) -> list[Edge]:
    return [tuple(edge) for edge in np.hstack([corners, np.roll(corners, -1, axis=0)]).tolist()]


def _conditions(edges: np.ndarray) -> np.ndarray:
    """What is above 0 as `_lies` asks of edges (V, 4), as factors (CONDITIONS * V, 5) of x1, y1, x2, y2 and 1 of a box.

    The first six: the edge runs through the box (its line on either side, the box's four sides). The last three: a ray from the centre to
    the right meets it.
    """
    x_a, y_a, x_b, y_b = edges.T[..., None]
    length = np.hypot(x_b - x_a, y_b - y_a)
    along_x, along_y = ((end - begin) / np.maximum(length, 1e-12) for begin, end in ((x_a, x_b), (y_a, y_b)))
    x1, y1, x2, y2, one = np.eye(5)
    x, y, reach_x, reach_y = (x1 + x2) / 2, (y1 + y2) / 2, (x2 - x1) / 2, (y2 - y1) / 2
    beside = along_y * (x_a * one - x) - along_x * (y_a * one - y)
    reach = np.abs(along_x) * reach_y + np.abs(along_y) * reach_x
    low_x, high_x, low_y, high_y = (least(a, b) * one for a, b in ((x_a, x_b), (y_a, y_b)) for least in (np.minimum, np.maximum))
    conditions = np.array([reach - beside, reach + beside, x2 - low_x, high_x - x1, y2 - low_y, high_y - y1,
                           y - low_y, high_y - y, beside * np.sign(along_y)])  # fmt: skip
    conditions[:, length[:, 0] == 0] = -one
    return conditions.reshape(-1, 5).astype(np.float32)


def _many_looked_at(of: Outlines, boxes_xyxy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What `_one_looked_at` tells of each box (N,), and the indices of those for which that is not sure."""
    sides = np.ones((5, len(boxes_xyxy)), dtype=np.float32)
    sides[:4] = boxes_xyxy.T
    values = (of.conditions @ sides).reshape(CONDITIONS, -1, len(boxes_xyxy))
    least = np.empty((2, *values.shape[1:]), dtype=np.float32)
    np.minimum.reduce(values[:THROUGH], out=least[0])
    np.minimum.reduce(values[THROUGH:], out=least[1])
    surely, perhaps = least > of.clear, least > -of.clear
    crossed, rays = np.add.reduceat(surely, of.first, axis=1, dtype=int)
    inside, wanted = rays & 1, len(of.look_at)
    keep: np.ndarray = ~np.logical_or.reduce(inside[wanted:] > crossed[wanted:])
    if wanted:
        keep &= np.logical_or.reduce(inside[:wanted] | crossed[:wanted])
    if np.count_nonzero(surely) == np.count_nonzero(perhaps):
        return keep, NONE
    return keep, (surely != perhaps).any(axis=(0, 1)).nonzero()[0]


def _one_looked_at(of: Outlines, *box_xyxy: float) -> bool:
    """Whether one box is in a region to look at, at least in part, and not wholly in one to leave out."""
    if of.look_at and not any(inside or crossed for inside, crossed in (_lies(edges, *box_xyxy) for edges in of.look_at)):
        return False
    return not any(inside and not crossed for inside, crossed in (_lies(edges, *box_xyxy) for edges in of.leave_out))


def _lies(edges: list[Edge], x1: float, y1: float, x2: float, y2: float) -> tuple[bool, bool]:
    """Whether the centre of a box lies inside a polygon, and whether an edge runs through the open box; then the first is of no use.

    The centre is inside where a ray from it to the right meets the outline an odd number of times; an edge and a box are told apart by
    separating axes.
    """
    x, y, reach_x, reach_y, inside = (x1 + x2) * 0.5, (y1 + y2) * 0.5, (x2 - x1) * 0.5, (y2 - y1) * 0.5, False
    for x_a, y_a, x_b, y_b in edges:
        if (y_a > y) != (y_b > y) and x_a + (y - y_a) * ((x_b - x_a) / (y_b - y_a)) > x:
            inside = not inside
        if (y_a < y2 or y_b < y2) and (y_a > y1 or y_b > y1) and (x_a < x2 or x_b < x2) and (x_a > x1 or x_b > x1):
            wide, tall = x_b - x_a, y_b - y_a
            # The line of the edge: the box's centre is nearer to it than the box reaches.
            if abs(wide * (y - y_a) - tall * (x - x_a)) < abs(wide) * reach_y + abs(tall) * reach_x:
                return inside, True
    return inside, False
