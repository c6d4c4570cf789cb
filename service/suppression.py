"""From the head's output to boxes: class-aware non-maximum suppression in NumPy, with the results of detect.py's."""

from __future__ import annotations

import numpy as np

MOST_CANDIDATES = 30_000  # of the highest scores; the others are not compared
CLASS_OFFSET = 7680  # pixels between the boxes of two classes, which so never meet


def boxes_of(output: np.ndarray, suppressed: bool, conf: float, iou: float, agnostic: bool, most: int) -> np.ndarray:
    """The boxes of one image, (M, 6) float32: x1 y1 x2 y2 in pixels of the input, score, class; by falling score.

    Args:
        output: (4 + K, places): x y w h and a score for each class; or (N, 6), boxes after suppression.
        suppressed: it is the latter.
        conf: score above which a box counts.
        iou: overlap above which the weaker of two boxes of a class is dropped.
        agnostic: boxes of different classes suppress each other.
        most: boxes to keep.
    """
    if suppressed or output.shape[-1] == 6:
        return output[output[:, 4] > conf][:most]
    scores = output[4:].max(0)
    places = np.flatnonzero(scores > conf)
    if len(places) > MOST_CANDIDATES:
        places = places[np.argsort(-scores[places], kind="stable")[:MOST_CANDIDATES]]
    if not len(places):
        return np.zeros((0, 6), np.float32)
    found, scores = output[:, places], scores[places]
    classes = found[4:].argmax(0)
    half = found[2:4] / 2
    corners = np.concatenate([found[:2] - half, found[:2] + half])
    apart = corners if agnostic else corners + (classes * CLASS_OFFSET).astype(np.float32)
    keep = _suppress(apart, scores, iou, most)
    return np.column_stack([corners[:, keep].T, scores[keep], classes[keep]]).astype(np.float32)


def _suppress(corners: np.ndarray, scores: np.ndarray, iou: float, most: int) -> np.ndarray:
    """Indices of the boxes (4, N) that stay, by falling score."""
    order = np.argsort(-scores, kind="stable")
    x1, y1, x2, y2 = corners[:, order]
    area, alive, keep = (x2 - x1) * (y2 - y1), np.ones(len(order), bool), []
    for best in range(len(order)):
        if not alive[best]:
            continue
        keep.append(order[best])
        if len(keep) == most:
            break
        rest = slice(best + 1, None)
        wide = np.minimum(x2[best], x2[rest]) - np.maximum(x1[best], x1[rest])
        high = np.minimum(y2[best], y2[rest]) - np.maximum(y1[best], y1[rest])
        common = wide.clip(0) * high.clip(0)
        with np.errstate(invalid="ignore"):  # two boxes without area have no overlap
            alive[rest] &= ~((common / (area[best] + area[rest] - common)).astype(np.float64) > iou)
    return np.array(keep, dtype=int)
