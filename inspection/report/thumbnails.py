"""Small images of a report. They wait on the disk, so that memory does not grow; the page takes the first ones in."""

from __future__ import annotations

from base64 import b64encode
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image

SIDE, QUALITY = 360, 82  # pixels of the longer side; JPEG


class Thumbnails:
    """Writes ``000001.jpg`` ... into a folder of its own, which is made with the first of them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.count = folder, 0

    def add(self, pixels_bgr: np.ndarray) -> str:
        """Keep an image (H, W, 3) uint8 BGR; return its file name. Raises OSError when the disk refuses."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self.count += 1
        name = f"{self.count:06d}.jpg"
        (self.folder / name).write_bytes(small(pixels_bgr))
        return name

    def take(self, name: str) -> str:
        """Return an image as a `data:` address, and remove its file."""
        file = self.folder / name
        data = file.read_bytes()
        file.unlink()
        return f"data:image/jpeg;base64,{b64encode(data).decode()}"

    def close(self) -> None:
        """Remove the folder where nothing is left in it."""
        if self.folder.is_dir() and not any(self.folder.iterdir()):
            self.folder.rmdir()


def small(pixels_bgr: np.ndarray) -> bytes:
    """Return an image as a JPEG of at most `SIDE` pixels."""
    height, width = pixels_bgr.shape[:2]
    step = max(1, min(height, width) // (2 * SIDE))  # huge images: every n-th pixel first
    picture = Image.fromarray(np.ascontiguousarray(pixels_bgr[::step, ::step]))
    picture.thumbnail((SIDE, SIDE), Image.Resampling.BILINEAR)
    picture = Image.merge("RGB", picture.split()[::-1])  # of few pixels
    with BytesIO() as file:
        picture.save(file, "JPEG", quality=QUALITY)
        return file.getvalue()
