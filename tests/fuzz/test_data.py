"""Damaged images, labels, lists and data YAMLs: a reason or an error of one line, never a traceback, and the same for all."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))
from fuzz import VALUES, damaged, inputs, spoiled

from cfg import UserError
from data import resolve, validate
from data.check import check_data
from data.dataset import part_paths
from data.files import list_images
from data.images import Unreadable, image_size, read_image
from data.labels import LABEL_ERRORS, read_labels
from data.reader import read_images

pytestmark = pytest.mark.slow
PIXELS = np.random.default_rng(0).integers(0, 255, (20, 30, 3), dtype=np.uint8)


def saved(kind: str, pixels: np.ndarray = PIXELS, **options) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind, **options)
    return file.getvalue()


FILES = [saved(kind) for kind in ("JPEG", "PNG", "TIFF", "BMP", "GIF", "WEBP", "JPEG2000", "AVIF", "PPM")]
FILES += [saved("JPEG", progressive=True), saved("TIFF", PIXELS[..., 0].astype(np.float32)),
          saved("TIFF", save_all=True, append_images=[Image.fromarray(PIXELS)]), saved("TIFF", compression="tiff_lzw"),
          saved("PNG", PIXELS[..., 0].astype(np.uint16)), cv2.imencode(".tif", PIXELS.astype(np.float32))[1].tobytes()]  # fmt: skip


@inputs(3)
@given(data=st.sampled_from(FILES).flatmap(damaged) | st.binary(max_size=200))
def test_images(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "x.png"
    path.write_bytes(data)
    try:
        pixels = read_image(path).pixels
    except Unreadable as error:
        assert str(error) and "\n" not in str(error)
        return
    assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3 and pixels.size
    assert image_size(path) == pixels.shape[1::-1]


NUMBERS = st.sampled_from(["0", "1", "2", "-1", "0.5", ".5", "1e-3", "1.0", "1.005", "1.2", "nan", "inf", "-0", "0x1", "1_0", "",
                           "١", "0,5", "scratch", "1e999", "00", "+1", "0.5;"]) | st.floats().map(str)  # fmt: skip  # noqa: RUF001
ROWS = st.lists(NUMBERS, max_size=10).map(" ".join)
SPACES = st.sampled_from(["\n", "\r\n", "\r", "\n\n", " \n", "\t\n", "\x0c", "\x00", "\u2028"])
TEXTS = st.lists(st.tuples(ROWS | st.just("0 .5 .5 .2 .2"), SPACES), max_size=6).map(lambda x: "".join(map("".join, x)))


def make(folder: Path, labels: bytes) -> Path:
    for part in ("train", "val"):
        (folder / f"images/{part}").mkdir(parents=True, exist_ok=True)
        (folder / f"labels/{part}").mkdir(parents=True, exist_ok=True)
        for i in range(2):
            (folder / f"images/{part}/{i}.png").write_bytes(FILES[1])
            (folder / f"labels/{part}/{i}.txt").write_bytes(b"0 .5 .5 .2 .2\n")
    (folder / "labels/train/1.txt").write_bytes(labels)
    (folder / "data.yaml").write_text("train: images/train\nval: images/val\nnames: [scratch, pit]\n")
    return folder / "data.yaml"


@inputs()
@given(text=TEXTS.map(str.encode) | st.binary(max_size=60))
def test_labels_mean_the_same_to_all(tmp_path: Path, text: bytes) -> None:
    data = make(tmp_path, text)
    labels = read_labels(tmp_path / "labels/train/1.txt", 2)
    assert np.isfinite(labels.rows).all() and len(labels.rows) == len(labels.lines) == len(labels.polygons)
    wrong = [p for p in labels.problems if p.code in LABEL_ERRORS]
    reading = read_images([tmp_path / "images/train"], 2, remember=False)
    assert len(reading.left_out) == bool(wrong)
    assert [f.line for f in check_data(data).errors if f.code in LABEL_ERRORS] == [p.line for p in wrong]
    try:
        counts = validate(data).boxes["train"]
        assert not wrong and counts == sum(len(sample.rows) for sample in reading.samples)
    except UserError as error:
        assert wrong and "\n" not in str(error)


@inputs()
@given(content=spoiled({"path": ".", "train": "images/train", "val": ["images/val"], "test": None, "names": {0: "scratch", 1: "pit"},
                        "nc": 2, "download": "print(1)", "channels": 3}) | VALUES)  # fmt: skip
def test_data_yamls(tmp_path: Path, content: object) -> None:
    make(tmp_path, b"")
    file = tmp_path / "data.yaml"
    try:
        file.write_text(yaml.safe_dump(content, allow_unicode=True), encoding="utf-8")
    except UnicodeEncodeError:
        return
    try:
        found = resolve(file)
        assert all(path.exists() for part in ("train", "val") for path in part_paths(found, part))
        assert found["nc"] == len(found["names"]) and all(isinstance(name, str) for name in found["names"].values())
        check_data(file)
        validate(file)
    except UserError as error:
        assert "\n" not in str(error), error


@inputs()
@given(data=damaged(b"./images/train/0.png\nimages/train/1.png \r\n\n# x\nC:\\images\\train\\0.png\n") | st.binary(max_size=80))
def test_lists(tmp_path: Path, data: bytes) -> None:
    make(tmp_path, b"")
    (tmp_path / "list.txt").write_bytes(data)
    try:
        images = list_images(tmp_path / "list.txt")
    except UserError as error:
        assert "\n" not in str(error)
        return
    reading = read_images([tmp_path / "list.txt"], 2, remember=False)
    assert len(reading.samples) + len(reading.left_out) == len(images)
