"""The images behind `--source`, on disks and in stores, listed lazily."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath

from cfg.errors import UserError
from cfg.text import decode
from data.files import is_image, place_listed, read_list
from data.shards.folders import as_path, is_address, reaching, store
from data.streams.addresses import is_stream
from engine.detection.listing import FileList


def list_images(sources: Iterable[str], exclude: str) -> Iterator[str]:
    """Yield the path or address of every image, in the order of the sources; as detect.py lists them, but for videos.

    Args:
        sources: images, folders, globs and `.txt` lists, each a path or an address; lists may hold both.
        exclude: the job's folder, which is never entered.

    Raises:
        UserError: a source is missing, or holds no image.
    """
    for source in sources:
        number = videos = 0
        for place in _listed(source, exclude):
            if is_image(place):
                number += 1
                yield place
            else:
                videos += 1
        if not number:
            raise UserError(f"--source {source}: expected images, got none; correct the path or the address")
        if videos:
            print(f"--source {source}: {videos} videos are left out: --shards looks at images; detect.py without it reads videos", file=sys.stderr)


def check_sources(sources: Iterable[str]) -> None:
    """Raise `UserError` for cameras and streams, which have no end."""
    for source in sources:
        if not is_store(source) and is_stream(source):
            raise UserError(f"--source {source}: expected images with --shards, got a camera or stream; leave --shards out")


def is_store(source: str) -> bool:
    """Whether a source is the address of a store: `http://` is a camera's."""
    return is_address(source) and not source.lower().startswith(("rtsp", "rtmp", "tcp:", "udp:", "http:", "https:"))


def _listed(source: str, exclude: str) -> Iterator[str]:
    if is_store(source):
        yield from _stored(source)
        return
    path = Path(as_path(source))
    if path.suffix.lower() == ".txt" and path.is_file() and any(map(is_address, lines := read_list(path))):
        yield from (line if is_address(line) else os.path.abspath(place_listed(line, path.parent)) for line in lines)
        return
    yield from (str(file) for file, _ in FileList([as_path(source)], Path(exclude)))


def _stored(source: str) -> Iterator[str]:
    """The files of one source in a store, folder by folder; hidden ones left out."""
    fs, path = store(source)
    start = source[: len(source.rstrip("/")) - len(path.strip("/"))]  # protocol, and host where there is one
    with reaching(source):
        if source.lower().endswith(".txt"):
            yield from _list_file(source, fs.cat_file(path))
        elif re.search(r"[*?\[]", path):
            yield from (start + found.lstrip("/") for found in sorted(fs.glob(path)))
        elif is_image(path):
            yield source
        else:
            for folder, folders, names in fs.walk(path):
                folders[:] = sorted(name for name in folders if not name.startswith("."))
                visible = (name for name in sorted(names) if name and not name.startswith(".") and is_image(name))
                yield from (f"{start}{folder.strip('/')}/{name}" for name in visible)


def _list_file(source: str, data: bytes) -> Iterator[str]:
    """The lines of a list in a store; relative ones are beside the list."""
    try:
        lines = decode(data)[0].splitlines()
    except ValueError as error:
        raise UserError(f"--source {source}: {error}") from None
    base = source.rpartition("/")[0]
    for line in (line.strip() for line in lines):
        if line and not line.startswith("#"):
            yield line if is_address(line) else f"{base}/{PurePosixPath(line)}"
