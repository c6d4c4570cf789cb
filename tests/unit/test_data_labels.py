"""Label files, data YAMLs, layout."""

from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

from cfg import UserError
from data.dataset import resolve, validate
from data.labels import read_labels
from data.layout import label_path, rows_to_xyxy, unique_stems, xyxy_to_rows


def make(root: Path, labels: str = "0 0.5 0.5 0.2 0.2\n", **keys) -> Path:
    for part in ("train", "val"):
        for kind in ("images", "labels"):
            (root / kind / part).mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(root / f"images/{part}/a.png"), np.full((20, 30, 3), 5 + len(part), np.uint8))
    (root / "labels/train/a.txt").write_text(labels)
    content = {"train": "images/train", "val": "images/val", "names": ["pit", "scratch"]} | keys
    (root / "data.yaml").write_text(yaml.safe_dump({k: v for k, v in content.items() if v is not None}))
    return root / "data.yaml"


@pytest.mark.parametrize(("line", "code"), [
    ("0 0.5 0.5 0.2", "columns"), ("0 0.5 0.5 0.2 0.2 0.9", "columns"), ("pit 0.5 0.5 0.2 0.2", "number"),
    ("0 nan 0.5 0.2 0.2", "nan"), ("2 0.5 0.5 0.2 0.2", "class"), ("-1 0.5 0.5 0.2 0.2", "class"),
    ("0.5 0.5 0.5 0.2 0.2", "class"), ("0 50 0.5 0.2 0.2", "range"), ("0 -0.2 0.5 0.2 0.2", "range"),
    ("0 0.5 0.5 0 0.2", "empty-box")])
def test_each_bad_line_is_named(tmp_path, line, code):
    data = make(tmp_path, f"1 0.5 0.5 0.1 0.1\n\n{line}\n")
    labels = read_labels(tmp_path / "labels/train/a.txt", 2)
    assert [(p.line, p.code) for p in labels.problems] == [(3, code)] and len(labels.rows) == 1
    with pytest.raises(UserError, match=r"a\.txt:3: expected") as caught:
        validate(data)
    assert "\n" not in str(caught.value)


def test_duplicates_polygons_and_unreadable(tmp_path):
    make(tmp_path, "0 0.5 0.5 0.2 0.2\n1 0.1 0.1 0.3 0.1 0.3 0.5\n0 0.5 0.5 0.2 0.2\n")
    labels = read_labels(tmp_path / "labels/train/a.txt", 2)
    np.testing.assert_allclose(labels.rows[1], [1, 0.2, 0.3, 0.2, 0.4])  # the triangle's bounding box
    assert [(p.line, p.code) for p in labels.problems] == [(3, "duplicate-box")] and labels.lines == [1, 2]
    (tmp_path / "labels/train/a.txt").write_bytes(b"\x00\x01")
    assert read_labels(tmp_path / "labels/train/a.txt").problems[0].code == "unreadable"


def test_summary(tmp_path):
    summary = validate(make(tmp_path, "0 0.5 0.5 0.2 0.2\n1 0.1 0.1 0.1 0.1\n1 0.3 0.1 0.1 0.1\n"))
    assert summary.boxes == {"train": 3, "val": 0} and summary.background == {"train": 0, "val": 1}
    assert summary.boxes_per_class["train"].tolist() == [1, 2] and summary.nc == 2


def test_no_boxes_no_images_many_errors(tmp_path):
    with pytest.raises(UserError, match="expected boxes in the training part, got none"):
        validate(make(tmp_path, ""))
    with pytest.raises(UserError, match=r"2 such problems in 1 files: `python -m data.check"):
        validate(make(tmp_path, "7 0.5 0.5 0.1 0.1\n8 0.5 0.5 0.1 0.1\n"))
    (tmp_path / "images/train/a.png").unlink()
    with pytest.raises(UserError, match="expected images in .*train, got none"):
        validate(tmp_path / "data.yaml")


@pytest.mark.parametrize(("keys", "match"), [
    ({"names": None}, "'names' to list"), ({"names": {0: "a", 2: "b"}}, "keys 0 to 1"),
    ({"names": ["a", "a"]}, "distinct"), ({"nc": 3}, "'nc' to be the number"),
    ({"val": None}, "key 'val'.*data.split"), ({"train": 3}, "'train' to be a folder"),
    ({"val": "images/no", "download_help": "see\n x"}, "validation images not found: expected .*no; see x"),
    ({"path": "nowhere"}, "training images not found.*correct 'path'")])
def test_bad_yaml(tmp_path, keys, match):
    with pytest.raises(UserError, match=match):
        resolve(make(tmp_path, **keys))


def test_paths(tmp_path, monkeypatch):
    data = make(tmp_path / "datasets/steel", path="datasets/steel", download="rm -rf /")
    monkeypatch.chdir(tmp_path)
    content = resolve(data)
    assert content["train"] == str(tmp_path / "datasets/steel/images/train") and "download" not in content
    assert content["names"] == {0: "pit", 1: "scratch"} and content["nc"] == 2
    monkeypatch.chdir("/")
    with pytest.raises(UserError, match="not found"):
        resolve(data)
    monkeypatch.setenv("TANDEM_DATASETS", str(tmp_path / "datasets"))
    assert resolve(data)["val"] == str(tmp_path / "datasets/steel/images/val")
    assert resolve(make(tmp_path / "b"))["path"] == str(tmp_path / "b")  # no `path`: beside the YAML
    assert resolve(tmp_path / "b")["path"] == str(tmp_path / "b")  # the folder is enough


def test_list_file_and_lists(tmp_path):
    data = make(tmp_path, val=["list.txt", "images/val"])
    (tmp_path / "list.txt").write_text("./images/train/a.png\n")
    summary = validate(data)
    assert summary.images == {"train": 1, "val": 2}


@pytest.mark.parametrize("name", ["sample", "neu-det", "deeppcb", "pku-pcb", "aluminium", "gc10-det"])
def test_shipped_yaml(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TANDEM_DATASETS", raising=False)
    content = resolve(name, require=())
    assert content["path"] == str(tmp_path / "datasets" / name) and "python -m data." in content["download_help"]
    with pytest.raises(UserError, match=f"training images not found: expected {tmp_path}.* --out datasets/{name}"):
        resolve(name)
    monkeypatch.setenv("TANDEM_DATASETS", "/big/")
    with pytest.raises(UserError, match=f"expected /big/{name}/images/train; .* --out /big/{name}"):
        resolve(name)


def test_layout_arithmetic():
    assert label_path(Path("/images/x/images/train/a.b.png")) == Path("/images/x/labels/train/a.b.txt")
    assert label_path(Path("/flat/a.png")) == Path("/flat/a.txt")
    assert unique_stems(["p/a", "q/a", "b", "p_a"]) == ["p_a", "q_a", "b", "p_a_2"]
    boxes = np.array([[10.0, 10, 30, 20]])
    rows = xyxy_to_rows(np.array([1]), boxes, 100, 50)
    np.testing.assert_allclose(rows, [[1, 0.2, 0.3, 0.2, 0.2]])
    np.testing.assert_allclose(rows_to_xyxy(rows, 100, 50), boxes)
