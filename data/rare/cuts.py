"""Defects as they are cut out of their images: pixels with some surroundings, boxes, and what the surroundings look like."""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np

MARGIN = 8  # least surroundings in pixels; blending takes the outer three from the target, also when the cut was made smaller
DEPTH = 3  # pixels at the edge that say what the surroundings look like
SURROUNDINGS = 0.15  # of the longer side of the defect, where that is more


@dataclass(frozen=True)
class Cut:
    """A defect, or several whose boxes touch, with its surroundings.

    Attributes:
        pixels: (h, w, 3) uint8.
        boxes_xyxy: (n, 4) in pixels of the cut.
        classes: (n,).
        sides: (4, 2) of `edges`; NaN where the cut ends at the image's edge, and nothing is known of what is beyond.
    """

    pixels: np.ndarray
    boxes_xyxy: np.ndarray
    classes: np.ndarray
    sides: np.ndarray

    def scaled(self, factor: float) -> Cut:
        """The cut in another size."""
        height, width = self.pixels.shape[:2]
        size = max(round(width * factor), 1), max(round(height * factor), 1)
        how = cv2.INTER_AREA if factor < 1 else cv2.INTER_LINEAR
        ratio = np.array([size[0] / width, size[1] / height] * 2)
        return replace(self, pixels=cv2.resize(self.pixels, size, interpolation=how), boxes_xyxy=self.boxes_xyxy * ratio)

    def mirrored(self) -> Cut:
        """The cut with left and right exchanged."""
        boxes = self.boxes_xyxy.copy()
        boxes[:, [0, 2]] = self.pixels.shape[1] - boxes[:, [2, 0]]
        pixels = np.ascontiguousarray(self.pixels[:, ::-1])
        return replace(self, pixels=pixels, boxes_xyxy=boxes, sides=self.sides[[2, 1, 0, 3]])


def groups(boxes_xyxy: np.ndarray, width: int, height: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Divide an image's boxes into what can be cut out by itself: a box goes with all boxes that its surroundings touch.

    Args:
        boxes_xyxy: (n, 4) in pixels.
        width, height: of the image.

    Returns:
        Indices of the boxes and the area (4,) `x1 y1 x2 y2`, whole pixels within the image, of each group.
    """
    found: list[tuple[list[int], np.ndarray]] = []
    for i in range(len(boxes_xyxy)):
        members, area = [i], _area(boxes_xyxy[[i]], width, height)
        while found and (touched := meet(area, np.array([other for _, other in found]))).any():
            members += [i for (others, _), joins in zip(found, touched) if joins for i in others]
            found = [group for group, joins in zip(found, touched) if not joins]
            area = _area(boxes_xyxy[members], width, height)
        found.append((members, area))
    return [(np.array(sorted(members)), area) for members, area in found]


def _area(boxes_xyxy: np.ndarray, width: int, height: int) -> np.ndarray:
    """The rectangle around boxes, with surroundings, in whole pixels within the image."""
    low, high = boxes_xyxy[:, :2].min(0), boxes_xyxy[:, 2:].max(0)
    margin = max(MARGIN, SURROUNDINGS * (high - low).max())
    low, high = np.floor(low - margin), np.ceil(high + margin)
    return np.concatenate([low.clip(0), np.minimum(high, (width, height))]).astype(np.int64)


def meet(area: np.ndarray, boxes_xyxy: np.ndarray) -> np.ndarray:
    """(n,) bool: which boxes (n, 4) have pixels in common with an area (4,)."""
    met: np.ndarray = (np.minimum(area[2:], boxes_xyxy[:, 2:]) > np.maximum(area[:2], boxes_xyxy[:, :2])).all(1)
    return met


def cut_out(pixels: np.ndarray, boxes_xyxy: np.ndarray, classes: np.ndarray, area: np.ndarray) -> Cut:
    """Cut an area (of `groups`) with its boxes (n, 4) and classes (n,) out of an image (H, W, 3)."""
    x1, y1, x2, y2 = area
    height, width = pixels.shape[:2]
    cut = pixels[y1:y2, x1:x2].copy()
    known = np.array([x1 > 0, y1 > 0, x2 < width, y2 < height])
    return Cut(cut, boxes_xyxy - [x1, y1, x1, y1], classes, np.where(known[:, None], edges(cut), np.nan))


def edges(pixels: np.ndarray) -> np.ndarray:
    """(4, 2) mean and standard deviation of the grey levels at the left, top, right and bottom edge of pixels (h, w, 3).

    The deviation says how rough a surface is, and a line of texture along one side and across the next which way it runs.
    """
    strips = pixels[:, :DEPTH], pixels[:DEPTH], pixels[:, -DEPTH:], pixels[-DEPTH:]
    return np.array([(strip.mean(), strip.std()) for strip in strips])
