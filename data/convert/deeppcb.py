"""DeepPCB (Tang et al. 2019): `groupX/X_not/N.txt` with lines `x1 y1 x2 y2 type` for image `groupX/X/N_test.jpg`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from data.convert.base import Annotation, Box, Reader, register


@register("deeppcb")
class DeepPcbReader(Reader):
    """Reads the annotation files of all `*_not` folders; the defect-free templates `N_temp.jpg` are no part of it."""

    classes = ("open", "short", "mousebite", "spur", "copper", "pin-hole")

    def read(self) -> Iterator[Annotation]:
        for path in self.files(".txt"):
            if not path.parent.name.endswith("_not"):
                continue
            folder = path.parent.name.removesuffix("_not")
            try:
                boxes, lost = self._boxes(path)
            except (OSError, ValueError) as error:
                self.log.skip(path, f"{error}", f"{path.stem}_test")
                continue
            yield Annotation(path, boxes, f"../{folder}/{path.stem}_test", f"{path.stem}_test", lost=lost)

    def _boxes(self, path: Path) -> tuple[list[Box], int]:
        """Return the boxes of a file, and how many of its lines are none."""
        boxes: list[Box] = []
        lost = 0
        for number, line in enumerate(self.text(path).splitlines(), 1):
            tokens = re.split(r"[\s,;]+", line.strip(" \t,;\ufeff"))
            if tokens == [""]:
                continue
            try:
                x1, y1, x2, y2, kind = map(float, tokens)
                if kind not in range(1, len(self.classes) + 1):
                    raise ValueError
                boxes.append((self.classes[int(kind) - 1], (x1, y1, x2, y2)))
            except ValueError:
                self.log.lose("lines that are no box", path, f"line {number}: expected 'x1 y1 x2 y2 type' with type 1 "
                              f"to {len(self.classes)}, got '{line[:60]}'")
                lost += 1
        return boxes, lost

    def unannotated(self) -> list[Path]:
        return [image for image in super().unannotated() if image.stem.endswith("_test")]

    def key(self, image: Path) -> str:
        return super().key(image).removesuffix("_test")
