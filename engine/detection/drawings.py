"""Annotated images and videos, saved under the names of their sources."""

from __future__ import annotations

import errno
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path, PurePath
from typing import TypeVar

import cv2
import numpy as np

from data.result_files import output_stem
from engine.detection.drawn_video import DrawnVideo
from engine.detection.items import Item
from engine.detection.listing import MEDIA_SUFFIXES
from engine.detection.pipeline import WriteBehind

WRITABLE = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"})

Draw = Callable[[], np.ndarray]
Result = TypeVar("Result")


class Drawings:
    """Saves one drawing for each image and a video for each video or stream; holds open what is being written only.

    An image keeps sub-folder, name and extension (``.jpg`` is added to one that OpenCV cannot write), a video becomes
    ``.mp4``. Images are drawn, encoded and written in threads while the next ones are looked at.

    Args:
        folder: the run folder.
        undrawn: called with (source, reason, number of drawings) for those that could not be made, in the thread that
            saves, perhaps later.
    """

    def __init__(self, folder: Path, undrawn: Callable[[str, str, int], None]) -> None:
        self.folder, self.undrawn = folder, undrawn
        self.videos: dict[PurePath, DrawnVideo] = {}
        self.written: set[Path] = set()  # videos
        self.images: WriteBehind[Path] = WriteBehind(self._after_image)

    def save(self, item: Item, draw: Draw) -> None:
        """Save the drawing, (H, W, 3) BGR uint8, that `draw` makes; it may be called in a thread and after the return.

        Raises OSError when this or an earlier drawing cannot be written to the disk.
        """
        if item.kind != "stream":
            self._close_videos(but=None if item.frame == 1 else item.relative)
        if item.kind == "image":
            target = self._image_path(item)
            self.images.submit(target, _save_image, target, item.source, draw)
            return
        drawing = attempt(draw)
        if isinstance(drawing, str):
            self.undrawn(item.source, drawing, 1)
        else:
            self._video(item).write(drawing)

    def close(self) -> None:
        """Complete images and videos. Raises OSError when a drawing could not be written to the disk."""
        try:
            self.images.close()
        finally:
            self._close_videos(but=None)

    def _after_image(self, target: Path, failure: tuple[str, str] | None) -> None:
        if failure:
            self.undrawn(*failure, 1)

    def _close_videos(self, but: PurePath | None) -> None:
        with ExitStack() as stack:  # all of them, whatever one raises
            for place in [place for place in self.videos if place != but]:
                stack.callback(self.videos.pop(place).close)

    def _image_path(self, item: Item) -> Path:
        name = item.relative.name if item.relative.suffix.lower() in WRITABLE else f"{item.relative.name}.jpg"
        return self.folder / item.relative.parent / name

    def _video(self, item: Item) -> DrawnVideo:
        if item.relative not in self.videos:
            stem = self.folder / output_stem(item.path, item.relative, MEDIA_SUFFIXES)
            undrawn = partial(self.undrawn, item.source)
            self.videos[item.relative] = DrawnVideo(stem, item.source, item.fps, self.written, undrawn)
        return self.videos[item.relative]


def attempt(drawing: Callable[[], Result]) -> Result | str:
    """Return the result of a drawing step, or why it failed: no drawing may end a run."""
    try:
        return drawing()
    except Exception as error:
        return f"{type(error).__name__}: {' '.join(str(error).split())}"


def _save_image(target: Path, source: str, draw: Draw) -> tuple[str, str] | None:
    """Draw, encode and write an image; return (source, reason) when the image, not the disk, is what prevents that."""
    drawing = attempt(draw)
    if isinstance(drawing, str):
        return source, drawing
    data = attempt(lambda: _encoded(target.suffix, drawing))
    if isinstance(data, str):
        return source, data
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)  # not imwrite: it fails on names that are not ASCII on some systems
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        return source, f"no file can be called {target.name}"
    return None


def _encoded(suffix: str, drawing: np.ndarray) -> memoryview:
    encoded, data = cv2.imencode(suffix, drawing)
    if not encoded:
        raise ValueError(f"{drawing.shape[1]} x {drawing.shape[0]} pixels cannot be encoded as {suffix}")
    return data.data
