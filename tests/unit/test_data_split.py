"""Dividing a data set: shares by class, copies together, seeds."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from cfg import UserError
from data.dataset import validate
from data.split import group_images, main, read_group, read_ratios, split, stratify


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """60 images: 40 of class 0, 20 of class 1 (10 of them hold both), each with its own grey."""
    root = tmp_path / "all"
    (root / "images").mkdir(parents=True)
    (root / "labels").mkdir()
    for i in range(60):
        cv2.imwrite(str(root / f"images/im{i}.png"), np.full((8, 8), i, np.uint8))
        rows = ["0 0.5 0.5 0.5 0.5"] * (i < 40) + ["1 0.5 0.5 0.4 0.4"] * (i >= 30 and i < 50)
        (root / f"labels/im{i}.txt").write_text("\n".join(rows))
    (root / "data.yaml").write_text("names: [pit, scratch]\n")
    return root


def test_shares_by_class(source, tmp_path):
    counts = split(source, tmp_path / "out", read_ratios("6:2:2"))
    assert {part: n[-1] for part, n in counts.items()} == {"train": 36, "val": 12, "test": 12}
    assert [counts[part][0] for part in ("train", "val", "test")] == [24, 8, 8]
    assert [counts[part][1] for part in ("train", "val", "test")] == [12, 4, 4]
    assert validate(tmp_path / "out").images == {"train": 36, "val": 12, "test": 12}


@pytest.mark.long
def test_seed(source, tmp_path):
    def files(name: str, seed: int) -> list[str]:
        split(source, tmp_path / name, read_ratios("8:2"), seed)
        return sorted(p.name for p in (tmp_path / name / "images/val").iterdir())

    assert files("a", 0) == files("b", 0) != files("c", 1)


def test_copies_stay_together(source, tmp_path):
    images = source / "images"
    for i in range(0, 60, 3):
        (images / f"copy{i}.png").write_bytes((images / f"im{i}.png").read_bytes())  # identical pixels
        cv2.imwrite(str(images / f"im{i}__flip.png"), np.full((8, 8), 100 + i, np.uint8))  # name of a copy
    split(source, tmp_path / "out", read_ratios("6:2:2"))
    where = {p.stem: p.parent.name for p in (tmp_path / "out/images").rglob("*.png")}
    assert len(where) == 100
    assert all(where[f"im{i}"] == where[f"copy{i}"] == where[f"im{i}__flip"] for i in range(0, 60, 3))
    assert len({where[f"im{i}"] for i in range(60)}) == 3


def test_group_rules(tmp_path):
    names = ["x/a", "y/a", "x/a_aug1", "b.rf.123", "b.rf.456", "c1", "c2"]
    images = []
    for i, name in enumerate(names):
        path = tmp_path / f"{name}.png"
        path.parent.mkdir(exist_ok=True)
        cv2.imwrite(str(path), np.full((4, 4), i, np.uint8))
        images.append(path)
    assert len(set(group_images(images, None))) == 7
    g = group_images(images)
    assert g[0] == g[1] == g[2] and g[3] == g[4] and len(set(g)) == 4  # y/a joins: a_aug1 may be its copy
    assert len(set(group_images(images[:2]))) == 2  # equal names alone are no copies
    g = group_images(images, r"([a-z])\d")
    assert g[5] == g[6] and len(set(g)) == 6


def test_stratify_respects_groups_and_rare_classes():
    presence = np.array([[1, 0, 1]] * 90 + [[0, 1, 1]] * 10)
    part = stratify(presence, (8, 1, 1), 3)
    assert np.bincount(part, minlength=3).tolist() == [80, 10, 10]
    assert np.bincount(part[90:], minlength=3).tolist() == [8, 1, 1]


@pytest.mark.parametrize("text", ["8", "8:x", "0:1", "1:1:1:1", "nan:1", "8:-1"])
def test_bad_ratios(text):
    with pytest.raises(UserError, match="--ratios: expected"):
        read_ratios(text)


def test_bad_input(source, tmp_path, capsys):
    with pytest.raises(UserError, match="'hash' or 'prefix REGEX'"):
        read_group(["prefix"])
    with pytest.raises(UserError, match="regular expression"):
        split(source, tmp_path / "o", read_ratios("8:2"), pattern="(")
    with pytest.raises(UserError, match="expected images"):
        main(["--source", str(tmp_path / "none"), "--out", str(tmp_path / "o")])
    with pytest.raises(UserError, match="none for"):
        split(source, tmp_path / "o", read_ratios("8:1:1"), pattern="(im)")
    (source / "labels/im3.txt").write_text("5 0.5 0.5 0.1 0.1")
    with pytest.raises(UserError, match=r"im3\.txt:1"):
        split(source, tmp_path / "o", read_ratios("8:2"))
    (source / "images/im4.png").write_bytes(b"no image")
    (source / "labels/im3.txt").write_text("")
    with pytest.raises(UserError, match=r"im4\.png: not a readable image"):
        split(source, tmp_path / "o", read_ratios("8:2"))
    assert not (tmp_path / "o").exists()
    (source / "images/im4.png").unlink()
    assert main(["--source", str(source), "--out", str(tmp_path / "o"), "--ratios", "8:2"]) == 0
    assert "all images" in capsys.readouterr().out
