"""Pascal VOC: one XML file per image with `object/name` and `object/bndbox` (Everingham et al. 2010)."""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Iterator
from pathlib import Path
from xml.etree.ElementTree import Element

from data.convert.base import Annotation, Box, Corners, Reader, class_name, pixels, register
from data.convert.xml import read_xml

CORNERS = ("xmin", "ymin", "xmax", "ymax")


@register("voc")
class VocReader(Reader):
    """Reads every XML file below the source; `filename` names the image, or else the XML's own name (see `pairing`)."""

    @staticmethod
    def add_arguments(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--difficult", choices=("keep", "drop"), default="keep",
                            help="objects flagged difficult (default: keep)")
        parser.add_argument("--one-based", action="store_true",
                            help="corners count pixels from 1 and include the last one, as VOC itself defines them; "
                                 "most tools, and NEU-DET, write plain coordinates")

    def read(self) -> Iterator[Annotation]:
        for path in self.files(".xml"):
            try:
                root = read_xml(path, self.text)
                if root.tag != "annotation":
                    raise ValueError(f"expected the root element 'annotation', got '{root.tag}'")
            except (OSError, ValueError) as error:
                self.log.skip(path, f"{error}", path.stem)
                continue
            boxes, lost = self._boxes(root, path)
            name, folder, full = (_text(root, key) for key in ("filename", "folder", "path"))
            hints = tuple(hint for hint in (folder and f"{folder}/{name}", full) if hint)
            yield Annotation(path, boxes, name or full, path.stem, hints, ("JPEGImages", "images"), 
                             pixels(_text(root, "size/width"), _text(root, "size/height")), lost=lost)

    def _boxes(self, root: Element, path: Path) -> tuple[list[Box], int]:
        """Return the boxes of all objects, and how many objects have none that can be used."""
        boxes: list[Box] = []
        lost = 0
        for node in _objects(root):
            name = class_name(node.findtext("name"))
            if self.options.difficult == "drop" and _text(node, "difficult") in ("1", "true", "True"):
                self.log.mend("difficult boxes dropped", path, name)
                continue
            corners = self._corners(node, path, name) if name else []
            boxes += [(name, box) for box in corners]
            if not name:
                self.log.lose("objects without a name", path)
            lost += not corners
        return boxes, lost

    def _corners(self, node: Element, path: Path, name: str) -> list[Corners]:
        """Return the boxes of one object: those in `bndbox`, else around its rotated box or polygon."""
        shift = 1.0 if self.options.one_based else 0.0
        boxes: list[Corners] = []
        for box in node.findall("bndbox"):
            try:
                x1, y1, x2, y2 = (float(_text(box, key)) for key in CORNERS)
            except ValueError:
                self.log.lose("objects whose bndbox is no four numbers", path, name)
                return []
            boxes.append((x1 - shift, y1 - shift, x2, y2))
        if boxes:
            return boxes
        for kind, around in (("rotated boxes", _rotated), ("polygons", _polygon)):
            if corners := around(node):
                self.log.mend(f"{kind}: the box around them taken", path, name)
                return [corners]
        self.log.lose("objects without a box", path, name)
        return []


def _objects(node: Element) -> Iterator[Element]:
    """Give all `object` elements, not those inside another: its parts have boxes of their own."""
    nodes = [node]
    while nodes:
        node = nodes.pop()
        if node.tag == "object":
            yield node
        else:
            nodes += reversed(node)


def _text(node: Element, key: str) -> str:
    return (node.findtext(key) or "").strip()


def _rotated(node: Element) -> Corners | None:
    """Return the box around a rotated one (roLabelImg: centre, sides, angle in radians), ``None`` without one."""
    try:
        x, y, width, height, angle = (float(_text(node, f"robndbox/{key}")) for key in ("cx", "cy", "w", "h", "angle"))
    except ValueError:
        return None
    cos, sin = abs(math.cos(angle)), abs(math.sin(angle))
    half_width, half_height = (width * cos + height * sin) / 2, (width * sin + height * cos) / 2
    return x - half_width, y - half_height, x + half_width, y + half_height


def _polygon(node: Element) -> Corners | None:
    """Return the box around a polygon (points `x1`, `y1`, `x2` ..., or `pt/x`, `pt/y`), ``None`` without one."""
    try:
        xs, ys = ([float(leaf.text or "") for leaf in node.iterfind("polygon//*") if re.fullmatch(rf"{axis}\d*", leaf.tag)]
                  for axis in "xy")
    except (TypeError, ValueError):
        return None
    return (min(xs), min(ys), max(xs), max(ys)) if xs and ys else None
