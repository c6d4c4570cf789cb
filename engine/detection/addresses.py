"""Cameras and streams by their addresses: in arguments and ``.streams`` files, in messages, in the names of files."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from itertools import chain, count
from pathlib import Path, PurePath
from urllib.parse import urlsplit

from cfg.errors import UserError
from data.files import IMAGE_SUFFIXES, place_listed, read_list

from ultralytics.utils import ops

STREAM_SCHEMES = tuple(f"{scheme}://" for scheme in "rtsp rtsps rtmp rtmps tcp udp http https".split())
LONGEST_NAME = 100  # characters of a file name that a stream's address gives; a signed URL has thousands


def is_stream(source: str) -> bool:
    """True for a camera index, a stream URL or a ``.streams`` file, and False for everything that lies on a disk."""
    return source.lower().startswith(STREAM_SCHEMES) or Path(source).suffix.lower() == ".streams" or is_camera(source)


def is_camera(address: str) -> bool:
    """Whether an address is the number of a camera of this machine, and not the name of a file."""
    return address.isascii() and address.isdigit() and len(address) < 10 and not os.path.exists(address)


def without_password(address: str) -> str:
    """Return an address without the user's name and password, which go into no file name, result or message."""
    return re.sub(r"(?<=://)[^/?#]*@", "", address)


def file_names(shown: Iterable[str]) -> list[PurePath]:
    """Return a file name for each address, no two the same: its unusual characters replaced, its end cut off."""
    names: list[str] = []
    for address in shown:
        name = ops.clean_str(address).replace("/", "_").replace(os.sep, "_")[:LONGEST_NAME]
        numbered = (f"{name}-{number}" for number in count(2))
        names.append(next(free for free in chain([name], numbered) if free not in names))
    return [PurePath(name) for name in names]


def listed_streams(source: str) -> list[str]:
    """Return the addresses that one source stands for: itself, or the lines of a ``.streams`` file.

    Raises:
        UserError: the file is empty or not readable, or an address is none of a stream.
    """
    if Path(source).suffix.lower() != ".streams":
        _refuse_image(source)
        return [source]
    lines = [re.split(r"\s#", line)[0].strip() for line in read_list(Path(source))]
    if not lines:
        raise UserError(f"--source {source}: expected one stream per line, got an empty file")
    for line in lines:
        _refuse_image(line)
    return [line if is_camera(line) or "://" in line else str(place_listed(line, Path(source).parent)) for line in lines]


def _refuse_image(address: str) -> None:
    try:
        path = urlsplit(address).path
    except ValueError as error:
        raise UserError(f"--source {address}: expected a stream's address, got: {error}; correct it") from None
    if address.lower().startswith("http") and Path(path).suffix.lower() in IMAGE_SUFFIXES:
        raise UserError(f"--source {without_password(address)}: expected a stream, got an image's address; download it")
