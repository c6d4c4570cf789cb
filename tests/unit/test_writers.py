"""Result files: every format parses back, whatever was found and whenever the run ended."""

from __future__ import annotations

import csv
import json
from pathlib import Path, PurePosixPath

import numpy as np
import pytest

from data.result_files import (
    CocoWriter,
    CsvWriter,
    Detections,
    JsonWriter,
    LabelWriter,
    output_stem,
    xywh_fraction,
)

NAMES = {0: "scratch", 1: "Riß, tief"}  # a comma and a letter outside ASCII


def found(
    relative: str = "sub/a.jpg", boxes: int = 2, frame: int | None = None, root: Path = Path("/somewhere")
) -> Detections:
    boxes_xyxy = np.array([[10, 20, 50, 40], [0, 0, 200, 100]], dtype=np.float32)[:boxes]
    return Detections(
        path=root / relative,
        relative=PurePosixPath(relative),
        frame=frame,
        height=100,
        width=200,
        boxes_xyxy=boxes_xyxy.reshape(-1, 4),
        scores=np.array([0.9, 0.25], dtype=np.float32)[:boxes],
        classes=np.array([0, 1])[:boxes],
    )


def test_fractions_by_hand() -> None:
    # (10, 20, 50, 40) in 200 x 100: centre (30, 30) -> 0.15, 0.30; size (40, 20) -> 0.20, 0.20
    np.testing.assert_allclose(xywh_fraction(found()), [[0.15, 0.3, 0.2, 0.2], [0.5, 0.5, 1.0, 1.0]])
    assert xywh_fraction(found(boxes=0)).shape == (0, 4)


def test_json_parses_back(tmp_path: Path) -> None:
    writer = JsonWriter(tmp_path / "r.json", NAMES, {"tandem": "x"})
    for entry in (found(), found("b.jpg", boxes=0), found("clip.mp4", frame=7)):
        writer.add(entry)
    writer.skip(Path("/somewhere/broken.jpg"), "empty file")
    writer.close()
    content = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))
    assert content["tandem"] == "x" and content["names"]["1"] == "Riß, tief"
    first, second, third = content["images"]
    assert first["detections"][0] == {
        "class": 0,
        "name": "scratch",
        "confidence": 0.9,
        "box": {"x1": 10.0, "y1": 20.0, "x2": 50.0, "y2": 40.0},
    }
    assert second == {"image": "b.jpg", "width": 200, "height": 100, "detections": []}
    assert third["frame"] == 7 and "frame" not in first
    assert content["skipped"] == [{"image": str(Path("/somewhere/broken.jpg")), "reason": "empty file"}]


@pytest.mark.parametrize("pictures", [0, 1, 3])
def test_coco_parses_back_at_any_length(tmp_path: Path, pictures: int) -> None:
    writer = CocoWriter(tmp_path / "coco.json", NAMES, {"tandem": "x"})
    for number in range(pictures):
        writer.add(found(f"{number}.jpg"))
    writer.close()
    content = json.loads((tmp_path / "coco.json").read_text(encoding="utf-8"))
    assert [image["id"] for image in content["images"]] == list(range(1, pictures + 1))
    assert [entry["id"] for entry in content["annotations"]] == list(range(1, 2 * pictures + 1))
    assert content["categories"][1] == {"id": 1, "name": "Riß, tief"}
    if pictures:
        entry = content["annotations"][0]
        assert entry["bbox"] == [10.0, 20.0, 40.0, 20.0] and entry["area"] == 800.0 and entry["image_id"] == 1
    assert not list(tmp_path.glob("tmp*")), "the temporary file of the second list is still there"


def test_coco_is_read_by_pycocotools(tmp_path: Path) -> None:
    coco = pytest.importorskip("pycocotools.coco")
    writer = CocoWriter(tmp_path / "coco.json", NAMES, {})
    writer.add(found())
    writer.close()
    dataset = coco.COCO(str(tmp_path / "coco.json"))
    assert len(dataset.getAnnIds(imgIds=[1])) == 2 and dataset.imgs[1]["file_name"] == "sub/a.jpg"


def test_csv_parses_back(tmp_path: Path) -> None:
    writer = CsvWriter(tmp_path / "r.csv", NAMES)
    writer.add(found())
    writer.add(found("empty.jpg", boxes=0))
    writer.close()
    with (tmp_path / "r.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == ["scratch", "Riß, tief"]
    assert rows[0]["x2"] == "50.00" and rows[0]["confidence"] == "0.90000" and rows[0]["frame"] == ""


def test_labels_keep_folders_apart_and_replace_old_ones(tmp_path: Path) -> None:
    writer = LabelWriter(tmp_path / "labels", {".jpg", ".png"}, with_confidence=True)
    for relative, frame in (("a/x.jpg", None), ("b/x.jpg", None), ("clip.mp4", 3)):
        (tmp_path / relative).parent.mkdir(exist_ok=True)
        (tmp_path / relative).touch()
        writer.add(found(relative, frame=frame, root=tmp_path))
    made = sorted(path.relative_to(tmp_path / "labels").as_posix() for path in tmp_path.rglob("*.txt"))
    assert made == ["a/x.txt", "b/x.txt", "clip_3.txt"]
    first = (tmp_path / "labels/a/x.txt").read_text().splitlines()
    assert first[0] == "0 0.150000 0.300000 0.200000 0.200000 0.90000" and len(first) == 2
    writer.add(found("a/x.jpg", boxes=0, root=tmp_path))
    assert not (tmp_path / "labels/a/x.txt").exists()


def test_equal_stems_of_different_extensions_keep_apart(tmp_path: Path) -> None:
    for name in ("x.jpg", "x.png", "y.jpg"):
        (tmp_path / name).touch()
    expected = {"x.jpg": "x.jpg", "x.png": "x.png", "y.jpg": "y"}
    for name, stem in expected.items():
        assert str(output_stem(tmp_path / name, PurePosixPath(name), (".jpg", ".png"))) == stem
    stream = PurePosixPath("rtsp___10.0.0.1_cam")
    assert output_stem(Path("rtsp://10.0.0.1/cam"), stream, (".jpg",)) == stream


def test_names_in_another_encoding_are_written_and_read_back(tmp_path: Path) -> None:
    name = "\udcff_north.png"  # the byte FF, as Python shows it
    writers = JsonWriter(tmp_path / "r.json", NAMES, {}), CocoWriter(tmp_path / "coco.json", NAMES, {})
    for writer in (*writers, CsvWriter(tmp_path / "r.csv", NAMES), LabelWriter(tmp_path / "labels", {".png"}, False)):
        writer.add(found(name))
        writer.skip(Path(f"/somewhere/{name}"), "empty file")
        writer.close()
    content = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))
    assert content["images"][0]["image"] == name and content["skipped"][0]["image"] == f"/somewhere/{name}"
    assert json.loads((tmp_path / "coco.json").read_text(encoding="utf-8"))["images"][0]["file_name"] == name
    assert "_north.png" in (tmp_path / "r.csv").read_text(encoding="utf-8")
