"""data.tile: which tiles of an image are kept, with which boxes, and that nothing else is touched."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from cfg import guard
from data import resolve
from data.files import find_images
from data.images import read_pixels
from data.labels import read_labels
from data.layout import label_path, rows_to_xyxy
from data.tile import main, tiles_of, visible
from inspection.tiles import Tiling

WINDOW = np.array([0, 0, 100, 100])


@pytest.mark.parametrize(
    ("box", "share"),
    [((10, 10, 30, 30), 1.0), ((80, 0, 120, 20), 0.5), ((96, 0, 106, 10), 0.4), ((200, 0, 210, 10), 0.0),
     ((0, 50, 2000, 60), 1.0), ((40, 50, 2000, 60), 0.6)],
)  # fmt: skip
def test_how_much_of_a_box_is_seen(box: tuple[int, ...], share: float) -> None:
    """Of the scratches of 2,000 px, a tile of 100 can show 100."""
    assert visible(np.array([box], dtype=float), WINDOW, 100)[1].tolist() == pytest.approx([share])


def test_tiles_with_too_little_of_a_box_are_left_out() -> None:
    windows = Tiling(100, 0.2).windows(100, 180)  # x from 0 and from 80
    kept, left_out, lost = tiles_of(np.array([[90.0, 10, 130, 30], [10, 10, 20, 20]]), windows, 100)
    assert left_out == 1 and lost == 1  # the left tile shows 10 of 40 px of the first box, and alone has the second
    assert list(kept) == [1] and kept[1][0].tolist() == [0] and kept[1][1].tolist() == [[10, 10, 50, 30]]
    kept, left_out, lost = tiles_of(np.array([[60.0, 10, 120, 30]]), windows, 100)
    assert (left_out, lost) == (0, 0) and kept[0][1].tolist() == [[60, 10, 100, 30]] and kept[1][1].tolist() == [[0, 10, 40, 30]]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two training images of 250 x 180, one with a bright square of 20 at (100, 50), and a validation image of 60 x 60."""
    folder = tmp_path / "data"
    for part, name, shape in (("train", "a", (180, 250)), ("train", "b", (180, 250)), ("val", "c", (60, 60))):
        for kind in ("images", "labels"):
            (folder / kind / part).mkdir(parents=True, exist_ok=True)
        image = np.random.default_rng(len(name)).integers(0, 100, (*shape, 3), dtype=np.uint8)
        if name == "a":
            image[50:70, 100:120] = 255
            (folder / f"labels/{part}/a.txt").write_text(f"1 {110 / 250} {60 / 180} {20 / 250} {20 / 180}\n")
        cv2.imwrite(str(folder / f"images/{part}/{name}.png"), image)
    (folder / "data.yaml").write_text("train: images/train\nval: images/val\nnames: [scratch, pit]\n")
    return folder / "data.yaml"


def listing(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(p): (p.stat().st_size, p.stat().st_mtime_ns) for p in folder.rglob("*")}


def run(data: Path, out: Path, *more: str) -> int:
    return guard(lambda: main(["--data", str(data), "--out", str(out), "--tile", "100", *more]))


def test_boxes_are_where_the_defects_are(data: Path, tmp_path: Path, capsys) -> None:
    before = listing(data.parent)
    assert run(data, tmp_path / "tiles", "--overlap", "0.3", "--empty", "2") == 0
    assert listing(data.parent) == before
    captured = capsys.readouterr()
    assert "95 % of the defects are at most 20 px long and whole in a tile" in captured.err
    assert "val: 1 tiles, 1 of them without defects, from 1 images" in captured.out
    names = {image.name: image for image in find_images(tmp_path / "tiles/images/train")}
    full = {name: image for name, image in names.items() if label_path(image).read_text()}
    assert set(full) == {"a__70_0.png"}  # of x 0, 70, 140, 150 and y 0, 70, 80 the only tile that shows it
    assert len(names) == 3
    rows = read_labels(label_path(full["a__70_0.png"])).rows
    assert rows[0, 0] == 1
    x1, y1, x2, y2 = rows_to_xyxy(rows, 100, 100)[0].round().astype(int)
    assert (x1, y1, x2, y2) == (30, 50, 50, 70)
    pixels = read_pixels(full["a__70_0.png"])
    assert (pixels[y1:y2, x1:x2] == 255).all() and (pixels == 255).all(2).sum() == 400
    assert resolve(tmp_path / "tiles/data.yaml")["names"] == {0: "scratch", 1: "pit"}


def test_the_sample_of_empty_tiles_is_always_the_same(data: Path, tmp_path: Path) -> None:
    chosen = []
    for name, seed in (("one", "0"), ("two", "0"), ("other", "5")):
        assert run(data, tmp_path / name, "--overlap", "0.3", "--empty", "4", "--seed", seed) == 0
        chosen.append([image.name for image in find_images(tmp_path / name / "images/train")])
    assert chosen[0] == chosen[1] != chosen[2] and len(chosen[0]) == 5


@pytest.mark.parametrize(
    ("more", "words"),
    [(("--overlap", "1.5"), "--overlap 1.5"), (("--tile", "8"), "--tile 8"), (("--empty", "-1"), "--empty -1"),
     (("--empty", "nan"), "--empty nan")],
)  # fmt: skip
def test_what_makes_no_sense(data: Path, tmp_path: Path, more: tuple[str, ...], words: str, capsys) -> None:
    assert run(data, tmp_path / "tiles", *more) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1 and not (tmp_path / "tiles").exists()


def test_nothing_is_overwritten_and_damage_is_told(data: Path, tmp_path: Path, capsys) -> None:
    (data.parent / "images/train/d.png").write_text("no image")
    assert run(data, tmp_path / "tiles") == 1
    assert "d.png: not a readable image" in capsys.readouterr().out
    assert run(data, tmp_path / "tiles") == 2
    assert "expected a new or empty folder" in capsys.readouterr().err
    assert run(data, data.parent) == 2
    assert run(data, tmp_path / "tiles", "--overwrite") == 1
