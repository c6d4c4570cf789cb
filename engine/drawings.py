"""Annotated images and videos, saved under the names of their sources."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from engine.listing import MEDIA_SUFFIXES
from engine.results_files import output_stem
from engine.sources import Item

WRITABLE = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"})
DEFAULT_FPS = 30.0  # of a stream that does not tell its own


class Drawings:
    """Saves one drawing for each image and one video for each video or stream; holds open what is being written only.

    An image keeps sub-folder, name and extension (``.jpg`` is added to one that OpenCV cannot write), a video becomes
    ``.mp4``.

    Args:
        folder: the run folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.videos: dict[Path, cv2.VideoWriter] = {}

    def save(self, item: Item, drawing_bgr: np.ndarray) -> None:
        """Save one drawing, (H, W, 3) uint8. Raises OSError when it cannot be written."""
        if item.kind != "stream":
            self._close_others(item.path)
        if item.kind == "image":
            self._save_image(item, drawing_bgr)
        else:
            self._video(item, drawing_bgr).write(drawing_bgr)

    def close(self) -> None:
        """Complete the videos."""
        self._close_others(None)

    def _close_others(self, path: Path | None) -> None:
        for key in [key for key in self.videos if key != path]:
            self.videos.pop(key).release()

    def _save_image(self, item: Item, drawing_bgr: np.ndarray) -> None:
        name = item.relative.name if item.relative.suffix.lower() in WRITABLE else f"{item.relative.name}.jpg"
        target = self.folder / item.relative.parent / name
        target.parent.mkdir(parents=True, exist_ok=True)
        encoded, data = cv2.imencode(target.suffix, drawing_bgr)
        if not encoded:
            raise OSError(f"{target} cannot be encoded")
        target.write_bytes(data.tobytes())  # not imwrite: it fails on names that are not ASCII on some systems

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
