"""Pascal VOC: one XML file per image with `object/name` and `object/bndbox` (Everingham et al. 2010)."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

from data.convert.base import Reader, Record, register


@register("voc")
class VocReader(Reader):
    """Reads every XML file below the source; the image has the XML's stem, or else the name in `filename`."""

    @staticmethod
    def add_arguments(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--difficult", choices=("keep", "drop"), default="keep",
                            help="objects flagged difficult (default: keep)")
        parser.add_argument("--one-based", action="store_true",
                            help="corners count pixels from 1 and include the last one, as VOC itself defines them; "
                                 "most tools, and NEU-DET, write plain coordinates")

    def read(self) -> Iterator[Record]:
        for path in sorted(self.source.rglob("*.xml")):
            try:
                root = ElementTree.parse(path).getroot()
                image = self.index.find(path.stem, path) or self.index.find(root.findtext("filename") or "", path)
                if root.tag != "annotation":
                    raise ValueError(f"expected the root element 'annotation', got '{root.tag}'")
                if image is None:
                    raise ValueError("its image was not found")
                boxes = [box for node in root.iter("object") if (box := self._object(node, path))]
            except (ElementTree.ParseError, OSError, ValueError) as error:
                self.log.skip(path, f"{error}")
                continue
            yield Record(image, self.key(image), boxes, path)

    def _object(self, node: ElementTree.Element, path: Path) -> tuple[str, tuple] | None:
        name = (node.findtext("name") or "").strip()
        if not name:
            raise ValueError("an object has no name")
        if self.options.difficult == "drop" and (node.findtext("difficult") or "0").strip() == "1":
            self.log.mend("difficult boxes dropped", path, name)
            return None
        try:
            corners = [float(node.findtext(f"bndbox/{key}") or "") for key in ("xmin", "ymin", "xmax", "ymax")]
        except ValueError:
            raise ValueError(f"object '{name}': expected numbers in bndbox/xmin, ymin, xmax, ymax") from None
        shift = 1.0 if self.options.one_based else 0.0
        return name, (corners[0] - shift, corners[1] - shift, corners[2], corners[3])
