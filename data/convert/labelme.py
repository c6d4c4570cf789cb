"""labelme: one JSON file per image with `shapes` (label, points, shape_type); every shape becomes its bounding box."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data.convert.base import Reader, Record, register


@register("labelme")
class LabelmeReader(Reader):
    """Reads every JSON file below the source; the image has the JSON's stem, or else the name in `imagePath`."""

    def read(self) -> Iterator[Record]:
        for path in sorted(self.source.rglob("*.json")):
            try:
                content = json.loads(path.read_text(encoding="utf-8"))
                if not isinstance(content, dict) or not isinstance(content.get("shapes"), list):
                    raise ValueError("expected a labelme file with a list 'shapes'")
                image = self.index.find(path.stem, path) or self.index.find(str(content.get("imagePath") or ""), path)
                if image is None:
                    raise ValueError("its image was not found")
                boxes = [box for shape in content["shapes"] if (box := self._shape(shape, path))]
            except (OSError, ValueError) as error:
                self.log.skip(path, f"{error}")
                continue
            yield Record(image, self.key(image), boxes, path)

    def _shape(self, shape: Any, path: Path) -> tuple[str, tuple] | None:
        try:
            name, kind = str(shape["label"]).strip(), shape.get("shape_type") or "polygon"
            points = [(float(x), float(y)) for x, y in shape["points"]]
        except (AttributeError, KeyError, TypeError, ValueError):
            raise ValueError("expected every shape to have a 'label' and 'points' [[x, y], ...]") from None
        if not name or not points:
            raise ValueError("a shape has no label or no points")
        if kind == "point" or len(points) < 2:
            self.log.mend("points without an area dropped", path, name)
            return None
        if kind == "circle":
            (x, y), radius = points[0], math.dist(points[0], points[1])
            return name, (x - radius, y - radius, x + radius, y + radius)
        xs, ys = zip(*points)
        return name, (min(xs), min(ys), max(xs), max(ys))
