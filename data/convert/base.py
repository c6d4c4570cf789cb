"""What every annotation format shares: the record of one image, the log of what was mended, the list of readers."""

from __future__ import annotations

import argparse
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from cfg import UserError, nearest
from data.files import find_images


@dataclass
class Record:
    """One image with its boxes as a reader found them, before any mending.

    `key` is the path below the source without suffix (it names the image in split lists), `boxes_xyxy` holds
    (class name, (x1, y1, x2, y2)) in pixels, `origin` is the annotation file, `part` a split that the format knows.
    """

    image: Path
    key: str
    boxes_xyxy: list[tuple[str, tuple[float, float, float, float]]]
    origin: Path
    part: str | None = None


@dataclass
class Log:
    """What was mended (kind -> [(file, text)]) and which files could not be used ([(file, reason)])."""

    mended: dict[str, list[tuple[Path, str]]] = field(default_factory=lambda: defaultdict(list))
    skipped: list[tuple[Path, str]] = field(default_factory=list)

    def mend(self, kind: str, file: Path, text: str = "") -> None:
        """Note one change that was made to what `file` says."""
        self.mended[kind].append((file, text))

    def skip(self, file: Path, reason: str) -> None:
        """Note a file that is left out."""
        self.skipped.append((file, reason))


class ImageIndex:
    """All images below a folder, found by relative path, file name or stem."""

    def __init__(self, source: Path) -> None:
        self.images = find_images(source)
        self.by_name: dict[str, list[Path]] = defaultdict(list)
        for image in self.images:
            for name in {image.name, image.stem}:
                self.by_name[name].append(image)

    def find(self, name: str, near: Path) -> Path | None:
        """Return the image of that name (with or without suffix) that shares the longest path with `near`."""
        name = name.replace("\\", "/").rsplit("/", 1)[-1]
        found = self.by_name.get(name) or self.by_name.get(Path(name).stem) or []
        return max(found, key=lambda image: _shared(image, near), default=None)


def _shared(a: Path, b: Path) -> int:
    count = 0
    for x, y in zip(a.parts, b.parts):
        if x != y:
            break
        count += 1
    return count


class Reader(ABC):
    """One annotation format. `classes` is its fixed class list, in the order of the indices, where it has one."""

    classes: ClassVar[tuple[str, ...]] = ()

    def __init__(self, source: Path, options: argparse.Namespace, log: Log) -> None:
        self.source, self.options, self.log = source, options, log
        self.index = ImageIndex(source)

    @staticmethod
    def add_arguments(parser: argparse.ArgumentParser) -> None:
        """Add the options that only this format has."""

    @abstractmethod
    def read(self) -> Iterator[Record]:
        """Yield one record per annotated image; note unusable files in the log. Raises `UserError`."""

    def unannotated(self) -> list[Path]:
        """Return the images that may stand for defect-free ones where no annotation names them."""
        return self.index.images

    def key(self, image: Path) -> str:
        """Return the image's path below the source, without suffix, with `/`."""
        return image.relative_to(self.source).with_suffix("").as_posix()


READERS: dict[str, type[Reader]] = {}


def register(name: str) -> Callable[[type[Reader]], type[Reader]]:
    """Make a reader available as `--format name`."""

    def add(reader: type[Reader]) -> type[Reader]:
        READERS[name] = reader
        return reader

    return add


def reader(name: str) -> type[Reader]:
    """Return a registered reader. Raises `UserError` with the nearest known name."""
    if name not in READERS:
        raise UserError(f"--format: expected one of {', '.join(sorted(READERS))}, got '{name}'{nearest(name, READERS)}")
    return READERS[name]
