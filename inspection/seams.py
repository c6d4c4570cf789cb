"""How the boxes found in the tiles of an image become boxes of the image.

Plain suppression leaves an object that a seam cuts in pieces: two halves of a scratch overlap too little to be duplicates.
Here the pieces are united first, then duplicates are suppressed. Both steps look at geometry and scores alone, so that the
result depends neither on the order of the tiles nor on how many of them a network sees at once.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

UNITE_FROM = 0.1  # score: weaker pieces are not united, or noise at the seams would grow true boxes
NEAR = 0.02  # of the tile's side: a box that ends so near to its tile's edge may go on beyond it
SAME = 0.5  # of the smaller part in the strip: a cut box and one that its tile shows whole are the same object
INSIDE = 0.7  # of a cut box: lies in a better one of its class, and is a further piece of that


@dataclass(frozen=True)
class TileBoxes:
    """What was found in the tiles of an image.

    Attributes:
        boxes_xyxy: (N, 4) in pixels of the image.
        scores: (N,) from 0 to 1.
        classes: (N,) class indices.
        tiles: (N,) the tile of each box, an index of the windows.
    """

    boxes_xyxy: np.ndarray
    scores: np.ndarray
    classes: np.ndarray
    tiles: np.ndarray


def merge(
    found: TileBoxes, windows: np.ndarray, iou: float, agnostic: bool = False, most: int = 300
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Make boxes of the image from the boxes of its tiles: unite the pieces of cut objects, then suppress duplicates.

    Pieces of one class in two tiles that share a strip are united when each is the other's best partner there (IoU of
    their parts in the strip), and both end at the tile edge that faces the other tile, or one does and the parts are the
    same object by `SAME`. It is transitive: a scratch over many tiles becomes one box. The score is the highest. Only
    then are duplicates suppressed, where a box that a seam still cuts counts by how much of it lies in the better box. Boxes
    of one tile, among which that was done before, stay as they are: an image of one tile gives what it would without tiles.

    A result does not depend on the score threshold it was found with, as long as that is at most `UNITE_FROM`: boxes
    above a higher threshold are then the same as with this one (`found_from`).

    Args:
        windows: (n, 4) the tiles, of `Tiling.windows`.
        iou: overlap above which two boxes are one object.
        agnostic: boxes of different classes suppress each other; they are never united.
        most: boxes to keep, those of the highest scores.

    Returns:
        boxes_xyxy (m, 4), scores (m,), classes (m,), by falling score.
    """
    if not len(found.scores):
        return found.boxes_xyxy.reshape(0, 4), found.scores, found.classes
    ends = _ends_at_seam(found, windows)
    group = _groups(len(found.scores), _links(found, windows, ends))
    boxes, scores, classes, cut, home = _united(found, ends, group)
    keep = _suppress(boxes, scores, classes, cut, home, iou, agnostic, most)
    return boxes[keep], scores[keep], classes[keep]


def found_from(conf: float) -> float:
    """Return the score threshold to look for pieces with, where boxes above `conf` are wanted."""
    return min(conf, UNITE_FROM)


def _ends_at_seam(found: TileBoxes, windows: np.ndarray) -> np.ndarray:
    """Whether a box ends at its tile's left, top, right, bottom edge, (N, 4), where that edge is not the image's."""
    inner = windows[found.tiles]
    image = np.concatenate([windows[:, :2].min(0), windows[:, 2:].max(0)])
    near = NEAR * np.tile(inner[:, 2:] - inner[:, :2], 2)
    ends: np.ndarray = (np.abs(found.boxes_xyxy - inner) <= near) & (inner != image)
    return ends


def _links(found: TileBoxes, windows: np.ndarray, ends: np.ndarray) -> list[tuple[int, int]]:
    """Pairs of boxes that are pieces of one object."""
    strong = np.flatnonzero(found.scores >= UNITE_FROM)
    by_tile = {int(tile): strong[found.tiles[strong] == tile] for tile in np.unique(found.tiles[strong])}
    tiles = np.array(sorted(by_tile), dtype=int)
    links: list[tuple[int, int]] = []
    for at, one in enumerate(tiles):
        shared = _common(windows[one], windows[tiles[at + 1 :]])
        for index in np.flatnonzero((shared[:, 2:] > shared[:, :2]).all(1)):
            other = tiles[at + 1 + index]
            here, there = by_tile[one], by_tile[other]
            cut = (_facing(ends[here], windows[one], windows[other]), _facing(ends[there], windows[other], windows[one]))
            links += [(here[i], there[j]) for i, j in _partners(found, here, there, shared[index], *cut)]
    return links


