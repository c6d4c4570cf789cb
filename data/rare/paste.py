"""Paste a defect into another image: find a place that looks like its surroundings, and blend it in there.

Blending solves Poisson's equation (Perez et al. 2003, section 3; OpenCV's `seamlessClone`): the gradients are the defect's, the
values at the border those of the image, so that no seam is left and the defect takes on the image's brightness.
"""

from __future__ import annotations

import cv2
import numpy as np

from data.rare.cuts import Cut, edges, meet

TRIES = 24  # places that are looked at
UNLIKE = 28.0  # grey levels by which the surroundings may differ, at the side where they differ most
ROUGHNESS = 2.0  # weight of a difference in their standard deviation beside one in their mean


def paste(pixels: np.ndarray, boxes_xyxy: np.ndarray, cut: Cut, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray] | None:
    """Return a copy of an image with the defect in it, and the defect's boxes (n, 4) there; None where there is no place.

    Args:
        pixels: (H, W, 3) uint8; not changed.
        boxes_xyxy: (m, 4) boxes of the image, which are kept clear.
        cut: what to paste, in the image's scale.
        rng: chooses the places that are looked at.
    """
    place = find_place(pixels, boxes_xyxy, cut, rng)
    if place is None:
        return None
    x, y = place
    height, width = cut.pixels.shape[:2]
    # OpenCV puts the middle of the mask's rectangle at `centre`, rounded as here.
    centre = int(x + width // 2), int(y + height // 2)
    mask = np.full((height, width), 255, np.uint8)
    blended = cv2.seamlessClone(cut.pixels, pixels, mask, centre, cv2.NORMAL_CLONE)
    return blended, cut.boxes_xyxy + [x, y, x, y]


def find_place(pixels: np.ndarray, boxes_xyxy: np.ndarray, cut: Cut, rng: np.random.Generator) -> tuple[int, int] | None:
    """Return x and y in pixels of the place, of some tried, whose surroundings are most like those of the cut.

    A place lies within the image, meets no box, and differs at no side by more than `UNLIKE` in brightness and roughness. A side at
    a time: at the edge of a part one side is background, which the surroundings of a defect on the part are not. None where no
    place does.
    """
    height, width = cut.pixels.shape[:2]
    room_x, room_y = pixels.shape[1] - width, pixels.shape[0] - height
    if min(room_x, room_y) < 0:
        return None
    best, least = None, UNLIKE
    for x, y in rng.integers(0, (room_x + 1, room_y + 1), (TRIES, 2)).tolist():
        if len(boxes_xyxy) and meet(np.array([x, y, x + width, y + height]), boxes_xyxy).any():
            continue
        unlike = np.abs(edges(pixels[y : y + height, x : x + width]) - cut.sides) * (1, ROUGHNESS)
        worst = 0.0 if np.isnan(unlike).all() else float(np.nanmax(unlike))
        if worst <= least:
            best, least = (x, y), worst
    return best
