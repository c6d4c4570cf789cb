"""Labels that a model disagrees with: what is a suspect, its evidence, and what labelling programs get and give back."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from converting import picture

from cfg import UserError
from data.convert.__main__ import main as convert
from data.labels import read_labels
from data.review.__main__ import main
from data.review.suspects import BOX, CLASS, EXTRA, MISSING, Objects, find_suspects, iou

NAMES = ["pit", "crack"]
WELL = (10, 10, 30, 30)


def labels(*boxes: tuple) -> Objects:
    return Objects(np.array([b[:4] for b in boxes], float).reshape(-1, 4), np.array([b[4] for b in boxes], int))


def found(*boxes: tuple) -> Objects:
    given = labels(*boxes)
    return Objects(given.boxes_xyxy, given.classes, np.array([b[5] for b in boxes], float))


def many(count: int = 20) -> tuple[list[Objects], list[Objects]]:
    """Images of which each has a pit that is labelled and found."""
    return [labels((*WELL, 0)) for _ in range(count)], [found((*WELL, 0, 0.8)) for _ in range(count)]


def test_overlap() -> None:
    assert iou(np.array([[0, 0, 2, 2]]), np.array([[1, 0, 3, 2], [5, 5, 6, 6]])).tolist() == [[pytest.approx(1 / 3), 0]]
    assert iou(np.zeros((0, 4)), np.zeros((3, 4))).shape == (0, 3)


@pytest.mark.parametrize(
    ("given", "seen", "kind", "suspicion"),
    [
        (labels(), found((*WELL, 0, 0.7)), MISSING, 0.7),
        (labels((*WELL, 0)), found(), EXTRA, 0.8),  # as far below the usual 0.8 as can be
        (labels((*WELL, 1)), found((*WELL, 0, 0.9)), CLASS, 0.9),
        (labels((10, 10, 30, 30, 0)), found((20, 20, 40, 40, 0, 0.9)), BOX, 0.9),  # IoU 1/7
    ],
)
def test_each_kind_of_mistake(given: Objects, seen: Objects, kind: str, suspicion: float) -> None:
    right = many()
    suspects = find_suspects([*right[0], given], [*right[1], seen], 2)
    assert [(s.image, s.kind) for s in suspects] == [(20, kind)]
    assert suspects[0].suspicion == pytest.approx(suspicion, abs=1e-6) and suspects[0].score <= 0.9


def test_a_label_of_a_class_that_is_hardly_ever_found_is_no_suspect() -> None:
    given, seen = many()
    given += [labels((*WELL, 1)) for _ in range(20)]
    seen += [found((*WELL, 1, 0.04)) for _ in range(20)]
    assert find_suspects(given, seen, 2) == []
    given.append(labels((*WELL, 1)))
    seen.append(found())
    assert find_suspects(given, seen, 2) == []


def test_one_object_without_label_is_told_once_and_the_surest_comes_first() -> None:
    given, seen = many()
    given += [labels(), labels()]
    seen += [found((*WELL, 0, 0.4)), found((*WELL, 0, 0.6), (11, 11, 31, 31, 0, 0.5), (60, 60, 80, 80, 1, 0.3))]
    told = [(s.image, s.kind, round(s.suspicion, 3)) for s in find_suspects(given, seen, 2)]
    assert told == [(21, MISSING, 0.6), (20, MISSING, 0.4), (21, MISSING, 0.3)]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Twelve images of 100 x 50 pixels in two folders, some of one name; their boxes as val.py writes them."""
    folder, rows = tmp_path / "set", {}
    for number in range(12):
        place = f"{'left' if number % 2 else 'right'}/{number // 2}"
        picture(folder / f"images/train/{place}.png")
        rows[place] = "0 0.2 0.4 0.2 0.4\n"  # 10 10 30 30
    rows["left/0"], rows["left/1"] = "", "1 0.2 0.4 0.2 0.4\n0 0.8 0.5 0.123457 0.2\n"
    for place, text in rows.items():
        path = folder / f"labels/train/{place}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (folder / "data.yaml").write_text(f"train: images/train\nval: images/train\nnames: {NAMES}\n")
    images = sorted((folder / "images/train").rglob("*.png"))
    arrays = {
        "files": [p.name for p in images], "paths": [str(p) for p in images], "found_counts": [1] * 12,
        "found_boxes_xyxy": np.tile(np.float32(WELL), (12, 1)), "found_classes": [0] * 12,
        "found_scores": np.linspace(0.6, 0.8, 12, dtype=np.float32),
    }  # fmt: skip
    np.savez(tmp_path / "boxes.npz", **{key: np.array(value) for key, value in arrays.items()})
    return folder


