"""Where files lie: on a disk of this machine, or behind an address as s3://bucket/folder, through fsspec."""

from __future__ import annotations

import os
import re
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from cfg import UserError
from cfg.whole_files import write_through
from data.decode import Unreadable
from data.images import Picture, picture_of, read_image
from data.shards.extras import needed

ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*(::|://)")
LEFT_BEHIND = 3600  # seconds after which a file that was never finished is one that a kill left
GONE = (FileNotFoundError, PermissionError, IsADirectoryError, NotADirectoryError)  # of one image; else the store is in trouble


def is_address(place: str) -> bool:
    """Whether a place is the address of a store, and not a path: `file://` is a path."""
    return bool(ADDRESS.match(place)) and not place.startswith("file://")


def as_path(place: str) -> str:
    """A path without `file://`."""
    return place.removeprefix("file://")


class Folder(Protocol):
    """A folder that a job writes to. Names may hold one `/`; files appear as a whole or not at all."""

    place: str

    def names(self, below: str = "") -> set[str]:
        """Names of the files and folders in it, or in a folder of it; empty where there is none."""

    def open(self, name: str) -> BinaryIO:
        """Open a file to read. Raises FileNotFoundError."""

    def write(self, name: str, data: bytes) -> None:
        """Write a file as a whole; one of that name is replaced."""

    def create(self, name: str, data: bytes) -> bool:
        """Write a file as a whole where there is none of that name; False where there is one."""

    def sweep(self, below: str = "") -> None:
        """Remove what killed workers left half-written, where a store can hold such a thing."""


def open_folder(place: str) -> Folder:
    """The folder at a path or an address; it need not exist. Raises `UserError` where the address cannot be used."""
    return StoreFolder(place) if is_address(place) else DiskFolder(as_path(place))


class DiskFolder:
    """A folder on a disk. What it has written survives a loss of power."""

    def __init__(self, place: str) -> None:
        self.path = Path(os.path.abspath(place))
        self.place = str(self.path)

    def names(self, below: str = "") -> set[str]:
        with self._told():
            try:
                return {name for name in os.listdir(self.path / below) if not name.startswith(".")}
            except FileNotFoundError:
                return set()

    def open(self, name: str) -> BinaryIO:
        return (self.path / name).open("rb")

    def write(self, name: str, data: bytes) -> None:
        with self._told(), self._whole(name, data) as part:
            os.replace(part, self.path / name)

    def create(self, name: str, data: bytes) -> bool:
        with self._told(), self._whole(name, data) as part:
            try:
                os.link(part, self.path / name)  # of all that writes at the same time, one succeeds
            except FileExistsError:
                return False
            except OSError:  # a file system without links: the last one counts
                if (self.path / name).exists():
                    return False
                os.replace(part, self.path / name)
            return True

    @contextmanager
    def _whole(self, name: str, data: bytes) -> Iterator[Path]:
        """The data in a file of another name that only this call knows; the folder's entries are on the disk afterwards."""
        target = self.path / name
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f".{target.name}.{uuid.uuid4().hex}.part")
        try:
            write_through(part, data)
            yield part
            _sync(target.parent)
        finally:
            part.unlink(missing_ok=True)

    def sweep(self, below: str = "") -> None:
        for part in (self.path / below).glob(".*.part"):
            try:
                if time.time() - part.stat().st_mtime > LEFT_BEHIND:
                    part.unlink()
            except OSError:
                pass  # another worker removed it

    @contextmanager
    def _told(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise UserError(f"{self.path}: cannot be read or written ({error.strerror or error}); free space, or correct the path or its "
                            "permissions; the shards that are done stay") from None  # fmt: skip


def _sync(folder: Path) -> None:
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


class StoreFolder:
    """A folder in a store that fsspec knows. An object store shows an object as a whole or not at all; in others a file that a kill
    cut off counts as missing, because a Parquet file has its description at the end.
    """

    def __init__(self, place: str) -> None:
        self.place = place.rstrip("/")
        self.fs, self.root = store(self.place)

    def names(self, below: str = "") -> set[str]:
        with reaching(self.place):
            try:
                found = self.fs.ls(f"{self.root}/{below}".rstrip("/"), detail=False)
            except FileNotFoundError:
                return set()
            own = below or self.root.rpartition("/")[2]  # some stores list the folder itself
            return {path.rstrip("/").rpartition("/")[2] for path in found} - {"", own}

    def open(self, name: str) -> BinaryIO:
        with reaching(self.place):
            file: BinaryIO = self.fs.open(f"{self.root}/{name}", "rb")
            return file

    def write(self, name: str, data: bytes) -> None:
        with reaching(self.place):
            self.fs.pipe_file(f"{self.root}/{name}", data)

    def create(self, name: str, data: bytes) -> bool:
        with reaching(self.place):
            try:
                self.fs.pipe_file(f"{self.root}/{name}", data, mode="create")
            except FileExistsError:
                return False
            return True

    def sweep(self, below: str = "") -> None:
        pass


@cache
def store(address: str) -> tuple[Any, str]:
    """Fsspec's file system and the path in it. Raises `UserError` for an address of no known store."""
    fsspec = needed("fsspec", address)
    with reaching(address):
        try:
            fs, path = fsspec.core.url_to_fs(address, use_listings_cache=False)
            return fs, path
        except (ImportError, ValueError) as error:
            raise UserError(f"{address}: expected an address that fsspec can open ({' '.join(str(error).split())[:160]}); "
                            "install its package, or correct the address") from None  # fmt: skip


@contextmanager
def reaching(place: str) -> Iterator[None]:
    """Turn what a store raises, but for a missing or existing file, into a `UserError`: each store has errors of its own."""
    try:
        yield
    except (UserError, Unreadable, FileNotFoundError, FileExistsError):
        raise
    except Exception as error:
        text = " ".join(str(error).split())[:200] or "no reason given"
        raise UserError(f"{place}: cannot be read or written ({type(error).__name__}: {text}); correct the address, the credentials or "
                        "the connection, and start again: the shards that are done stay") from None  # fmt: skip


def read_picture(place: str) -> Picture:
    """Read an image at a path or an address, as `data.images.read_image`.

    Raises:
        Unreadable: it is missing, not to be read by us, or no image that can be used.
        UserError: the store does not answer; the image may be fine.
    """
    if not is_address(place):
        return read_image(Path(place))
    fs, path = _split(place)
    with reaching(place):
        try:
            data = fs.cat_file(path)
        except GONE as error:
            reason = "file is missing" if isinstance(error, FileNotFoundError) else "permission denied"
            raise Unreadable(reason) from None
    return picture_of(data)


def _split(place: str) -> tuple[Any, str]:
    """The store of an image and its path there; the stores are kept, the many images are not."""
    if "::" in place:  # of chained stores
        return store.__wrapped__(place)
    protocol, _, rest = place.partition("://")
    fs, _ = store(f"{protocol}://{rest.partition('/')[0]}")
    return fs, fs._strip_protocol(place)
