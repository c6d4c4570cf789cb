"""What detect.py looks at: images, folders, globs, list files and videos here, cameras and streams in `stream_source`.

Images are listed (`engine.detection.listing`) and read here: a folder must be walked recursively without holding it in
memory, images are read ahead while the network runs, and an unreadable one must be told, skipped and counted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePath
from time import perf_counter
from typing import TYPE_CHECKING, Protocol

import numpy as np

from cfg.errors import UserError
from data.decode import Unreadable
from data.files import IMAGE_SUFFIXES, no_file
from data.images import Picture as Decoded
from data.images import read_image
from data.streams.addresses import is_stream
from engine.detection.items import Batch, Item, Prepare, Report, batched
from engine.detection.listing import VIDEO_SUFFIXES, FileList
from engine.detection.pipeline import THREADS, read_ahead

from ultralytics.data.loaders import SourceTypes

if TYPE_CHECKING:  # videos and streams need a library that images do not wait for
    from data.streams.captures import MediaCapture
    from engine.detection.stream_source import StreamSource


@dataclass(frozen=True)
class Picture:
    """An image as a reading thread hands it on: (H, W, 3) BGR uint8, the same prepared for the network, the seconds, and
    what of the file is not looked at.
    """

    image_bgr: np.ndarray
    prepared: np.ndarray
    seconds: float
    note: str = ""

    @property
    def nbytes(self) -> int:
        """What it holds in memory."""
        return self.image_bgr.nbytes + self.prepared.nbytes


class Files(Protocol):
    """What is to be read, in order: pairs of a path and a path relative to the outputs; `total` of them."""

    total: int

    def __iter__(self) -> Iterator[tuple[Path, PurePath]]: ...


class MediaSource:
    """Batches of images and video frames in the form that ultralytics' predictor iterates over.

    Images are read and prepared in threads, ahead of the network, and come in the order of the files. A batch holds
    images of one size as the network takes them: then each is what it would be alone, and the result does not depend
    on the batch size.

    Args:
        files: what to read.
        skip: called with (path, reason) for everything unreadable, in the order of the files.
        lose: the same for videos of which frames are missing; an image that is read in part has a `note`.
        read: how an image is read.
        readers: threads that do.

    Attributes:
        batch: most images per batch, fewer where they are huge. To be set before the iteration, as is `prepare`.
        prepare: makes of an image what the network takes; called in threads.
    """

    mode = "image"
    source_type = SourceTypes()

    def __init__(
        self, files: Files, skip: Report, lose: Report, read: Callable[[Path], Decoded] = read_image, readers: int = THREADS
    ) -> None:
        self.files, self.skip, self.lose, self.read, self.readers = files, skip, lose, read, readers
        self.batch = 1
        self.prepare: Prepare = np.asarray

    def __iter__(self) -> Iterator[Batch]:
        return batched(self._pictures(), self.batch)

    def close(self) -> None:
        """Nothing is held open between two iterations."""

    def _pictures(self) -> Iterator[tuple[Item, np.ndarray]]:
        ahead = self.batch + self.readers  # the next batch is there when this one is done
        read = read_ahead(self._load, self.files, ahead, lambda picture: picture.nbytes if picture else 0, self.readers)
        for number, ((path, relative), loading) in enumerate(read, start=1):
            try:
                picture = loading.result()
                if picture is None:
                    yield from self._frames(path, relative, number)
                    continue
                yield self._image(path, relative, number, picture)
            except Unreadable as error:
                self.skip(path, str(error))

    def _load(self, listed: tuple[Path, PurePath]) -> Picture | None:
        """Read an image in a thread; None for a video, which only the caller's thread can read. Raises `Unreadable`."""
        path, _ = listed
        if _is_video(path):
            return None
        began = perf_counter()
        read = self.read(path)
        return Picture(read.pixels, self.prepare(read.pixels), perf_counter() - began, read.note)

    def _image(self, path: Path, relative: PurePath, number: int, picture: Picture) -> tuple[Item, np.ndarray]:
        label = f"image {number}/{self.files.total}"
        item = Item(path, relative, "image", label, str(path), picture.prepared, seconds=picture.seconds, note=picture.note)
        return item, picture.image_bgr

    def _frames(self, path: Path, relative: PurePath, number: int) -> Iterator[tuple[Item, np.ndarray]]:
        from data.streams.captures import CaptureError

        video = _open_video(path)
        began, broken = perf_counter(), ""
        try:
            for frame, image in enumerate(video, start=1):
                label = f"video {number}/{self.files.total} (frame {frame}{f'/{video.frames}' if video.frames else ''})"
                prepared = self.prepare(image)
                seconds = perf_counter() - began
                yield Item(path, relative, "video", label, str(path), prepared, frame, video.fps, seconds), image
                began = perf_counter()
        except CaptureError as error:
            broken = str(error)
        finally:
            video.close()
        if not video.received:
            raise Unreadable("video without a readable frame")
        if missing := video.shortfall() or broken:
            self.lose(path, missing)


def _open_video(path: Path) -> MediaCapture:
    from data.streams.captures import CaptureError, MediaCapture

    try:
        if reason := no_file(path):  # a pipe would be waited for
            raise Unreadable(reason)
        return MediaCapture(str(path))
    except (CaptureError, OSError) as error:
        raise Unreadable(getattr(error, "strerror", None) or str(error)) from None


def _is_video(path: Path) -> bool:
    return path.suffix.lower() in VIDEO_SUFFIXES and path.suffix.lower() not in IMAGE_SUFFIXES


def open_source(
    sources: list[str], skip: Report, lose: Report, exclude: Path | None = None, patience: float = 30.0
) -> MediaSource | StreamSource:
    """Open what ``--source`` names.

    Args:
        sources: files and folders, or streams.
        skip, lose: called with what cannot be read, or in part only, and the reason.
        exclude: folder that is no source.
        patience: seconds in which a stream that has broken off is connected again.

    Raises:
        UserError: something is missing, empty or cannot be combined.
    """
    streams = [source for source in sources if is_stream(source)]
    if streams and len(streams) < len(sources):
        raise UserError(f"--source {streams[0]}: expected files only or streams only, got both; run them separately")
    if not streams:
        return MediaSource(FileList(sources, exclude), skip, lose)
    from engine.detection.stream_source import StreamSource

    return StreamSource(streams, lose, patience)
