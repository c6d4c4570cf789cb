"""Where images come from, as the command line says it: folders, cameras, streams."""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from cfg.errors import UserError


@dataclass(frozen=True)
class FolderOptions:
    """A folder to watch, absolute; `new_only`: what is in it before the first start is left alone."""

    path: str
    new_only: bool = False

    @property
    def shown(self) -> str:
        """Its path as text."""
        return os.fsencode(self.path).decode("utf-8", "backslashreplace")


@dataclass(frozen=True)
class StreamOptions:
    """A stream by its URL, or a camera of this machine by its number. `shown`: without user and password."""

    address: str = field(repr=False)
    shown: str = ""


@dataclass(frozen=True)
class CameraState:
    """How a camera is: counts since the start of the process, and why it is not healthy, empty where it is.

    Attributes:
        submitted: images that have had their outcome.
        waiting: files that were found, and are still being written or wait for their turn.
        skipped: frames replaced by later ones before they were inspected; files deleted before they were read.
        reason: what is wrong.
    """

    submitted: int
    waiting: int
    skipped: int
    reason: str


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add ``--source`` and ``--new-only`` to a command line."""
    parser.add_argument("--source", nargs="+", default=[], metavar="SOURCE", help="inspect the images that arrive here: a folder to watch, "
                        "rtsp://... or another stream, the number of a camera, a .streams file")  # fmt: skip
    parser.add_argument("--new-only", action="store_true", help="with a watched folder: skip the images that are there at the first start")


def read_options(arguments: argparse.Namespace, own: Iterable[Path]) -> tuple[FolderOptions | StreamOptions, ...]:
    """Read what `add_arguments` added.

    Args:
        arguments: the command line.
        own: folders that the service writes into.

    Raises:
        UserError: an address means nothing, or a folder cannot be watched.
    """
    from data.streams.addresses import is_stream, listed_streams, without_password

    found: list[FolderOptions | StreamOptions] = []
    for text in arguments.source:
        if is_stream(text):
            found += [StreamOptions(address, without_password(address)) for address in listed_streams(text)]
        else:
            found.append(FolderOptions(_folder(text), arguments.new_only))
    addresses = [option.address for option in found if isinstance(option, StreamOptions)]
    if len(set(addresses)) < len(addresses):
        raise UserError("--source: expected each camera once, got one twice; leave one out")
    _check_apart([Path(option.path) for option in found if isinstance(option, FolderOptions)], own)
    return tuple(found)


def _folder(text: str) -> str:
    if "://" in text:
        raise UserError(f"--source {text.split('://')[0]}://...: expected rtsp://, rtsps://, rtmp://, http://, https://, tcp:// or "
                        "udp://, a camera's number or a folder")  # fmt: skip
    if not os.path.isdir(text):
        came = "a file, which detect.py reads" if os.path.exists(text) else "nothing of that name"
        raise UserError(f"--source {text}: expected a folder to watch, a stream's URL or a camera's number, got {came}")
    if not os.access(text, os.R_OK | os.X_OK):
        raise UserError(f"--source {text}: expected a folder that can be read; change its rights")
    return os.path.abspath(text)


def _check_apart(watched: list[Path], own: Iterable[Path]) -> None:
    """Refuse folders of which one lies in another: their images would be inspected twice, or those that we keep again."""
    real = [path.resolve() for path in watched]
    kept = [Path(path).resolve() for path in own]
    for number, folder in enumerate(real):
        for other in real[:number] + kept:
            if folder.is_relative_to(other) or other.is_relative_to(folder):
                what = "that this service writes into" if other in kept else "given too"
                raise UserError(f"--source {watched[number]}: expected a folder apart from {other}, {what}; choose another")
