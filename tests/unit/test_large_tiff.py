"""Large TIFFs read in strips or tiles: the same pixels as OpenCV's, little memory, and one line where the file is damaged."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pytest

tifffile = pytest.importorskip("tifffile", reason="needs tifffile: pip install -r requirements-large.txt")

from data import large_tiff  # noqa: E402
from data.decode import Unreadable  # noqa: E402
from data.images import read_pixels  # noqa: E402
from data.large_tiff import StripPicture, read_large  # noqa: E402

HEIGHT, WIDTH = 150, 203
CUTS = {"strips": {"rowsperstrip": 16}, "single rows": {"rowsperstrip": 1}, "tiles": {"tile": (32, 48)}}


@pytest.fixture(autouse=True)
def small_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(large_tiff, "LARGE", 1)


def write(path: Path, channels: int = 3, dtype: type = np.uint8, height: int = HEIGHT, width: int = WIDTH, **how) -> Path:
    coarse = np.random.default_rng(0).integers(0, np.iinfo(dtype).max, (height // 2 + 1, width // 2 + 1, channels), dtype=dtype)
    pixels = np.kron(coarse, np.ones((2, 2, 1), dtype))[:height, :width]  # pairs, so that compression has something to do
    kind = {"photometric": "rgb" if channels == 3 else "minisblack"}
    tifffile.imwrite(path, pixels if channels == 3 else pixels[..., 0], **kind | how)
    return path


@pytest.mark.parametrize("compression", [None, "zlib", "lzw", "packbits", "zlib with predictor"])
@pytest.mark.parametrize("cut", CUTS)
def test_every_window_has_the_pixels_of_opencv(tmp_path: Path, cut: str, compression: str | None) -> None:
    if compression not in (None, "zlib"):
        pytest.importorskip("imagecodecs", reason="needs imagecodecs: pip install -r requirements-large.txt")
    how = {"compression": "zlib", "predictor": True} if compression == "zlib with predictor" else {"compression": compression}
    for channels in (1, 3):
        for dtype in (np.uint8, np.uint16):
            for byteorder in "<>":
                path = write(tmp_path / "large.tif", channels, dtype, byteorder=byteorder, **CUTS[cut], **how)
                whole, picture = read_pixels(path), read_large(path).pixels
                assert isinstance(picture, StripPicture) and picture.shape == whole.shape
                for y1, y2, x1, x2 in ((0, 64, 0, 64), (40, 104, 139, 203), (86, 150, 0, 203), (0, 150, 3, 67)):
                    np.testing.assert_array_equal(picture[y1:y2, x1:x2], whole[y1:y2, x1:x2])


def test_memory_holds_the_rows_that_are_looked_at(tmp_path: Path) -> None:
    path = write(tmp_path / "large.tif", height=2000, width=1500, rowsperstrip=8, compression="zlib")
    tracemalloc.start()
    picture = read_large(path).pixels
    for top in range(0, 2000 - 64, 50):
        picture[top : top + 64, :64]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 2000 * 1500 * 3 / 8 and picture.nbytes <= (64 + 2 * 8) * 1500 * 3


@pytest.mark.parametrize(
    "how",
    [
        {"rowsperstrip": HEIGHT},  # one strip: to decode it is to hold the image
        {"dtype": np.float32},
        {"photometric": "miniswhite", "channels": 1, "rowsperstrip": 8},
        {"planarconfig": "separate", "rowsperstrip": 8},
        {"rowsperstrip": 8, "extratags": [(274, 3, 1, 6, True)]},  # to be turned
        {"shape": "alpha"},
    ],
    ids=["one strip", "floats", "white is zero", "planes", "turned", "alpha"],
)
def test_what_is_not_served_is_read_whole(tmp_path: Path, how: dict) -> None:
    path = tmp_path / "large.tif"
    if how.get("dtype"):
        tifffile.imwrite(path, np.linspace(0, 1, HEIGHT * WIDTH, dtype=np.float32).reshape(HEIGHT, WIDTH), rowsperstrip=8)
    elif how.get("shape"):
        tifffile.imwrite(path, np.full((HEIGHT, WIDTH, 4), 255, np.uint8), photometric="rgb", extrasamples=["unassalpha"], rowsperstrip=8)
    elif how.get("planarconfig"):
        tifffile.imwrite(path, np.zeros((3, HEIGHT, WIDTH), np.uint8), photometric="rgb", **how)
    else:
        write(path, **how)
    picture = read_large(path).pixels
    assert isinstance(picture, np.ndarray)
    np.testing.assert_array_equal(picture, read_pixels(path))


def test_other_pictures_and_small_ones_are_read_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(large_tiff, "LARGE", HEIGHT * WIDTH + 1)
    assert isinstance(read_large(write(tmp_path / "small.tif", rowsperstrip=8)).pixels, np.ndarray)
    with pytest.raises(Unreadable, match="file is missing"):
        read_large(tmp_path / "none.tif")


def test_further_pages_are_told(tmp_path: Path) -> None:
    with tifffile.TiffWriter(tmp_path / "two.tif") as file:
        for _ in range(2):
            file.write(np.zeros((HEIGHT, WIDTH), np.uint8), rowsperstrip=8, photometric="minisblack")
    assert read_large(tmp_path / "two.tif").note == "holds 2 images, of which only the first is used"


@pytest.mark.parametrize("cut", CUTS)
def test_a_damaged_file_is_told_in_one_line(tmp_path: Path, cut: str) -> None:
    path = write(tmp_path / "large.tif", compression="zlib", **CUTS[cut])
    content = bytearray(path.read_bytes())
    with tifffile.TiffFile(path) as file:
        offsets, counts = file.pages[0].dataoffsets, file.pages[0].databytecounts
    at = offsets[len(offsets) // 2]
    content[at : at + counts[len(offsets) // 2]] = bytes(counts[len(offsets) // 2])
    path.write_bytes(content)
    with pytest.raises(Unreadable, match=r"^damaged TIFF: rows \d+ to \d+ cannot be decoded from its (strips|tiles) \(.+\)$"):
        read_large(path).pixels[0:HEIGHT, 0:10]
    path.write_bytes(content[: max(offsets) + 3])
    with pytest.raises(Unreadable, match=r"^truncated: a TIFF of [\d,]+ bytes or more, of which [\d,]+ are there$"):
        read_large(path)
