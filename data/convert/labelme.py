"""labelme: one JSON file per image with `shapes` (label, points, shape_type); every shape becomes its bounding box."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Iterator
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from cfg.text import decode
from data.convert.base import Annotation, Box, Corners, Reader, class_name, pixels, register

SUFFIXES = {"BMP": ".bmp", "JPEG": ".jpg", "MPO": ".jpg", "PNG": ".png", "TIFF": ".tif", "WEBP": ".webp"}  # of images
IGNORED = "__ignore__"  # labelme's own label for regions to be left out


@register("labelme")
class LabelmeReader(Reader):
    """Reads every JSON file below the source; `imagePath` names the image, or else the JSON's own name (see `pairing`).

    Polygons and masks of one label and `group_id` are parts of one object, as in labelme's own converters; boxes are
    whole objects. The image inside the JSON is used where its file is not there.
    """

    def read(self) -> Iterator[Annotation]:
        for path in self.files(".json"):
            try:
                content = self.json(path)
                if not isinstance(content, dict) or not isinstance(content.get("shapes"), list):
                    raise ValueError("expected a labelme file with a list 'shapes'")
            except (OSError, ValueError) as error:
                self.log.skip(path, f"{error}", path.stem)
                continue
            boxes, lost = self._boxes(content["shapes"], path)
            embedded = partial(_picture, path) if content.get("imageData") else None
            yield Annotation(path, boxes, str(content.get("imagePath") or ""), path.stem, lost=lost,
                             size=pixels(content.get("imageWidth"), content.get("imageHeight")), embedded=embedded)

    def _boxes(self, shapes: list[Any], path: Path) -> tuple[list[Box], int]:
        """Return the boxes of all shapes, and how many shapes have none."""
        boxes: dict[Any, Box] = {}
        lost = 0
        for number, shape in enumerate(shapes):
            try:
                name, corners = _corners(shape)
            except (AttributeError, KeyError, OverflowError, TypeError, ValueError):
                self.log.lose("shapes without a label or two points", path, f"shape {number}: {str(shape)[:60]}")
                lost += 1
                continue
            if name == IGNORED:
                self.log.mend(f"regions called {IGNORED} dropped", path)
                continue
            group = shape.get("group_id")
            joins = group is not None and (shape.get("shape_type") or "polygon") in ("polygon", "mask")
            key = (name, str(group)) if joins else number
            if key in boxes:
                self.log.mend("polygons of one group joined", path, f"{name}, group {group}")
                corners = _around(boxes[key][1], corners)
            boxes[key] = (name, corners)
        return list(boxes.values()), lost


def _corners(shape: dict[str, Any]) -> Box:
    """Return label and bounding box of a shape. Raises `ValueError` and others when it has none."""
    name, kind = class_name(shape["label"]), shape.get("shape_type") or "polygon"
    points = [(float(x), float(y)) for x, y in shape["points"]]
    if not name or kind in ("point", "points") or len(points) < 2:
        raise ValueError
    if kind == "circle":
        (x, y), radius = points[0], math.dist(points[0], points[1])
        return name, (x - radius, y - radius, x + radius, y + radius)
    xs, ys = zip(*points)
    last = 1.0 if kind == "mask" else 0.0  # the corners of a mask are its first and last pixel
    return name, (min(xs), min(ys), max(xs) + last, max(ys) + last)


def _around(a: Corners, b: Corners) -> Corners:
    return min(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3])


def _picture(path: Path) -> tuple[bytes, str]:
    """Return the image file that a JSON file holds, and its suffix. Raises `ValueError` when it is none."""
    text = json.loads(decode(path.read_bytes())[0])["imageData"]
    try:
        data = base64.b64decode(str(text).rsplit(",", 1)[-1])  # some tools write a data URL
        with Image.open(BytesIO(data)) as content:
            return data, SUFFIXES[content.format]
    except (KeyError, OSError, ValueError) as error:
        raise ValueError(f"its image was not found, and its imageData is no image ({error})") from None
