r"""Names of images as annotation tools write them: folders with `/` or `\\`, drive letters, URLs, any suffix."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import PurePosixPath
from typing import Generic, TypeVar
from urllib.parse import unquote, urlsplit

from PIL import Image

from data.files import IMAGE_SUFFIXES

T = TypeVar("T")
SAME, OTHER_CASE, OTHER_SUFFIX = range(3)  # how two file names agree, best first
WORSE = 100  # distance of another case, twice that of another suffix: more than all folders


@dataclass(frozen=True)
class Name:
    """A name taken apart: `text` with `/` as an operating system would look for it, `parts` its folders and file name.

    `stem` is the file name without the suffix of an image format: that of `scan.2` is `scan.2`.
    """

    text: str
    parts: tuple[str, ...]

    @property
    def folders(self) -> tuple[str, ...]:
        """Return the folders before the file name."""
        return self.parts[:-1]

    @property
    def file(self) -> str:
        """Return the file name; empty when there is none."""
        return self.parts[-1] if self.parts else ""

    @property
    def stem(self) -> str:
        """Return the file name without the suffix of an image format."""
        return split_suffix(self.file)[0]

    @property
    def suffix(self) -> str:
        """Return the suffix of an image format with its dot; empty when there is none."""
        return split_suffix(self.file)[1]


def parse_name(written: str) -> Name:
    """Take a name apart as a tool wrote it. Raises `ValueError` for a URL, or characters, that are none."""
    text = written.strip()
    if re.match(r"[A-Za-z][\w+.-]+://", text):
        text = unquote(urlsplit(text).path)
    text = re.sub(r"^[A-Za-z]:(?=[\\/])", "", text).replace("\\", "/")
    text = re.sub(r"\.(xml|json|txt)$", "", text, flags=re.IGNORECASE)  # some tools name the annotation file
    parts: list[str] = []
    for part in text.split("/"):
        if part == "..":
            del parts[-1:]
        elif part not in ("", "."):
            parts.append(unicodedata.normalize("NFC", _readable(part)))
    return Name(text, tuple(parts))


def _readable(part: str) -> str:
    """Return a file name whose bytes are no UTF-8 (unpacked from a Windows archive) as the letters that it had."""
    try:
        part.encode()
    except UnicodeEncodeError:
        return os.fsencode(part).decode("cp1252", "replace")
    return part


def split_suffix(file: str) -> tuple[str, str]:
    """Return a file name without, and with only, the suffix of an image format."""
    suffix = PurePosixPath(file).suffix
    return (file.removesuffix(suffix), suffix) if suffix.lower() in _image_suffixes() else (file, "")


@cache
def _image_suffixes() -> frozenset[str]:
    return IMAGE_SUFFIXES | Image.registered_extensions().keys()


def common_tail(a: Sequence[str], b: Sequence[str]) -> int:
    """Return how many last folders two paths share."""
    count = 0
    while count < min(len(a), len(b)) and a[-1 - count] == b[-1 - count]:
        count += 1
    return count


def nearness(a: Sequence[str], b: Sequence[str]) -> int:
    """Return how many folders two paths share at their beginning and end: `xml/left` and `images/left` share one."""
    head = common_tail(a[::-1], b[::-1])
    return head + common_tail(a[head:], b[head:])


class Catalogue(Generic[T]):
    """Images by their names; finds those that another name may mean."""

    def __init__(self, names: Mapping[T, Name]) -> None:
        self.names = names
        self.folders = frozenset(name.folders for name in names.values())
        self._tails = {folders[i:] for folders in self.folders for i in range(len(folders) + 1)}
        self._by_tail: dict[tuple[str, tuple[str, ...]], list[T]] = defaultdict(list)  # stem, last folders
        for item, name in names.items():
            for i in range(len(name.parts)):
                self._by_tail[name.stem.casefold(), name.folders[i:]].append(item)

    def akin(self, name: Name, tail: tuple[str, ...] = ()) -> list[T]:
        """Return all images of a name's stem, in any case and format, whose last folders are `tail`."""
        return self._by_tail.get((name.stem.casefold(), tail), [])

    def closest(self, name: Name, may_mean: Callable[[T], bool] = lambda item: True) -> list[T]:
        """Return the images of a name's stem that agree best with it, by folder, then file name.

        Where a folder that the name gives is there, and the file is not in it, a namesake elsewhere is another
        picture: nothing is returned. Nor are images that fail `may_mean`.
        """
        tail = name.folders
        while tail and tail not in self._tails:
            tail = tail[1:]
        found = best(filter(may_mean, self.akin(name, tail)), lambda item: -self.kind(name, item))
        return best(found, lambda item: common_tail(_folded(name), _folded(self.names[item])))

    def kind(self, name: Name, item: T) -> int:
        """Return how the file name of an image of the name's stem agrees: `SAME`, `OTHER_CASE` or `OTHER_SUFFIX`."""
        mine = self.names[item]
        if name.file == (mine.file if name.suffix else mine.stem):  # without suffix, any image of that stem
            return SAME
        return OTHER_CASE if name.suffix.casefold() in ("", mine.suffix.casefold()) else OTHER_SUFFIX

    def distance(self, name: Name, item: T) -> int:
        """Return 0 for the very name, and more for folders that do not agree, another case, another suffix."""
        return len(name.folders) - common_tail(name.folders, self.names[item].folders) + WORSE * self.kind(name, item)


def _folded(name: Name) -> tuple[str, ...]:
    return tuple(folder.casefold() for folder in name.folders)


def best(items: Iterable[T], score: Callable[[T], int]) -> list[T]:
    """Return all items of the highest score."""
    scored = [(score(item), item) for item in items]
    highest = max((value for value, _ in scored), default=0)
    return [item for value, item in scored if value == highest]
