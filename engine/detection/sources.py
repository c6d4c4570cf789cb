"""What detect.py looks at: images, folders, globs, list files, videos, cameras and network streams.

ultralytics reads videos and streams. Images are listed (`engine.detection.listing`) and read here: a folder must be walked
recursively without holding it in memory, images are read ahead while the network runs, and an unreadable one must be
told, skipped and counted.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from time import perf_counter

import numpy as np
from ultralytics.data.loaders import LoadImagesAndVideos, LoadStreams, SourceTypes
from ultralytics.utils import ops

from cfg.errors import UserError
from data.files import IMAGE_SUFFIXES
from data.images import Unreadable, read_image
from engine.detection.listing import VIDEO_SUFFIXES, FileList
from engine.detection.pipeline import HELD_BYTES, THREADS, read_ahead

STREAM_SCHEMES = ("rtsp://", "rtmp://", "tcp://", "udp://", "http://", "https://")

Batch = tuple[list[str], list[np.ndarray], list["Item"]]
Skip = Callable[[Path, str], None]
Prepare = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Item:
    """One picture on its way through the detector.

    Attributes:
        path: the file or stream it comes from.
        relative: where its outputs go below the run folder, with the source's own file name.
        kind: ``image``, ``video`` or ``stream``.
        label: how a progress line calls it, such as ``image 3/120``.
        frame: frame number from 1 in a video or stream, None for an image.
        fps: frames per second of a video or stream, 0 for an image.
        prepared: the picture as the network takes it, (h, w, 3) BGR uint8; None where the predictor does that.
        seconds: how long reading and preparing took.
    """

    path: Path
    relative: PurePath
    kind: str
    label: str
    frame: int | None = None
    fps: float = 0.0
    prepared: np.ndarray | None = field(default=None, repr=False, compare=False)
    seconds: float = 0.0


def is_stream(source: str) -> bool:
    """True for a camera index, a stream URL or a ``.streams`` file, and False for everything that lies on a disk."""
    if Path(source).suffix.lower() == ".streams":
        return True
    return (source.isdigit() and not Path(source).exists()) or source.lower().startswith(STREAM_SCHEMES)


@dataclass(frozen=True)
class Picture:
    """An image as a reading thread hands it on: (H, W, 3) BGR uint8, the same prepared for the network, the seconds, and
    what of the file is not looked at."""

    image_bgr: np.ndarray
    prepared: np.ndarray
    seconds: float
    note: str = ""

    @property
    def nbytes(self) -> int:
        """What it holds in memory."""
        return self.image_bgr.nbytes + self.prepared.nbytes


class MediaSource:
    """Batches of images and video frames in the form that ultralytics' predictor iterates over.

    Images are read and prepared in threads, ahead of the network, and come in the order of the files. A batch holds
    pictures of one size as the network takes them: then each is what it would be alone, and the result does not depend
    on the batch size.

    Args:
        files: what to read.
        skip: called with (path, reason) for everything unreadable, in the order of the files.

    Attributes:
        batch: most pictures per batch, fewer where they are huge. To be set before the iteration, as is `prepare`.
        prepare: makes of a picture what the network takes; called in threads.
    """

    mode = "image"
    source_type = SourceTypes()

    def __init__(self, files: FileList, skip: Skip) -> None:
        self.files, self.skip = files, skip
        self.batch = 1
        self.prepare: Prepare = _as_it_is

    def __iter__(self) -> Iterator[Batch]:
        paths: list[str] = []
        images: list[np.ndarray] = []
        items: list[Item] = []
        for item, image in self._pictures():
            if items and item.prepared.shape != items[0].prepared.shape:
                yield paths, images, items
                paths, images, items = [], [], []
            paths.append(str(item.path))
            images.append(image)
            items.append(item)
            if len(items) == self.batch or len(items) * image.nbytes > HELD_BYTES:
                yield paths, images, items
                paths, images, items = [], [], []
        if items:
            yield paths, images, items

    def _pictures(self) -> Iterator[tuple[Item, np.ndarray]]:
        ahead = self.batch + THREADS  # the next batch is there when this one is done
        read = read_ahead(self._load, self.files, ahead, lambda picture: picture.nbytes if picture else 0)
        for number, ((path, relative), loading) in enumerate(read, start=1):
            try:
                picture = loading.result()
                if picture is None:
                    yield from self._frames(path, relative, number)
                    continue
                yield self._image(path, relative, number, picture)
                if picture.note:
                    self.skip(path, picture.note)
            except Unreadable as error:
                self.skip(path, str(error))

    def _load(self, listed: tuple[Path, PurePath]) -> Picture | None:
        """Read an image in a thread; None for a video, which only the caller's thread can read. Raises `Unreadable`."""
        path, _ = listed
        if _is_video(path):
            return None
        began = perf_counter()
        read = read_image(path)
        return Picture(read.pixels, self.prepare(read.pixels), perf_counter() - began, read.note)

    def _image(self, path: Path, relative: PurePath, number: int, picture: Picture) -> tuple[Item, np.ndarray]:
        label = f"image {number}/{self.files.total}"
        item = Item(path, relative, "image", label, prepared=picture.prepared, seconds=picture.seconds)
        return item, picture.image_bgr

    def _frames(self, path: Path, relative: PurePath, number: int) -> Iterator[tuple[Item, np.ndarray]]:
        try:
            loader = LoadImagesAndVideos([str(path)])
        except FileNotFoundError:
            raise Unreadable("not a video, or its data are corrupt" if path.exists() else "no such file") from None
        try:
            frame, began = 0, perf_counter()
            for frame, (_, images, _) in enumerate((b for b in loader if b[1]), start=1):
                label = f"video {number}/{self.files.total} (frame {frame}/{loader.frames})"
                prepared = self.prepare(images[0])
                seconds = perf_counter() - began
                yield Item(path, relative, "video", label, frame, loader.fps, prepared, seconds), images[0]
                began = perf_counter()
            if frame == 0:
                raise Unreadable("video without a readable frame")
        finally:
            loader.close()