def _facing(ends: np.ndarray, window: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Whether boxes (k,) end at an edge of their window that lies inside the other window."""
    inside = (np.tile(other[:2], 2) < window) & (window < np.tile(other[2:], 2))
    facing: np.ndarray = np.any(ends & inside, axis=1)
    return facing


def _partners(found: TileBoxes, here: np.ndarray, there: np.ndarray, strip: np.ndarray,
              cut_here: np.ndarray, cut_there: np.ndarray) -> np.ndarray:  # fmt: skip
    """Index pairs (k, 2) into `here` and `there`: boxes of two tiles that are each other's best partner in the strip."""
    a, b = (_common(strip, found.boxes_xyxy[index]) for index in (here, there))
    common = _area(_common(a[:, None], b[None]))
    area_a, area_b = _area(a)[:, None], _area(b)[None]
    one, both = cut_here[:, None] | cut_there[None], cut_here[:, None] & cut_there[None]
    same = common >= SAME * np.minimum(area_a, area_b)
    allowed = (common > 0) & (both | one & same) & (found.classes[here][:, None] == found.classes[there][None])
    fit = np.where(allowed, common / np.maximum(area_a + area_b - common, 1e-9), 0)
    return np.argwhere((fit > 0) & (fit == fit.max(1, keepdims=True)) & (fit == fit.max(0, keepdims=True)))


def _groups(count: int, links: list[tuple[int, int]]) -> np.ndarray:
    """Number the groups (count,) of boxes that links connect, directly or over others."""
    parent = np.arange(count)

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = parent[parent[i]]
            i = parent[i]
        return i

    for one, other in links:
        parent[root(one)] = root(other)
    return np.unique([root(i) for i in range(count)], return_inverse=True)[1]


def _united(found: TileBoxes, ends: np.ndarray, group: np.ndarray) -> tuple[np.ndarray, ...]:
    """Boxes (g, 4), scores, classes of the groups, whether a seam still cuts them, and their tile, -1 if several."""
    count = group.max() + 1
    boxes = np.concatenate([np.full((count, 2), np.inf), np.full((count, 2), -np.inf)], axis=1)
    np.minimum.at(boxes[:, :2], group, found.boxes_xyxy[:, :2])
    np.maximum.at(boxes[:, 2:], group, found.boxes_xyxy[:, 2:])
    scores = np.zeros(count, dtype=found.scores.dtype)
    np.maximum.at(scores, group, found.scores)
    classes = np.zeros(count, dtype=found.classes.dtype)
    classes[group] = found.classes
    open_ends = ends & (boxes[group] == found.boxes_xyxy)  # where the group ends as this piece does
    cut = np.zeros(count, dtype=bool)
    np.logical_or.at(cut, group, open_ends.any(1))
    home = np.zeros(count, dtype=int)
    home[group] = found.tiles
    home[np.bincount(group) > 1] = -1
    return boxes, scores, classes, cut, home


def _suppress(boxes: np.ndarray, scores: np.ndarray, classes: np.ndarray, cut: np.ndarray, home: np.ndarray,
              iou: float, agnostic: bool, most: int) -> np.ndarray:  # fmt: skip
    """Indices of the boxes that stay, by falling score; ties are settled by class and place, never by order."""
    order = np.lexsort((*boxes.T, classes, -scores))
    boxes, classes, cut, home = boxes[order], classes[order], cut[order], home[order]
    x1, y1, x2, y2 = (np.ascontiguousarray(side) for side in boxes.T)
    area, alive, keep = _area(boxes), np.ones(len(order), dtype=bool), []
    for best in range(len(order)):
        if not alive[best]:
            continue
        keep.append(order[best])
        if len(keep) == most:
            break
        meets = alive & (x1 < x2[best]) & (x2 > x1[best]) & (y1 < y2[best]) & (y2 > y1[best])
        meets[: best + 1] = False
        rest = np.flatnonzero(meets)
        common = _area(_common(boxes[best], boxes[rest]))
        again = common > iou * (area[best] + area[rest] - common)
        again |= cut[rest] & (common > INSIDE * area[rest])
        again &= (home[rest] != home[best]) | (home[best] < 0)
        alive[rest[again & (agnostic | (classes[rest] == classes[best]))]] = False
    return np.array(keep, dtype=int)


def _common(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Corners of the intersection of boxes (..., 4); not in order where there is none."""
    return np.concatenate([np.maximum(a[..., :2], b[..., :2]), np.minimum(a[..., 2:], b[..., 2:])], axis=-1)


def _area(boxes_xyxy: np.ndarray) -> np.ndarray:
    area: np.ndarray = np.prod(np.maximum(boxes_xyxy[..., 2:] - boxes_xyxy[..., :2], 0), axis=-1)
    return area
