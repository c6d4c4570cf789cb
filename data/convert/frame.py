"""Differences between the annotated image and the image file: EXIF orientation and size.

Training sees an image turned by its EXIF orientation (`data.images`). Some tools annotate it so, others as it is
stored; where the two differ in size, the size in the annotation file tells which it was.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from PIL import Image

from data.convert.base import Annotation, Box, Corners, Log
from data.images import ORIENTATION, TURNED, image_size

SLACK = 1.0  # pixels by which a box may leave the image that it was drawn on

# EXIF orientation -> a point (x, y) of the stored image of width w and height h, as it is seen.
TURNS: dict[int, Callable[[float, float, int, int], tuple[float, float]]] = {
    5: lambda x, y, w, h: (y, x),
    6: lambda x, y, w, h: (h - y, x),
    7: lambda x, y, w, h: (h - y, w - x),
    8: lambda x, y, w, h: (y, w - x),
}


def fit(annotation: Annotation, image: Path, title: Path, log: Log) -> tuple[list[Box], int, int]:
    """Return the boxes in pixels of the image as training sees it, with its width and height.

    Boxes drawn on the image as stored are turned. Boxes drawn on the image in another size are scaled where the
    sides agree; where they do not, and the boxes do not lie in the image, it is not the one that was annotated.

    Args:
        annotation: the boxes and the size that was written; without size they are taken as they are.
        image: the image file.
        title: the file to name in messages.
        log: takes what was changed.

    Raises:
        ValueError: the image cannot be read, or is another than the annotated one.
    """
    width, height = image_size(image)
    boxes, size = annotation.boxes_xyxy, annotation.size
    turn = _orientation(image, (width, height))
    if turn != 1 and (size is None or (size == (width, height) and (turn not in TURNED or width == height))):
        log.mend("images turned by EXIF: boxes taken as drawn on the turned image", title,
                 f"orientation {turn}, which the size in {annotation.origin.name} does not decide")
    if size is None or size == (width, height):
        return boxes, width, height
    if turn in TURNED and size == (height, width):
        log.mend("boxes turned as the image is by EXIF", title,
                 f"orientation {turn}, annotated as {size[0]} x {size[1]}")
        return [(name, _turn(box, turn, *size)) for name, box in boxes], width, height
    return _rescale(boxes, size, width, height, title, log), width, height


def _orientation(image: Path, seen: tuple[int, int]) -> int:
    """Return the EXIF orientation, 1 (upright) where the file has none or the decoder passes over it."""
    try:
        with Image.open(image) as content:
            turn, stored = content.getexif().get(ORIENTATION), content.size
    except Exception:  # whatever a damaged header does: the image has been measured
        return 1
    passed_over = turn in TURNED and stored == seen and seen[0] != seen[1]
    return turn if turn in range(1, 9) and not passed_over else 1


def _turn(box: Corners, turn: int, width: int, height: int) -> Corners:
    (x1, y1), (x2, y2) = (TURNS[turn](x, y, width, height) for x, y in (box[:2], box[2:]))
    return min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)


def _rescale(boxes: list[Box], size: tuple[int, int], width: int, height: int, title: Path, log: Log) -> list[Box]:
    w, h = size
    sizes = f"annotated as {w} x {h}, the image is {width} x {height}"
    same_sides = abs(width * h - height * w) <= max(w, h, width, height)  # the sides are whole pixels
    if same_sides and _inside(boxes, w, h):
        log.mend("boxes scaled to the size of the image", title, sizes)
        return [(name, (x1 * width / w, y1 * height / h, x2 * width / w, y2 * height / h))
                for name, (x1, y1, x2, y2) in boxes]
    if not _inside(boxes, width, height):
        raise ValueError(f"{sizes}, and boxes lie outside it: it is another image or was changed")
    log.mend("sizes that differ from the image's: boxes taken as written", title, sizes)
    return boxes


def _inside(boxes: list[Box], width: int, height: int) -> bool:
    return not any(value < -SLACK or value > side + SLACK  # false for what is no number: mended elsewhere
                   for _, box in boxes for value, side in zip(box, (width, height) * 2))
