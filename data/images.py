"""Read, measure and write image files; a file that cannot be used gives `ValueError` with the reason."""

from __future__ import annotations

import hashlib
import warnings
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

ORIENTATION = 274  # EXIF tag
TURNED = frozenset({5, 6, 7, 8})  # EXIF orientations that swap width and height


@dataclass(frozen=True)
class ImageFacts:
    """Size in pixels as the training code sees it (EXIF turned), and a digest of the pixels alone."""

    width: int
    height: int
    digest: bytes


def _turned_size(image: Image.Image) -> tuple[int, int]:
    width, height = image.size
    return (height, width) if image.getexif().get(ORIENTATION) in TURNED else (width, height)


def image_size(path: Path) -> tuple[int, int]:
    """Return (width, height) from the file's header, without decoding it. Raises `ValueError` with the reason."""
    try:
        with Image.open(path) as image:
            return _turned_size(image)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(_reason(path, error)) from None


def inspect_image(path: Path) -> ImageFacts:
    """Decode an image completely. Raises `ValueError` with the reason (missing, empty, truncated, not an image)."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                width, height = _turned_size(image)
                # Grey, palette and RGB files of the same picture shall give the same digest.
                if image.format == "JPEG" and not _has_end(path):  # the decoder forgives it, but something is lost
                    raise ValueError("truncated: a JPEG without its end marker")
                pixels = image.convert("RGB") if image.mode in {"1", "L", "P", "RGB"} else image.copy()
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(_reason(path, error)) from None
    return ImageFacts(width, height, hashlib.blake2b(pixels.tobytes(), digest_size=16,
                                                     key=f"{pixels.size}".encode()).digest())


def _has_end(path: Path) -> bool:
    """Tell whether a JPEG's end marker is among the last bytes; some cameras write a few more behind it."""
    with path.open("rb") as file:
        file.seek(max(path.stat().st_size - 1024, 0))
        return b"\xff\xd9" in file.read()


def _reason(path: Path, error: Exception) -> str:
    if not path.exists():
        return "file is missing"
    if path.stat().st_size == 0:
        return "file is empty"
    return f"not a readable image ({' '.join(str(error).split())})".replace(f" '{path}'", "").replace(f" {path}", "")


def read_pixels(path: Path) -> np.ndarray:
    """Return the pixels (H, W, 3), uint8, BGR, EXIF turned. Raises `ValueError` when the file cannot be decoded."""
    try:
        pixels = cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_COLOR)
    except (OSError, cv2.error):
        pixels = None
    if pixels is None:
        raise ValueError("not a readable image")
    return pixels


def write_pixels(path: Path, pixels: np.ndarray) -> None:
    """Encode by the suffix of `path` (JPEG at quality 95). Raises `OSError` when the suffix or the disk refuses."""
    quality = [cv2.IMWRITE_JPEG_QUALITY, 95] if path.suffix.lower() in {".jpg", ".jpeg"} else []
    done, code = cv2.imencode(path.suffix, pixels, quality)
    if not done:
        raise OSError(f"{path.name}: OpenCV cannot encode this format")
    path.write_bytes(code.tobytes())
