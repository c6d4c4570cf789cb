"""Images are read by content, the same way in every command, and what is not read is said."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from data.decode import MOST_PIXELS, decode, pages
from data.images import Unreadable, image_size, inspect_image, read_image, read_pixels

GREY = np.tile(np.arange(60, 124, dtype=np.uint8), (48, 1))  # (48, 64)
COLOUR = np.dstack([GREY, GREY + 30, 255 - GREY])


def saved(kind: str, pixels: np.ndarray = GREY, **options) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


def encoded(suffix: str, pixels: np.ndarray) -> bytes:
    return cv2.imencode(suffix, pixels)[1].tobytes()


@pytest.mark.parametrize("kind", ["PNG", "GIF", "BMP", "TIFF", "WEBP", "JPEG2000", "PPM", "TGA"])
def test_the_content_decides_not_the_suffix(tmp_path: Path, kind: str) -> None:
    options = {"WEBP": {"lossless": True}, "TIFF": {"compression": "tiff_lzw"}}.get(kind, {})
    (tmp_path / "x.png").write_bytes(saved(kind, **options))
    pixels = read_pixels(tmp_path / "x.png")
    assert pixels.shape == (48, 64, 3) and pixels.dtype == np.uint8
    assert np.array_equal(pixels, np.repeat(GREY[..., None], 3, axis=2))
    assert image_size(tmp_path / "x.png") == (64, 48)


@pytest.mark.parametrize(
    "data",
    [
        saved("TIFF", GREY.astype(np.float32)),
        saved("TIFF", GREY.astype(np.float32) / 255),
        saved("TIFF", GREY.astype(np.float32) * 257),
        saved("TIFF", GREY.astype(np.int32)),
        saved("TIFF", GREY.astype(np.uint16) * 256),
        saved("PNG", GREY.astype(np.uint16) * 256),
        encoded(".tif", GREY.astype(np.float64)),
        encoded(".tif", np.repeat(GREY[..., None], 3, axis=2).astype(np.float32) / 255),
        encoded(".png", np.dstack([GREY, GREY, GREY, GREY * 0 + 7])),
    ],
    ids="float255 float1 float65535 int32 tiff16 png16 float64 colour-float alpha".split(),
)
def test_every_depth_becomes_8_bits(data: bytes) -> None:
    assert np.array_equal(decode(data), np.repeat(GREY[..., None], 3, axis=2))


@pytest.mark.parametrize("value", [-5.0, 70000.0, np.nan, np.inf])
def test_values_that_are_no_grey_levels(value: float) -> None:
    pixels = GREY.astype(np.float32)
    pixels[3, 4] = value
    with pytest.raises(Unreadable, match="expected values of 0 to 1, 0 to 255 or 0 to 65535, got float32"):
        decode(saved("TIFF", pixels))


def jpeg(progressive: bool = False, thumbnail: bytes = b"") -> bytes:
    noise = np.random.default_rng(0).integers(0, 255, (48, 64, 3), dtype=np.uint8)
    data = saved("JPEG", noise, quality=90, progressive=progressive)
    block = b"\xff\xe1" + struct.pack(">H", 2 + len(thumbnail)) + thumbnail if thumbnail else b""
    return data[:2] + block + data[2:]


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("behind", [b"", b"\0" * 9, b"\0" * 100_000, b"\xff\xd8\xff trailer of a phone"])
def test_a_whole_jpeg_may_have_anything_behind_it(progressive: bool, behind: bytes) -> None:
    assert decode(jpeg(progressive) + behind).shape == (48, 64, 3)


@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("cut", [1, 2, 40, 1500])
def test_a_jpeg_that_ends_early(progressive: bool, cut: int) -> None:
    whole = jpeg(progressive, thumbnail=b"JFXX" + jpeg())  # the thumbnail has an end marker of its own
    assert decode(whole).shape == (48, 64, 3)
    for behind in (b"", b"\0" * 5000):  # also where the space was reserved
        with pytest.raises(Unreadable, match="truncated"):
            decode(whole[:-cut] + behind)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "BMP", "GIF", "JPEG2000"])
def test_files_that_end_early(kind: str) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (48, 64), dtype=np.uint8)
    with pytest.raises(Unreadable):
        decode(saved(kind, noise)[:-700])


def png_header(width: int, height: int) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0" * 99)) + chunk(b"IEND", b"")


def test_a_declared_size_beyond_the_limit_is_refused_before_memory_is_taken() -> None:
    with pytest.raises(Unreadable, match=f"larger than {MOST_PIXELS:,} pixels"):
        decode(png_header(60_000, 60_000))


@pytest.mark.long
def test_180_megapixels_are_read(tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(encoded(".png", np.zeros((12_000, 15_100), np.uint8)))  # beyond Pillow's own limit
    assert read_pixels(tmp_path / "x.png").shape == (12_000, 15_100, 3)
    assert image_size(tmp_path / "x.png") == (15_100, 12_000)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "AVIF"])
def test_images_are_upright_and_their_size_agrees(tmp_path: Path, kind: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    Image.fromarray(COLOUR).save(tmp_path / "x", kind, exif=exif)
    assert read_pixels(tmp_path / "x").shape[:2] == image_size(tmp_path / "x")[::-1]
    if kind in ("JPEG", "AVIF"):  # the others are turned by newer versions of OpenCV
        assert read_pixels(tmp_path / "x").shape == (64, 48, 3)


def test_pages_are_counted_and_smaller_copies_are_none(tmp_path: Path) -> None:
    others = [Image.fromarray(GREY)] * 2
    (tmp_path / "scan.tif").write_bytes(saved("TIFF", save_all=True, append_images=others))
    assert read_image(tmp_path / "scan.tif").note == "holds 3 images, of which only the first is used"
    pyramid = io.BytesIO()
    small = Image.fromarray(GREY[::2, ::2])
    small.encoderinfo = {"tiffinfo": {254: 1}}
    Image.fromarray(GREY).save(pyramid, "TIFF", save_all=True, append_images=[small])
    assert pages(pyramid.getvalue()) == 1
    assert pages(saved("PNG")) == pages(b"II*\0 damaged") == 1


@pytest.mark.parametrize("data, reason", [(b"", "file is empty"), (b"no image", "not a readable image"),
                                          (b"\0\0\0\x1cftypheic" + b"\0" * 99, "pi-heif")])  # fmt: skip
def test_what_is_no_image_has_a_reason(tmp_path: Path, data: bytes, reason: str) -> None:
    (tmp_path / "x.jpg").write_bytes(data)
    with pytest.raises(Unreadable, match=reason):
        read_pixels(tmp_path / "x.jpg")
    with pytest.raises(Unreadable, match=reason):
        image_size(tmp_path / "x.jpg")


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda path: None, "file is missing"),
        (Path.mkdir, "a folder, not a file"),
        (os.mkfifo, "a pipe, not a file"),  # not waited for
        (lambda path: path.symlink_to("gone.jpg"), "a link to nothing"),
        (lambda path: path.symlink_to(path), "too many levels of symbolic links"),
        (Path.touch, "file is empty"),
    ],
)
def test_what_is_no_file_has_its_own_reason(tmp_path: Path, make: Callable[[Path], None], reason: str) -> None:
    make(path := tmp_path / "x.jpg")
    with pytest.raises(Unreadable, match=reason):
        read_pixels(path)


def test_the_same_picture_has_the_same_digest_in_any_form(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(saved("PNG"))
    (tmp_path / "b").write_bytes(saved("TIFF", np.repeat(GREY[..., None], 3, axis=2)))
    (tmp_path / "c").write_bytes(saved("PNG", GREY.T.copy()))
    digests = [inspect_image(tmp_path / name).digest for name in "abc"]
    assert digests[0] == digests[1] != digests[2]
