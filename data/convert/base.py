"""Common to all annotation formats: the annotation of an image, the log of corrections, the list of readers."""

from __future__ import annotations

import argparse
import json
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cfg import UserError, nearest
from cfg.text import decode
from data.convert.index import ImageIndex
from data.earlier import leave_out_earlier
from data.files import walk

Corners = tuple[float, float, float, float]  # x1, y1, x2, y2 in pixels
Box = tuple[str, Corners]  # class name, and where


@dataclass
class Annotation:
    """The annotation of one image, before the image is found and any box is corrected.

    Args:
        origin: the annotation file.
        boxes_xyxy: (class name, (x1, y1, x2, y2)) in pixels.
        name: the image's name as written; empty where the format gives none.
        own_name: the name that the annotation file's own name stands for; empty where one file serves many images.
        hints: other names of the image (a path on another machine), which decide among several.
        folders: where the format keeps images, below the source or a folder above the annotation file.
        size: (width, height) in pixels of the annotated image, if the file names it.
        part: a split that the format knows.
        lost: how many annotations of this image could not be used.
        embedded: gives the image file that the annotation file holds, and its suffix; raises `ValueError`. ``None``
            where it holds none.
    """

    origin: Path
    boxes_xyxy: list[Box]
    name: str = ""
    own_name: str = ""
    hints: tuple[str, ...] = ()
    folders: tuple[str, ...] = ("images",)
    size: tuple[int, int] | None = None
    part: str | None = None
    lost: int = 0
    embedded: Callable[[], tuple[bytes, str]] | None = None


@dataclass
class Record:
    """An image with its annotation. `key` is its path below the source without suffix: split lists may name it so.

    `image` is ``None`` where the annotation file itself holds the image.
    """

    image: Path | None
    key: str
    annotation: Annotation
    part: str | None = None

    @property
    def title(self) -> Path:
        """Return the file to name in messages: the image, or the annotation file that holds it."""
        return self.image or self.annotation.origin


@dataclass
class Log:
    """What was changed, and what could not be used: kind -> [(file, text)], and [(file, reason)] of whole files.

    `mended`: annotations that were changed, or dropped by a rule or option. `lost`: annotations that could not be
    used. `skipped`: files and images left out. `doubtful`: names of images that a left-out annotation may mean.
    """

    mended: dict[str, list[tuple[Path, str]]] = field(default_factory=lambda: defaultdict(list))
    lost: dict[str, list[tuple[Path, str]]] = field(default_factory=lambda: defaultdict(list))
    skipped: list[tuple[Path, str]] = field(default_factory=list)
    doubtful: set[str] = field(default_factory=set)

    def mend(self, kind: str, file: Path, text: str = "") -> None:
        """Note one change that was made to what `file` says."""
        self.mended[kind].append((file, text))

    def lose(self, kind: str, file: Path, text: str = "") -> None:
        """Note one annotation that could not be used."""
        self.lost[kind].append((file, text))

    def skip(self, file: Path, reason: str, *names: str) -> None:
        """Note a file that is left out, and the names of the images that it may be about."""
        self.skipped.append((file, reason))
        self.doubtful.update(names)


class Reader(ABC):
    """One annotation format. `classes` is its fixed class list, in the order of the indices, where it has one."""

    classes: tuple[str, ...] = ()

    def __init__(self, source: Path, options: argparse.Namespace, log: Log) -> None:
        self.source, self.options, self.log = source, options, log
        self.index = ImageIndex(source, options.out)

    @staticmethod  # noqa: B027 (most formats have none)
    def add_arguments(parser: argparse.ArgumentParser) -> None:
        """Add the options that only this format has."""

    @abstractmethod
    def read(self) -> Iterator[Annotation]:
        """Yield the annotation of each image; note unusable files in the log. Raises `UserError`."""

    def files(self, suffix: str) -> list[Path]:
        """Return the annotation files below the source, sorted, without hidden ones and without earlier output."""
        found = leave_out_earlier(walk(self.source, {suffix}), self.source, self.options.out)
        for file in found:
            if not file.is_file():
                self.log.skip(file, "expected a file, got a pipe or a link to nothing", file.stem)
        return sorted(file for file in found if file.is_file())

    def text(self, path: Path) -> str:
        """Return the text of an annotation file. Raises `OSError`, or `ValueError` when it is no text."""
        text, encoding = decode(path.read_bytes())
        if encoding == "cp1252":
            self.log.mend("files read as Windows-1252, since they are not UTF-8", path)
        return text

    def json(self, path: Path) -> Any:
        """Return the content of a JSON file. Raises `OSError`, or `ValueError` when it is no JSON."""
        try:
            return json.loads(self.text(path))
        except RecursionError:
            raise ValueError("expected JSON, got one that is nested too deeply") from None

    def unannotated(self) -> list[Path]:
        """Return the images that may stand for defect-free ones where no annotation names them."""
        return self.index.images

    def key(self, image: Path) -> str:
        """Return the image's path below the source, without suffix, with `/`."""
        return image.relative_to(self.source).with_suffix("").as_posix()


def class_name(value: Any) -> str:
    """Return a class name as one line without outer blanks; empty where there is none, or half a character."""
    try:  # JSON may write a character in two halves
        text = str("" if value is None else value).encode("utf-16", "surrogatepass").decode("utf-16")
    except UnicodeDecodeError:
        return ""
    return " ".join(text.split())


def pixels(width: Any, height: Any) -> tuple[int, int] | None:
    """Return the size of an image as it was written; ``None`` where it is missing, zero or no number."""
    try:
        size = int(float(width)), int(float(height))
    except (OverflowError, TypeError, ValueError):
        return None
    return size if min(size) > 0 else None


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