def _as_it_is(image_bgr: np.ndarray) -> np.ndarray:
    return image_bgr


def _is_video(path: Path) -> bool:
    return path.suffix.lower() in VIDEO_SUFFIXES and path.suffix.lower() not in IMAGE_SUFFIXES


class StreamSource:
    """Frames of cameras and network streams, all read at once by ultralytics' LoadStreams.

    Raises:
        UserError: a stream cannot be opened.
    """

    mode = "stream"
    source_type = SourceTypes(stream=True)

    def __init__(self, sources: Iterable[str]) -> None:
        listed = [name for source in sources for name in _stream_names(source)]
        for source in listed:
            if source.lower().startswith("http") and Path(source.split("?")[0]).suffix.lower() in IMAGE_SUFFIXES:
                raise UserError(f"--source {source}: expected a stream, got the address of an image; download it")
        self.relative = [PurePath(ops.clean_str(name).replace(os.sep, "_")) for name in listed]
        self.names = listed
        with tempfile.TemporaryDirectory() as folder:  # LoadStreams takes several streams only as a list file
            file = Path(folder) / "list.streams"
            file.write_text("\n".join(listed), encoding="utf-8")
            try:
                self.loader = LoadStreams(str(file), buffer=False)
            except (ConnectionError, NotImplementedError, ModuleNotFoundError) as error:
                raise UserError(f"--source {' '.join(listed)}: expected a stream that opens, got: {error}; check the "
                                "camera number, address and network") from None

    def __iter__(self) -> Iterator[Batch]:
        for number, (_, images, _) in enumerate(self.loader, start=1):
            items = [
                Item(Path(name), relative, "stream", f"{i}: frame {number}", number, self.loader.fps[i])
                for i, (name, relative) in enumerate(zip(self.names, self.relative, strict=True))
            ]
            yield self.names, images, items

    def close(self) -> None:
        """Stop the reading threads and release the captures."""
        self.loader.close()


def _stream_names(source: str) -> list[str]:
    if Path(source).suffix.lower() != ".streams":
        return [source]
    try:
        names = Path(source).read_text(encoding="utf-8-sig").split()
    except OSError as error:
        raise UserError(f"--source {source}: cannot be read ({error}); give a file with one stream per line") from None
    if not names:
        raise UserError(f"--source {source}: expected one stream per line, got an empty file")
    return names


def open_source(sources: list[str], skip: Skip, exclude: Path | None = None) -> MediaSource | StreamSource:
    """Open what ``--source`` names. Raises `UserError` when something is missing, empty or cannot be combined."""
    streams = [source for source in sources if is_stream(source)]
    if streams and len(streams) < len(sources):
        raise UserError(f"--source {streams[0]}: expected files only or streams only, got both; run them separately")
    return StreamSource(streams) if streams else MediaSource(FileList(sources, exclude), skip)
