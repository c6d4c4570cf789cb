"""Annotated images and videos, saved under the names of their sources."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np

from engine.detection.listing import MEDIA_SUFFIXES
from engine.detection.pipeline import WriteBehind
from engine.detection.results_files import output_stem
from engine.detection.sources import Item

WRITABLE = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"})
DEFAULT_FPS = 30.0  # of a stream that does not tell its own


class Drawings:
    """Saves one drawing for each image and one video for each video or stream; holds open what is being written only.

    An image keeps sub-folder, name and extension (``.jpg`` is added to one that OpenCV cannot write), a video becomes
    ``.mp4``. Images are drawn, encoded and written in threads while the next ones are looked at.

    Args:
        folder: the run folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.videos: dict[Path, cv2.VideoWriter] = {}
        self.images: WriteBehind[Path] = WriteBehind()

    def save(self, item: Item, draw: Callable[[], np.ndarray]) -> None:
        """Save the drawing, (H, W, 3) BGR uint8, that `draw` makes; it may be called in a thread and after the return.

        Raises OSError when this or an earlier drawing cannot be written.
        """
        if item.kind != "stream":
            self._close_others(item.path)
        if item.kind == "image":
            target = self._image_path(item)
            self.images.submit(target, _save_image, target, draw)
        else:
            drawing_bgr = draw()
            self._video(item, drawing_bgr).write(drawing_bgr)

    def close(self) -> None:
        """Complete images and videos. Raises OSError when a drawing could not be written."""
        try:
            self.images.close()
        finally:
            self._close_others(None)

    def _close_others(self, path: Path | None) -> None:
        for key in [key for key in self.videos if key != path]:
            self.videos.pop(key).release()

    def _image_path(self, item: Item) -> Path:
        name = item.relative.name if item.relative.suffix.lower() in WRITABLE else f"{item.relative.name}.jpg"
        return self.folder / item.relative.parent / name

    def _video(self, item: Item, drawing_bgr: np.ndarray) -> cv2.VideoWriter:
        if item.path not in self.videos:
            stem = output_stem(item.path, item.relative, MEDIA_SUFFIXES)
            target = self.folder / stem.parent / f"{stem.name}.mp4"
            target.parent.mkdir(parents=True, exist_ok=True)
            height, width = drawing_bgr.shape[:2]
            codec = cv2.VideoWriter_fourcc(*"mp4v")
            writer = cv2.VideoWriter(str(target), codec, item.fps or DEFAULT_FPS, (width, height))
            if not writer.isOpened():
                raise OSError(f"{target} cannot be opened as a video")
            self.videos[item.path] = writer
        return self.videos[item.path]


def _save_image(target: Path, draw: Callable[[], np.ndarray]) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    encoded, data = cv2.imencode(target.suffix, draw())
    if not encoded:
        raise OSError(f"{target} cannot be encoded")
    target.write_bytes(data.tobytes())  # not imwrite: it fails on names that are not ASCII on some systems
