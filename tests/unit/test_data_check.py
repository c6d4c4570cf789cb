"""The checker: every kind of defect is put into a small set and must be found, in the right file and line."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from cfg import UserError, guard
from data import first_shape
from data.check import check_data, main


@pytest.fixture
def root(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for part in ("train", "val"):
        for kind in ("images", "labels"):
            (tmp_path / kind / part).mkdir(parents=True)
        for i in range(3):
            cv2.imwrite(str(tmp_path / f"images/{part}/{i}.jpg"), rng.integers(0, 255, (40, 60, 3), np.uint8))
            (tmp_path / f"labels/{part}/{i}.txt").write_text("0 0.5 0.5 0.2 0.2\n1 0.2 0.2 0.2 0.2\n")
    (tmp_path / "data.yaml").write_text("train: images/train\nval: images/val\nnames: [pit, scratch]\n")
    return tmp_path


def found(root: Path, code: str) -> list[tuple[str, str, int]]:
    """Return (level, file name, line) of the findings with that code; nothing else may have been found."""
    findings = check_data(root / "data.yaml").findings
    assert {f.code for f in findings} <= {code}
    return [(f.level, Path(f.file).name, f.line) for f in findings]


def test_clean(root, capsys):
    (root / "labels/train/2.txt").unlink()
    (root / "labels/val/2.txt").write_text("")
    assert main(["--data", str(root / "data.yaml")]) == 0
    said = capsys.readouterr().out
    assert "train  3 images, 4 boxes, 1 without boxes (1 without a label file)" in said
    assert "pit 2, scratch 2" in said and "0 errors, 0 warnings" in said


@pytest.mark.parametrize(("line", "code", "level"), [
    ("0 0.5 0.5 0.2", "columns", "error"), ("0 inf 0.5 0.2 0.2", "nan", "error"),
    ("9 0.5 0.5 0.2 0.2", "class", "error"), ("x 0.5 0.5 0.2 0.2", "number", "error"),
    ("0 0.5 1.5 0.2 0.2", "range", "error"),
    ("0 0.5 0.5 0.2 0.0", "empty-box", "error"), ("1 0.2 0.2 0.2 0.2", "duplicate-box", "warning"),
    ("0 0.5 0.5 0.02 0.2", "tiny-box", "warning"), ("0 0.95 0.5 0.3 0.2", "outside-box", "warning")])
def test_label_lines(root, line, code, level, capsys):
    (root / "labels/val/1.txt").write_text(f"0 0.5 0.5 0.2 0.2\n1 0.2 0.2 0.2 0.2\n{line}\n")
    assert found(root, code) == [(level, "1.txt", 3)]
    assert main(["--data", str(root / "data.yaml")]) == (1 if level == "error" else 0)
    assert f"{code}: {root}/labels/val/1.txt:3:" in capsys.readouterr().out


def test_min_size_option(root):
    (root / "labels/val/1.txt").write_text("0 0.5 0.5 0.1 0.2\n")  # 6 x 8 pixels
    assert not check_data(root / "data.yaml").findings
    assert [f.code for f in check_data(root / "data.yaml", min_size=7).findings] == ["tiny-box"]


@pytest.mark.parametrize("cut", [0, 20, 0.5, -2])
def test_truncated_images(root, cut):
    file = root / "images/train/1.jpg"
    code = file.read_bytes()
    file.write_bytes(code[:int(len(code) * cut) if isinstance(cut, float) else cut])
    assert found(root, "corrupt-image") == [("error", "1.jpg", 0)]


def test_truncated_png(root):
    pixels = np.random.default_rng(3).integers(0, 255, (64, 64), np.uint8)
    cv2.imwrite(str(root / "images/train/4.png"), pixels)
    code = (root / "images/train/4.png").read_bytes()
    (root / "images/train/4.png").write_bytes(code[:len(code) * 2 // 3])
    assert found(root, "corrupt-image") == [("error", "4.png", 0)]


def test_missing_images(root):
    (root / "images/train/1.jpg").unlink()  # its label stays
    (root / "images/val/1.jpg").unlink()
    (root / "images/val/1.jpg").symlink_to(root / "gone.jpg")
    (root / "labels/train/classes.txt").write_text("pit\nscratch\n")  # label tools write it there
    assert found(root, "missing-image") == [("error", "1.jpg", 0), ("error", "1.txt", 0)]


def test_copies(root):
    code = (root / "images/train/0.jpg").read_bytes()
    pixels = cv2.imread(str(root / "images/train/0.jpg"))
    (root / "images/train/0b.jpg").write_bytes(code)
    assert found(root, "same-image") == [("warning", "0b.jpg", 0)]
    (root / "images/train/0b.jpg").unlink()
    cv2.imwrite(str(root / "images/val/7.png"), pixels)  # same pixels, other format and part
    (report := check_data(root / "data.yaml"))
    assert [(f.level, f.code) for f in report.findings] == [("error", "leaked-image")]
    assert "val and train share an image" in report.findings[0].text


def test_shared_label_and_unused_class(root):
    cv2.imwrite(str(root / "images/train/0.png"), np.zeros((40, 60), np.uint8))
    assert found(root, "shared-label") == [("warning", "0.png", 0)]
    (root / "images/train/0.png").unlink()
    for i in range(3):
        (root / f"labels/train/{i}.txt").write_text("0 0.5 0.5 0.2 0.2")
    assert found(root, "unused-class") == [("warning", "data.yaml", 0)]


def test_whole_set(root):
    for file in root.glob("labels/*/*.txt"):
        file.write_text("")
    assert found(root, "no-boxes") == [("error", "data.yaml", 0)]


def test_missing_folders(root, capsys):
    (root / "data.yaml").write_text("train: images/train\nval: images/no\nnames: [pit, scratch]\ndownload_help: see x")
    assert found(root, "missing-folder") == [("error", "data.yaml", 0)]
    assert main(["--data", str(root / "data.yaml")]) == 1
    assert "validation images not found" in (said := capsys.readouterr().out) and "see x" in said
    (root / "images/empty").mkdir()
    (root / "data.yaml").write_text("train: images/train\nval: images/empty\nnames: [pit, scratch]\n")
    assert found(root, "no-images") == [("error", "empty", 0)]
    (root / "data.yaml").write_text("train: images/train\nnames: [pit, scratch]\n")
    assert found(root, "missing-part") == [("error", "data.yaml", 0)]


def test_list_file_with_missing_entries(root):
    (root / "list.txt").write_text("./images/val/0.jpg\n./images/val/none.jpg\n")
    (root / "data.yaml").write_text("train: images/train\nval: list.txt\nnames: [pit, scratch]\n")
    assert found(root, "missing-image") == [("error", "none.jpg", 0)]


def test_json_and_arguments(root, capsys):
    (root / "labels/val/1.txt").write_text("9 0.5 0.5 0.2 0.2\n")
    assert main(["--data", str(root / "data.yaml"), "--json", str(root / "r.json")]) == 1
    content = json.loads((root / "r.json").read_text())
    assert content["errors"] == 1 and content["findings"][0]["line"] == 1 and content["parts"]["train"]["boxes"] == 6
    capsys.readouterr()
    main(["--data", str(root / "data.yaml"), "--json", "-"])
    assert json.loads(capsys.readouterr().out) == content
    assert guard(lambda: main(["--data", str(root / "none.yaml")])) == 2
    with pytest.raises(UserError, match="--json: expected a file"):
        main(["--data", str(root / "data.yaml"), "--json", str(root / "no/r.json")])


def test_damaged_images_are_told_the_same_when_ultralytics_is_loaded(tmp_path: Path) -> None:
    import models.environment  # noqa: F401  (imports ultralytics, which replaces PIL's `open` by its own)
    from data.images import inspect_image

    damaged = tmp_path / "damaged.jpg"
    damaged.write_bytes(b"no image at all")
    with pytest.raises(ValueError, match="not a readable image"):
        inspect_image(damaged)


def test_the_first_shape_is_that_of_an_image_that_can_be_read(root):
    images = root / "images/train"
    (images / "0.jpg").write_bytes(b"")
    assert first_shape(str(images)) == first_shape([str(images)]) == (40, 60)
    for image in images.iterdir():
        image.write_bytes(b"no image")
    with pytest.raises(UserError, match="expected an image that can be read, got none; `python -m data.check`"):
        first_shape(str(images))
