"""Spoiled and damaged annotations: what is written passes the check, what is not used is said, nothing ends in a traceback."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

sys.path.insert(0, str(Path(__file__).parent))
from fuzz import VALUES, damaged, inputs, spoiled

from cfg import guard
from data.check import check_data
from data.convert.__main__ import main
from data.labels import LABEL_ERRORS

pytestmark = pytest.mark.slow
PNG = cv2.imencode(".png", np.zeros((48, 64, 3), np.uint8))[1].tobytes()
COCO = {
    "categories": [{"id": 1, "name": "scratch"}, {"id": 2, "name": "pit", "supercategory": "x"}],
    "images": [{"id": 1, "file_name": "a.png", "width": 64, "height": 48}, {"id": 2, "file_name": "images/b.png"}],
    "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [4, 4, 10, 10], "iscrowd": 0},
                    {"id": 2, "image_id": 2, "category_id": 2, "segmentation": [[1, 1, 9, 1, 9, 9]], "area": 32}],
}  # fmt: skip
LABELME = {
    "imagePath": "a.png", "imageData": None, "imageHeight": 48, "imageWidth": 64,
    "shapes": [{"label": "scratch", "points": [[4, 4], [20, 20]], "shape_type": "rectangle", "group_id": None},
               {"label": "pit", "points": [[9, 9], [12, 9]], "shape_type": "circle", "flags": {}}],
}  # fmt: skip
BOX = "<object><name>scratch</name><difficult>0</difficult><bndbox><xmin>4</xmin><ymin>4</ymin><xmax>20</xmax><ymax>20</ymax></bndbox></object>"
VOC = f"<annotation><folder>images</folder><filename>a.png</filename><size><width>64</width><height>48</height></size>{BOX}</annotation>"


def convert(folder: Path, form: str, name: str, content: bytes) -> None:
    shutil.rmtree(folder / "set", ignore_errors=True)
    shutil.rmtree(folder / "out", ignore_errors=True)
    (folder / "set/images").mkdir(parents=True)
    for image in ("a", "b", "a_test"):
        (folder / f"set/images/{image}.png").write_bytes(PNG)
    (folder / "set" / name).parent.mkdir(exist_ok=True)
    (folder / "set" / name).write_bytes(content)
    source = ["--format", form, "--source", str(folder / "set"), "--out", str(folder / "out")]
    status = guard(lambda: main(source))
    assert status in (0, 1, 2)
    assert status == 2 or not [f for f in check_data(folder / "out").findings if f.code in LABEL_ERRORS]
    assert (folder / "set" / name).read_bytes() == content


def as_json(content: object) -> bytes:
    return json.dumps(content, default=str).encode("utf-8", "surrogatepass")


def keyed(content: object) -> object:
    """JSON's keys are texts; the spoiled copy may have others."""
    if isinstance(content, dict):
        return {str(key): keyed(value) for key, value in content.items()}
    return [keyed(value) for value in content] if isinstance(content, list) else content


@inputs()
@given(content=spoiled(COCO).map(keyed).map(as_json) | VALUES.map(keyed).map(as_json) | damaged(as_json(COCO)))
def test_coco(tmp_path: Path, content: bytes) -> None:
    convert(tmp_path, "coco", "a.json", content)


@inputs()
@given(content=spoiled(LABELME).map(keyed).map(as_json) | VALUES.map(keyed).map(as_json) | damaged(as_json(LABELME)))
def test_labelme(tmp_path: Path, content: bytes) -> None:
    convert(tmp_path, "labelme", "images/a.json", content)


TEXTS = st.text(max_size=6) | st.floats().map(str) | st.integers().map(str) | st.sampled_from(["..", "/", "b.png", "1e9", "&amp;"])


@inputs()
@given(content=damaged(VOC.encode()) | st.tuples(st.sampled_from(["a.png", "4", "20", "scratch", "64", "images"]), TEXTS).map(
    lambda pair: VOC.replace(*pair).encode("utf-8", "surrogatepass")))  # fmt: skip
def test_voc(tmp_path: Path, content: bytes) -> None:
    convert(tmp_path, "voc", "a.xml", content)


@inputs()
@given(content=damaged(b"4 4 20 20 1\n4,4,9,9,2\r\n") | st.binary(max_size=40))
def test_deeppcb(tmp_path: Path, content: bytes) -> None:
    convert(tmp_path, "deeppcb", "images_not/a.txt", content)
