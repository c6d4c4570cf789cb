"""The drawings of one video or stream as video files: one for each size of its frames, and no frame lost unsaid."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from itertools import count
from pathlib import Path

import cv2
import numpy as np
from cv2.utils import logging as cv2_log

from data.decode import as_bgr
from data.streams.frames import believable_fps

CODEC = cv2.VideoWriter.fourcc(*"mp4v")
DEFAULT_FPS = 30.0  # of a source that does not tell its own
LARGEST_SIDE = 8190  # pixels: MPEG-4 has 13 bits for a side, and it is even
PROBE_BYTES = 2**16

Undrawn = Callable[[str, int], None]  # takes why some drawings are missing, and how many


class DrawnVideo:
    """Writes ``name.mp4``, and from each change of the frames' size on another file, ``name-2.mp4`` and so on.

    Args:
        stem: the file without its extension.
        source: name of the source in messages.
        fps: frames per second as the source tells them.
        taken: files that this run has written, which are not overwritten; the new ones are added.
        undrawn: told of drawings that are not in the files.
    """

    def __init__(self, stem: Path, source: str, fps: float, taken: set[Path], undrawn: Undrawn) -> None:
        self.stem, self.source, self.taken, self.undrawn = stem, source, taken, undrawn
        self.fps = believable_fps(fps) or DEFAULT_FPS
        self.size: tuple[int, int] | None = None  # (height, width) of the drawings, before they are fitted
        self.file = stem  # the one that is being written
        self.writer: cv2.VideoWriter | None = None
        self.written = 0

    def write(self, drawing: np.ndarray) -> None:
        """Add a drawing, (H, W, 3) BGR uint8 or of 1 or 4 channels. Raises OSError when the disk takes no more."""
        picture = fitted(drawing)
        if drawing.shape[:2] != self.size:
            self.close()
            self._open(drawing.shape[:2], picture.shape[:2])
        if self.writer is None:
            shape = f"{picture.shape[1]} x {picture.shape[0]}"
            self.undrawn(f"{self.file.name} cannot be made, a video of {shape} pixels", 1)
        elif self.writer.write(picture) is False:  # None in older versions of OpenCV
            _probe(self.stem.parent)
            self.undrawn("a frame cannot be encoded", 1)
        else:
            self.written += 1

    def close(self) -> None:
        """Complete the file, and count what is in it: OpenCV does not tell of a full disk. Raises OSError for one."""
        if self.writer is None:
            return
        from data.streams.captures import frame_count

        self.writer.release()
        self.writer = None
        missing = self.written - frame_count(self.file)
        if missing > 0:
            _probe(self.stem.parent)
            self.undrawn(f"{self.file.name} lacks {missing} of {self.written} frames", missing)

    def _open(self, size: tuple[int, int], fitted_size: tuple[int, int]) -> None:
        begins_anew, self.size = self.size is not None, size
        self.file = self._free_name()
        self.file.parent.mkdir(parents=True, exist_ok=True)
        _probe(self.file.parent)
        self.writer, self.written = _writer(self.file, self.fps, fitted_size), 0
        if begins_anew and self.writer:
            shape = f"{size[1]} x {size[0]}"
            print(f"{self.source}: frames of {shape} pixels from here on, drawn into {self.file.name}", flush=True)

    def _free_name(self) -> Path:
        names = (self.stem.name if part == 1 else f"{self.stem.name}-{part}" for part in count(1))
        file = next(file for name in names if (file := self.stem.parent / f"{name}.mp4") not in self.taken)
        self.taken.add(file)
        return file


def fitted(drawing: np.ndarray) -> np.ndarray:
    """Return a drawing as the codec takes it: BGR, scaled down where a side is too long, an odd side made even in black."""
    picture = as_bgr(drawing)
    scale = LARGEST_SIDE / max(picture.shape[:2])
    if scale < 1:
        height, width = (max(1, round(side * scale)) for side in picture.shape[:2])
        picture = cv2.resize(picture, (width, height), interpolation=cv2.INTER_AREA)
    height, width = picture.shape[:2]
    return cv2.copyMakeBorder(picture, 0, height % 2, 0, width % 2, cv2.BORDER_CONSTANT)


def _writer(file: Path, fps: float, size: tuple[int, int]) -> cv2.VideoWriter | None:
    """Return an open writer for drawings of a (height, width), None where none can be opened."""
    if os.fsencode(file).decode(errors="ignore") != str(file):  # OpenCV crashes on a name that is not UTF-8
        return None
    level = cv2_log.getLogLevel()
    cv2_log.setLogLevel(cv2_log.LOG_LEVEL_SILENT)  # failures are reported by our own messages
    try:
        writer = cv2.VideoWriter(str(file), cv2.CAP_FFMPEG, CODEC, fps, size[::-1])
    finally:
        cv2_log.setLogLevel(level)
    return writer if writer.isOpened() else None


def _probe(folder: Path) -> None:
    """Raise the OSError that OpenCV keeps to itself, when nothing more can be written into a folder."""
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(bytes(PROBE_BYTES))
