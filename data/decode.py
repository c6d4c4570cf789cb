"""The bytes of an image file -> the pixels that every command sees: by content, whatever the file is called.

One decoder for checking, training, calibration and detection, so that none of them reads what another one refuses.
OpenCV decodes what it knows, Pillow the rest (AVIF and HEIF, whose orientation OpenCV passes over; TIFF of floats).
"""

from __future__ import annotations

import io
import struct
import threading
import warnings

import cv2
import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

MOST_PIXELS = 2**30  # OpenCV's own limit, and so ours: about 32,000 x 32,000
JPEG, PNG, TIFF = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
JPEG_END, PNG_END, JPEG_SCAN = b"\xff\xd9", b"IEND", 0xDA
MAY_HAVE_PAGES = (*TIFF, b"GIF8", b"RIFF", PNG)
REDUCED = 254, 1  # TIFF tag NewSubfileType, and its bit for a smaller copy of another page
RANGES = (1, 255, 65535)  # what the largest value of a float image can stand for
_pillow = threading.Lock()  # it registers its formats at first use, which threads disturb

Image.MAX_IMAGE_PIXELS = MOST_PIXELS  # its own limit is 179 million: large scans are no attack
# We report a damaged file ourselves, with its name.
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
warnings.filterwarnings("ignore", module=r"PIL\.")


class Unreadable(ValueError):
    """An image that cannot be used; the message is the reason, without the file's name."""


def decode(data: bytes) -> np.ndarray:
    """Return the pixels of an image file: (H, W, 3), uint8, BGR, upright by its EXIF tag, the first page of several.

    Grey is repeated into three channels, alpha is dropped, of 16 bits the high byte is kept. Floats are scaled from
    0..1, 0..255 or 0..65535, whichever holds the largest value.

    Raises:
        Unreadable: empty, truncated, not an image, larger than `MOST_PIXELS`, or values that are no grey levels.
    """
    if reason := cut_off(data):
        raise Unreadable(reason)
    pixels = _decode_pillow(data) if data[4:8] == b"ftyp" else _decode_opencv(data)
    if pixels is None:
        pixels = _decode_pillow(data)
    return as_bgr(pixels)


def as_bgr(pixels: np.ndarray) -> np.ndarray:
    """Pixels (H, W) or (H, W, C) of any depth, channels in OpenCV's order, as `decode` returns them. Raises `Unreadable`."""
    return np.ascontiguousarray(_three_channels(_to_8_bits(pixels)))


def cut_off(data: bytes) -> str:
    """Why an image file has visibly not been written to its end; empty where that cannot be seen without decoding it."""
    if not data:
        return "file is empty"
    if data.startswith(JPEG) and not _has_jpeg_end(data):
        return "truncated: a JPEG without its end marker"
    if data.startswith(PNG) and PNG_END not in data[-4096:] and PNG_END not in data:
        return "truncated: a PNG without its end chunk"
    return ""


def pillow_pixels(image: Image.Image) -> np.ndarray:
    """Pixels of a Pillow image, upright: (H, W) of numbers, or (H, W, 3) BGR, uint8."""
    upright = ImageOps.exif_transpose(image)
    numbers = upright.mode == "F" or upright.mode.startswith("I")
    return np.asarray(upright) if numbers else np.asarray(upright.convert("RGB"))[..., ::-1]


def pages(data: bytes) -> int:
    """Return how many images a file holds, of which `decode` gives the first; smaller copies of a page do not count."""
    if not data.startswith(MAY_HAVE_PAGES):
        return 1
    try:
        with _pillow, Image.open(io.BytesIO(data)) as image:
            count = getattr(image, "n_frames", 1)
            if count == 1 or image.format != "TIFF":
                return count
            return max(1, sum(not _is_reduced(image, page) for page in range(count)))
    except Exception:  # decoding went well: that a count fails must not spoil it
        return 1


def _is_reduced(image: Image.Image, page: int) -> bool:
    tag, bit = REDUCED
    image.seek(page)
    return bool(getattr(image, "tag_v2", {}).get(tag, 0) & bit)


def _has_jpeg_end(data: bytes) -> bool:
    """Whether the end marker follows the first scan. Before it, embedded thumbnails have one too; behind it, anything may be."""
    position = 2
    while position + 4 <= len(data) and data[position] == 0xFF:
        kind, length = data[position + 1], struct.unpack(">H", data[position + 2 : position + 4])[0]
        if kind == JPEG_SCAN:
            return data.find(JPEG_END, position) >= 0
        position += 1 if kind == 0xFF else 2 + length  # markers may be padded with 0xFF
    return False


def _decode_opencv(data: bytes) -> np.ndarray | None:
    """Pixels (H, W[, C]) of any depth; None for what OpenCV cannot decode. TIFF of floats passes only unchanged."""
    array = np.frombuffer(data, np.uint8)
    ways = [cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH, *([cv2.IMREAD_UNCHANGED] if data.startswith(TIFF) else [])]
    for flags in ways:
        try:
            pixels = cv2.imdecode(array, flags)
        except cv2.error as error:
            if "MAX_IMAGE_PIXELS" in str(error) or "validateInputImageSize" in str(error):
                raise Unreadable(f"larger than {MOST_PIXELS:,} pixels; cut it into pieces") from None
            continue
        if pixels is not None:
            return pixels
    return None


def _decode_pillow(data: bytes) -> np.ndarray:
    """Pixels (H, W) of numbers or (H, W, 3) BGR, upright. Raises `Unreadable`."""
    try:
        with _pillow, Image.open(io.BytesIO(data)) as image:
            if image.width * image.height > MOST_PIXELS:
                raise Unreadable(f"{image.width} x {image.height}: larger than {MOST_PIXELS:,} pixels; cut it into pieces")
            image.load()  # strict: what ends early is an error
            return pillow_pixels(image)
    except Unreadable:
        raise
    except Image.DecompressionBombError:
        raise Unreadable(f"larger than {MOST_PIXELS:,} pixels; cut it into pieces") from None
    except UnidentifiedImageError:
        heif = data[4:8] == b"ftyp" and data[8:12] != b"avif"
        raise Unreadable("HEIF, which needs a package: pip install pi-heif" if heif else "not a readable image") from None
    except Exception as error:  # a decoder may raise anything at damaged data
        raise Unreadable(f"not a readable image ({' '.join(str(error).split())})") from None


def _to_8_bits(pixels: np.ndarray) -> np.ndarray:
    """Pixels of any depth as uint8. Raises `Unreadable` for values that are no grey levels."""
    if pixels.dtype == np.uint8:
        return pixels
    if pixels.dtype == np.uint16:
        return (pixels >> 8).astype(np.uint8)
    low, high = float(pixels.min()), float(pixels.max())
    real = pixels.dtype.kind == "f"
    limit = next((x for x in RANGES[0 if real else 1 :] if high <= x), None)  # None too where a value is not a number
    if limit is None or not low >= 0:
        raise Unreadable(f"expected values of 0 to 1, 0 to 255 or 0 to 65535, got {pixels.dtype} from {low:g} to {high:g}; "
                         "convert it to 8 or 16 bits")  # fmt: skip
    return np.clip(np.rint(pixels * (255.0 / limit)), 0, 255).astype(np.uint8)


def _three_channels(pixels: np.ndarray) -> np.ndarray:
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    return pixels[..., :3] if pixels.shape[2] >= 3 else np.repeat(pixels[..., :1], 3, axis=2)
