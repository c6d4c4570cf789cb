"""A TIFF too large to hold: its strips or tiles are decoded when a part of the image is asked for, and given up behind it.

tifffile reads them (`requirements-large.txt`). What it serves is what OpenCV decodes to the same pixels: grey or RGB of 8 or 16
bits, plain, LZW, Deflate or PackBits. All else is left to `data.images.read_image`, which holds the whole image.
"""

from __future__ import annotations

import logging
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from data.decode import MOST_PIXELS, TIFF, Unreadable, as_bgr
from data.images import Picture, read_image

LARGE = 2**26  # pixels from which it is worth it: 200 MB
MOST_HELD = 2**27  # pixels of one row of strips or tiles
PLAIN, LZW, DEFLATE, PACKBITS = 1, 5, (8, 32946), 32773
BLACK_IS_ZERO, RGB = 1, 2
CHANNELS = {BLACK_IS_ZERO: 1, RGB: 3}


class StripPicture:
    """The pixels of a TIFF as far as array slicing goes: ``picture[y1:y2, x1:x2]`` is (h, w, 3), uint8, BGR.

    Rows are meant to be asked for from top to bottom; what lies above the last ones is decoded again.

    Args:
        path: of the file, read again for each row of strips or tiles.
        page: tifffile's page, of a file that was closed since.

    Attributes:
        shape: (H, W, 3).
    """

    dtype, ndim = np.dtype(np.uint8), 3

    def __init__(self, path: Path, page: Any) -> None:
        self.path, self.page = path, page
        self.shape = (page.imagelength, page.imagewidth, 3)
        self.rows = page.tilelength if page.is_tiled else min(page.rowsperstrip, page.imagelength)
        self.across = -(-page.imagewidth // page.tilewidth) if page.is_tiled else 1
        self.held: dict[int, np.ndarray] = {}

    @property
    def nbytes(self) -> int:
        """What it holds in memory."""
        return sum(rows.nbytes for rows in self.held.values())

    def __getitem__(self, window: tuple[slice, slice]) -> np.ndarray:
        """The pixels of a window. Raises `Unreadable` where the file is damaged."""
        rows, columns = window
        top, bottom, _ = rows.indices(self.shape[0])
        wanted = range(top // self.rows, -(-bottom // self.rows))
        self.held = {number: self.held[number] if number in self.held else self._decode(number) for number in wanted}
        first = wanted.start * self.rows
        parts = [self.held[number][max(0, top - number * self.rows) : bottom - number * self.rows, columns] for number in wanted]
        return np.concatenate(parts) if first < bottom else np.zeros((0, 0, 3), np.uint8)

    def _decode(self, number: int) -> np.ndarray:
        """One row of strips or tiles, (h, W, 3)."""
        page, top = self.page, number * self.rows
        height = min(self.rows, self.shape[0] - top)
        out = np.empty((height, self.shape[1], 3), np.uint8)
        try:
            with self.path.open("rb") as file:
                for index in range(number * self.across, (number + 1) * self.across):
                    file.seek(page.dataoffsets[index])
                    pixels, (_, _, _, left, _), _ = page.decode(file.read(page.databytecounts[index]), index)
                    piece = pixels[0, :height, : self.shape[1] - left]
                    out[: len(piece), left : left + piece.shape[1]] = as_bgr(piece[..., ::-1])
                    if len(piece) < height:
                        raise ValueError(f"{len(piece)} of {height} rows")
        except Exception as error:  # a decoder may raise anything at damaged data
            kind = "tiles" if page.is_tiled else "strips"
            raise Unreadable(f"damaged TIFF: rows {top} to {top + height} cannot be decoded from its {kind} "
                             f"({' '.join(str(error).split()) or type(error).__name__})") from None  # fmt: skip
        return out


def read_large(path: Path) -> Picture:
    """Read as `data.images.read_image`, but a large TIFF only as its parts are asked for: then `pixels` is a `StripPicture`.

    Raises:
        Unreadable: as `read_image`; and where a large TIFF is cut off.
    """
    return _open(path) or read_image(path)


def _open(path: Path) -> Picture | None:
    """A large TIFF in strips or tiles that can be served as `read_image` would; None for all else."""
    if not find_spec("tifffile") or not _is_tiff(path):
        return None
    import tifffile

    logging.getLogger("tifffile").setLevel(logging.CRITICAL)  # a damaged file is told by us, with its name
    try:
        with tifffile.TiffFile(path) as file:
            page = file.pages[0]
            if not _served(page):
                return None
            size = file.filehandle.size
            ends = [offset + count for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True)]
            others = sum(not other.is_reduced for other in file.pages) - 1
    except Exception:  # whatever a damaged header does: the decoder of whole images tells the reason
        return None
    if max(ends) > size:
        raise Unreadable(f"truncated: a TIFF of {max(ends):,} bytes or more, of which {size:,} are there")
    note = f"holds {others + 1} images, of which only the first is used" if others else ""
    return Picture(StripPicture(path, page), note)  # type: ignore[arg-type]  # sliced as an array is, and nothing else is done with it


def _is_tiff(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(4) in TIFF
    except OSError:  # told by `read_image`
        return False


def _served(page: Any) -> bool:
    """Whether a page is large, of a kind that OpenCV decodes to the same pixels, and cut finely enough."""
    height, width = page.imagelength, page.imagewidth
    rows = page.tilelength if page.is_tiled else min(page.rowsperstrip, height)
    orientation = page.tags.get("Orientation")
    codes = (PLAIN, LZW, *DEFLATE, PACKBITS)
    return (
        height * width >= LARGE
        and rows * width <= min(MOST_HELD, MOST_PIXELS, height * width // 4)
        and CHANNELS.get(page.photometric) == page.samplesperpixel
        and page.dtype in (np.uint8, np.uint16)
        and page.bitspersample in (8, 16)
        and page.planarconfig == 1
        and page.imagedepth == 1
        and page.compression in codes
        and (orientation is None or orientation.value == 1)
        and _decodes(page)
    )


def _decodes(page: Any) -> bool:
    """Whether tifffile has the codec: LZW takes the package imagecodecs."""
    try:
        offset, count = page.dataoffsets[0], page.databytecounts[0]
        handle = page.parent.filehandle
        handle.seek(offset)
        return count > 0 and page.decode(handle.read(count), 0)[0] is not None
    except Exception:
        return False