def review(data: Path, *more: str) -> Path:
    out = data.parent / "review"
    assert main(["--data", str(data / "data.yaml"), "--detections", str(data.parent / "boxes.npz"), "--out", str(out), *more]) == 0
    return out


def test_table_and_sheets(data: Path) -> None:
    before = {p: p.read_bytes() for p in data.rglob("*.txt")}
    out = review(data)
    with (out / "suspects.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    kinds = {(Path(r["image"]).parent.name, Path(r["image"]).stem): r for r in rows}
    missing, other = kinds["left", "0"], kinds["left", "1"]
    assert missing["kind"] == "missing" and missing["label_line"] == "" and missing["found_x2"] == "30.0"
    extra = [r for r in rows if r["kind"] == "extra"]
    assert [(r["label_line"], r["found_class"]) for r in extra] == [("2", "")]
    assert {r["kind"] for r in rows if r["image"] == other["image"]} == {"class", "extra"}
    assert [float(r["suspicion"]) for r in rows] == sorted((float(r["suspicion"]) for r in rows), reverse=True)
    assert (out / "sheets/001.jpg").stat().st_size > 10_000
    assert {p: p.read_bytes() for p in data.rglob("*.txt")} == before


def test_labelme_edits_are_read_back(data: Path) -> None:
    out = review(data, "--export", "labelme", "--all-images")
    corrected = data.parent / "corrected"
    arguments = ["--format", "labelme", "--source", str(out / "labelme"), "--names", ",".join(NAMES)]
    assert convert([*arguments, "--out", str(corrected)]) == 0
    read = {p.stem: read_labels(p).rows for p in corrected.rglob("labels/**/*.txt")}
    written = {p.stem: json.loads(p.read_text()) for p in (out / "labelme").glob("*.json")}
    assert len(read) == len(written) == 12
    originals = sorted(read_labels(p).rows.tolist() for p in (data / "labels").rglob("*.txt"))
    assert np.concatenate(sorted(r.tolist() for r in read.values() if len(r))) == pytest.approx(
        np.concatenate([r for r in originals if r]), abs=1e-6
    )
    # A person gives the missing object its class, and deletes what is no defect.
    for path in (out / "labelme").glob("*.json"):
        content = json.loads(path.read_text())
        content["shapes"] = [s | {"label": "pit"} if s["label"] == "__ignore__" else s
                             for s in content["shapes"] if "usually" not in s["description"]]  # fmt: skip
        path.write_text(json.dumps(content))
    assert convert([*arguments, "--out", str(corrected), "--overwrite"]) == 0
    again = [read_labels(p).rows for p in corrected.rglob("labels/**/*.txt")]
    assert sorted(len(rows) for rows in again) == [1] * 12
    assert sum(rows[0, 0] == 1 for rows in again) == 1  # the class that is wrong was left as it is


@pytest.mark.parametrize("more", [[], ["--all-images"]])
def test_exports_of_other_programs(data: Path, more: list[str]) -> None:
    out = review(data, "--export", "labelstudio", "coco", *more)
    tasks = json.loads((out / "label-studio.json").read_text(encoding="utf-8"))
    assert (len(tasks) == 12) == bool(more) and all((t["data"]["suspicion"] > 0) == bool(t["data"]["evidence"]) for t in tasks)
    task = next(t for t in tasks if not t["annotations"][0]["result"])
    prediction = task["predictions"][0]
    assert prediction["model_version"].startswith("boxes.npz ") and 0.6 <= prediction["score"] <= 0.8
    result = prediction["result"][0]
    assert (result["type"], result["original_width"], result["original_height"]) == ("rectanglelabels", 100, 50)
    assert result["value"] == {"x": 10, "y": 20, "width": 20, "height": 40, "rotation": 0, "rectanglelabels": ["pit"]}
    assert result["score"] == prediction["score"]
    content, results = (json.loads((out / name).read_text()) for name in ("coco.json", "coco-found.json"))
    assert [c["name"] for c in content["categories"]] == NAMES
    assert sum(len(t["annotations"][0]["result"]) for t in tasks) == len(content["annotations"])
    assert results[0]["bbox"] == [10, 10, 20, 20] and {r["image_id"] for r in results} <= {i["id"] for i in content["images"]}


def test_boxes_of_other_images_are_refused(data: Path) -> None:
    picture(data / "images/train/left/new.png")
    (data / "labels/train/left/new.txt").write_text("")
    with pytest.raises(UserError, match=r"expected the boxes of all 13 images, got none of .*new\.png"):
        review(data)
    (data.parent / "boxes.npz").write_text("no boxes")
    with pytest.raises(UserError, match="cannot be read"):
        main(["--data", str(data / "data.yaml"), "--detections", str(data.parent / "boxes.npz"), "--out", str(data.parent / "b")])
