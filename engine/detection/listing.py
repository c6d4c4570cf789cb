"""The files behind ``--source``: folders, globs and list files, listed lazily, with a place for the outputs of each."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePath

from cfg.errors import UserError
from data.files import IMAGE_SUFFIXES, place_listed, read_list, walk

from ultralytics.data.utils import VID_FORMATS

VIDEO_SUFFIXES = frozenset(f".{name.lower()}" for name in VID_FORMATS)
MEDIA_SUFFIXES = IMAGE_SUFFIXES | VIDEO_SUFFIXES


class FileList:
    """The files of one or more sources, listed anew and lazily at every iteration.

    Every source is checked at construction. Relative output paths start at the source's own folder; with several
    sources at their common parent, so that equal names in different folders never meet.

    Args:
        sources: files, folders (walked recursively), globs, or ``.txt`` files with one path or glob per line.
        exclude: folder that is never entered: the run folder, which may lie below a source.

    Raises:
        UserError: a source is missing, empty or of an unknown kind.
    """

    def __init__(self, sources: Iterable[str], exclude: Path | None = None) -> None:
        self.sources = list(sources)
        self.exclude = exclude.resolve() if exclude else None
        roots = [_root(source, self._list(source)) for source in self.sources]
        for source in self.sources:
            if next(self._list(source), None) is None:
                raise UserError(f"--source {source}: expected images or videos, got none; known extensions: {_known()}")
        self.base = _common(roots)
        self.total, self._firsts = 0, dict[Path, Path]()  # the first file of each folder
        for path, _ in self:
            self.total += 1
            self._firsts.setdefault(path.parent, path)

    def __iter__(self) -> Iterator[tuple[Path, PurePath]]:
        """Yield (absolute path, path relative to the outputs)."""
        for source in self.sources:
            for path in self._list(source):
                yield path, self.relative(path)

    def first_in(self, folder: Path) -> Path | None:
        """The first of the files that lies below a folder, None where none does."""
        real = folder.resolve()
        return next((path for parent, path in self._firsts.items() if parent.resolve().is_relative_to(real)), None)

    def relative(self, path: Path) -> PurePath:
        """Where the outputs of a file go below the run folder."""
        inside = self.base is not None and path.is_relative_to(self.base)
        return path.relative_to(self.base if self.base and inside else path.anchor)

    def _list(self, source: str) -> Iterator[Path]:
        path = Path(source)
        if path.is_dir():
            return walk(_absolute(path), MEDIA_SUFFIXES, self.exclude)
        if path.is_file():
            return _read_list(path) if path.suffix.lower() == ".txt" else _one(source)
        if glob.has_magic(source):
            return _match(source)
        raise UserError(f"--source {source}: expected a file, folder, glob, camera number or stream URL, but nothing "
                        "is there; check the path")


def _one(source: str) -> Iterator[Path]:
    if Path(source).suffix.lower() not in MEDIA_SUFFIXES:
        ending = Path(source).suffix or "no extension"
        raise UserError(f"--source {source}: expected an image or video, got '{ending}'; known extensions: {_known()}")
    return iter([_absolute(source)])


def _match(pattern: str) -> Iterator[Path]:
    """Yield the media files of a glob in alphabetical order, those of a real folder once: linked ones may form loops."""
    seen: set[str] = set()
    for name in sorted(glob.glob(pattern, recursive=True), key=lambda name: (name.count(os.sep), name)):
        folder, file = os.path.split(name)
        real = os.path.join(os.path.realpath(folder), file)
        if Path(name).suffix.lower() in MEDIA_SUFFIXES and os.path.isfile(name) and real not in seen:
            seen.add(real)
            yield _absolute(name)


def _read_list(path: Path) -> Iterator[Path]:
    """Yield the files that a list names (`data.files.place_listed`), missing ones too; a line may be a glob."""
    for line in read_list(path):
        file = place_listed(line, path.parent)
        if glob.has_magic(line) and not file.exists():
            yield from _match(line if glob.glob(line, recursive=True) else str(path.parent / line))
        else:
            yield _absolute(file)


def _root(source: str, files: Iterator[Path]) -> Path | None:
    """Return the folder that a source's output paths are relative to."""
    path = Path(source)
    if path.is_dir():
        return _absolute(path)
    if path.is_file() and path.suffix.lower() != ".txt":
        return _absolute(path).parent
    root: Path | None = None
    for file in files:
        root = file.parent if root is None else _common([root, file.parent])
    return root


def _common(folders: Iterable[Path | None]) -> Path | None:
    """Return the deepest folder that holds all given ones; None where there is none (two drives)."""
    try:
        return Path(os.path.commonpath([str(folder) for folder in folders if folder is not None]))
    except ValueError:
        return None


def _absolute(path: str | Path) -> Path:
    return Path(os.path.abspath(path))  # not resolve(): a linked file keeps the name the user knows


def _known() -> str:
    return " ".join(sorted(MEDIA_SUFFIXES))
