"""DeepPCB (Tang et al. 2019): `groupX/X_not/N.txt` with lines `x1 y1 x2 y2 type` for image `groupX/X/N_test.jpg`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from data.convert.base import Reader, Record, register


@register("deeppcb")
class DeepPcbReader(Reader):
    """Reads the annotation files of all `*_not` folders; the defect-free templates `N_temp.jpg` are no part of it."""

    classes = ("open", "short", "mousebite", "spur", "copper", "pin-hole")

    def read(self) -> Iterator[Record]:
        for path in sorted(self.source.rglob("*_not/*.txt")):
            image = self.index.find(f"{path.stem}_test", path)
            try:
                if image is None:
                    raise ValueError(f"its image {path.stem}_test.jpg was not found")
                boxes = self._boxes(path)
            except (OSError, ValueError) as error:
                self.log.skip(path, f"{error}")
                continue
            yield Record(image, self.key(image), boxes, path)

    def _boxes(self, path: Path) -> list[tuple[str, tuple]]:
        boxes = []
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            tokens = line.replace(",", " ").split()
            if not tokens:
                continue
            try:
                *corners, kind = map(int, tokens)
                if len(corners) != 4 or not 1 <= kind <= len(self.classes):
                    raise ValueError
                boxes.append((self.classes[kind - 1], tuple(corners)))
            except ValueError:
                raise ValueError(f"line {number}: expected 'x1 y1 x2 y2 type' with type 1 to 6, got '{line}'") from None
        return boxes

    def unannotated(self) -> list[Path]:
        return [image for image in self.index.images if image.stem.endswith("_test")]

    def key(self, image: Path) -> str:
        return super().key(image).removesuffix("_test")
