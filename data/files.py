"""Find image files: which suffixes count, folders with links, list files. The same for data sets and for detect.py."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from pathlib import Path
from stat import S_ISBLK, S_ISCHR, S_ISDIR, S_ISFIFO, S_ISSOCK

from cfg import UserError
from cfg.text import decode

# What the suffix says decides only what is looked at; what a file holds is decided by its content (`data.decode`).
IMAGE_SUFFIXES = frozenset(
    ".avif .bmp .dib .dng .heic .heif .j2k .jfif .jp2 .jpe .jpeg .jpg .mpo .pbm .pgm .png .pnm .ppm .tif .tiff .webp".split()
)
KINDS = {S_ISDIR: "a folder", S_ISFIFO: "a pipe", S_ISSOCK: "a socket", S_ISCHR: "a device", S_ISBLK: "a device"}
MISSING = "file is missing"


def is_image(path: str | Path) -> bool:
    """Whether a path's suffix is one of an image."""
    return os.path.splitext(path)[1].lower() in IMAGE_SUFFIXES


def no_file(path: str | Path) -> str:
    """Why no file can be read at a path, as far as that is known without opening it; empty where there is one."""
    try:
        mode = os.stat(path).st_mode
    except FileNotFoundError:
        return "a link to nothing" if os.path.islink(path) else MISSING
    except OSError as error:
        return (error.strerror or str(error)).lower()
    return next((f"{kind}, not a file" for is_kind, kind in KINDS.items() if is_kind(mode)), "")


def walk(folder: Path, suffixes: Collection[str] = IMAGE_SUFFIXES, exclude: Path | None = None) -> Iterator[Path]:
    """Yield the files below a folder whose suffix (in lower case) is among `suffixes`, hidden files and folders left out.

    Linked folders are entered after all others, each real folder once: links may form loops. Files come in alphabetical
    order within a folder; one folder's names are in memory at a time.

    Args:
        folder: where to begin.
        exclude: a folder, resolved, that is never entered.
    """
    seen: set[str] = {str(exclude)} if exclude else set()
    waiting = [str(folder)]
    for start in waiting:  # grows: the links found on the way
        for here, folders, names in os.walk(start):
            real = os.path.realpath(here)
            if real in seen:
                folders.clear()
                continue
            seen.add(real)
            shown = sorted(name for name in folders if not name.startswith("."))
            waiting += [os.path.join(here, name) for name in shown if os.path.islink(os.path.join(here, name))]
            folders[:] = [name for name in shown if not os.path.islink(os.path.join(here, name))]
            for name in sorted(names):
                if not name.startswith(".") and os.path.splitext(name)[1].lower() in suffixes:
                    yield Path(here, name)


def find_images(folder: Path) -> list[Path]:
    """Return all images below a folder, sorted (see `walk`)."""
    return sorted(walk(folder))


def list_images(entry: Path) -> list[Path]:
    """Return the images that one entry of a data YAML stands for: a folder, an image, or a text file with one path per line.

    The files that a list names need not exist.

    Raises:
        UserError: the entry is a file that is not readable text.
    """
    if entry.is_dir():
        return find_images(entry)
    return [entry] if is_image(entry) else [place_listed(line, entry.parent) for line in read_list(entry)]


def read_list(path: Path) -> list[str]:
    """Return the lines of a text file without blanks at their ends, empty lines and comments (`#`).

    Raises:
        UserError: it is not readable text.
    """
    try:
        raw = path.read_bytes()
        text = os.fsdecode(raw) if _names_files(raw) else decode(raw)[0]
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: expected a folder or a text file with one path per line ({error}); correct it") from None
    lines = [line.strip("\ufeff \t") for line in text.splitlines()]  # the mark: files joined on Windows
    return [line for line in lines if line and not line.startswith("#")]


def _names_files(raw: bytes) -> bool:
    """Whether a list's first line with bytes that are no UTF-8 names a file: names may be in no encoding at all."""
    for line in raw.splitlines():
        try:
            line.decode()
        except UnicodeDecodeError:
            return os.path.exists(line.strip())
    return False


def place_listed(line: str, folder: Path) -> Path:
    r"""Return the file that a line of a list means: as in ultralytics, `./` is the list's own folder, and other relative
    paths are of the working folder; where that has no such file, the other way round. Windows' `\` is read as `/`.
    """
    for text in dict.fromkeys((line, line.replace("\\", "/"))):
        places = [folder / text, Path(text)]
        for place in places if text.startswith("./") else places[::-1]:
            if place.exists():
                return Path(os.path.abspath(place))
    return Path(os.path.abspath(folder / line))
