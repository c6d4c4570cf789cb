"""Read, measure and write image files; a file that cannot be used gives `Unreadable` with the reason."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from data.decode import Unreadable, decode, pages
from data.files import no_file

ORIENTATION = 274  # EXIF tag
UPRIGHT = frozenset({None, 0, 1})
TURNED = frozenset({5, 6, 7, 8})  # EXIF orientations that swap width and height
TOLD_BY_HEADER = frozenset({"JPEG", "MPO"})  # of which every version of OpenCV minds the orientation


@dataclass(frozen=True)
class Picture:
    """Pixels (H, W, 3), uint8, BGR, upright; `note` says what of the file is not in them, empty where nothing is left out."""

    pixels: np.ndarray
    note: str = ""


@dataclass(frozen=True)
class ImageFacts:
    """Size in pixels as every command sees it (upright), a digest of the pixels alone, and the `Picture`'s note."""

    width: int
    height: int
    digest: bytes
    note: str = ""


def read_image(path: Path) -> Picture:
    """Read an image file as all commands do (`data.decode.decode`).

    Raises:
        Unreadable: it is missing, cannot be read, or holds no image that can be used.
    """
    if reason := no_file(path):  # a pipe would be waited for
        raise Unreadable(reason)
    try:
        data = path.read_bytes()
    except OSError as error:
        raise Unreadable((error.strerror or str(error)).lower()) from None
    return picture_of(data)


def picture_of(data: bytes) -> Picture:
    """The image in the bytes of an image file. Raises `Unreadable`."""
    pixels = decode(data)
    count = pages(data)
    return Picture(pixels, f"holds {count} images, of which only the first is used" if count > 1 else "")


def read_pixels(path: Path) -> np.ndarray:
    """Return the pixels (H, W, 3), uint8, BGR, upright. Raises as `read_image`."""
    return read_image(path).pixels


def inspect_image(path: Path) -> ImageFacts:
    """Decode an image completely and measure it. Raises as `read_image`."""
    picture = read_image(path)
    height, width = picture.pixels.shape[:2]
    digest = hashlib.blake2b(picture.pixels.data, digest_size=16, key=f"{width} {height}".encode()).digest()
    return ImageFacts(width, height, digest, picture.note)


def image_size(path: Path) -> tuple[int, int]:
    """Return (width, height) in pixels, from the file's header where that is certain. Raises as `read_image`."""
    try:
        with Image.open(path) as image:
            orientation = image.getexif().get(ORIENTATION)
            width, height = image.size
            if orientation in UPRIGHT:
                return width, height
            if image.format in TOLD_BY_HEADER:
                return (height, width) if orientation in TURNED else (width, height)
    except Exception:  # whatever a damaged header does: the decoder tells the reason
        pass
    height, width = read_pixels(path).shape[:2]
    return width, height


def write_pixels(path: Path, pixels: np.ndarray) -> None:
    """Encode by the suffix of `path` (JPEG at quality 95). Raises `OSError` when the suffix or the disk refuses."""
    quality = [cv2.IMWRITE_JPEG_QUALITY, 95] if path.suffix.lower() in {".jpg", ".jpeg"} else []
    done, code = cv2.imencode(path.suffix, pixels, quality)
    if not done:
        raise OSError(f"{path.name}: OpenCV cannot encode this format")
    path.write_bytes(code.tobytes())
