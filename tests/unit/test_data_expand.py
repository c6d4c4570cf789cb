"""The paper's enlargement: box arithmetic by hand, only the training part grows."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from cfg import UserError
from data.dataset import validate
from data.expand import brighten, copies, expand, flip, main, translate
from data.labels import read_labels
from data.layout import rows_to_xyxy

BOX = np.array([[10.0, 5, 30, 20]])


def picture() -> np.ndarray:
    """100 x 50, dark, with a white rectangle where `BOX` is."""
    pixels = np.full((50, 100, 3), 20, np.uint8)
    pixels[5:20, 10:30] = 200
    return pixels


def white(pixels: np.ndarray) -> list[int]:
    ys, xs = np.nonzero(pixels[..., 0] > 190)
    return [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1]


def test_brighten():
    assert brighten(np.array([[[100, 200, 0]]], np.uint8), 1.4).tolist() == [[[140, 255, 0]]]


def test_flip():
    pixels, boxes = flip(picture(), BOX)
    assert boxes.tolist() == [[70, 5, 90, 20]] and white(pixels) == [70, 5, 90, 20]


@pytest.mark.parametrize(("dx", "dy", "box"), [(15, 10, [25, 15, 45, 30]), (-5, -2, [5, 3, 25, 18]),
                                               (-15, 0, [0, 5, 15, 20]), (0, -10, [10, 0, 30, 10])])
def test_translate(dx, dy, box):
    pixels, boxes, keep = translate(picture(), BOX, dx, dy)
    assert boxes.tolist() == [box] and white(pixels) == box and keep.tolist() == [True]
    assert pixels.shape == (50, 100, 3)
    assert (pixels[0 if dy > 0 else -1, 50] == (114 if dy else 20)).all()


def test_translate_drops_what_leaves():
    # moved 27 to the left 3 of 20 columns remain: 15 % of the area, below a fifth; 25 to the left: 25 %
    assert translate(picture(), BOX, -27, 0)[2].tolist() == [False]
    assert translate(picture(), BOX, -25, 0)[1].tolist() == [[0, 5, 5, 20]]


def test_copies_follow_the_pixels():
    rows = np.array([[1, 0.2, 0.25, 0.2, 0.3]])  # BOX in fractions
    for seed in range(5):
        result = copies(picture(), rows, np.random.default_rng(seed))
        assert set(result) == {"__flip", "__shift"}
        for pixels, labels in result.values():
            assert labels[0, 0] == 1
            np.testing.assert_allclose(rows_to_xyxy(labels, 100, 50)[0], white(pixels), atol=1e-9)
            assert pixels[..., 0].max() > 200  # brighter than before


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for part, count in (("train", 3), ("val", 2), ("test", 1)):
        for kind in ("images", "labels"):
            (tmp_path / "set" / kind / part).mkdir(parents=True)
        for i in range(count):
            cv2.imwrite(str(tmp_path / f"set/images/{part}/{i}.png"), picture() + i)
            (tmp_path / f"set/labels/{part}/{i}.txt").write_text("0 0.2 0.25 0.2 0.3\n" * (i < 2))
    path = tmp_path / "set/data.yaml"
    path.write_text("train: images/train\nval: images/val\ntest: images/test\nnames: [pit]\n")
    return path


def test_training_part_is_tripled(data, tmp_path, capsys):
    assert main(["--data", str(data), "--out", str(tmp_path / "out")]) == 0
    assert capsys.readouterr().out.startswith("train: 9 images, val: 2 images, test: 1 images")
    summary = validate(tmp_path / "out")
    assert summary.images == {"train": 9, "val": 2, "test": 1} and summary.boxes == {"train": 6, "val": 2, "test": 1}
    for part in ("val", "test"):
        for file in (data.parent / "images" / part).iterdir():
            assert (tmp_path / "out/images" / part / file.name).read_bytes() == file.read_bytes()
    assert len(read_labels(tmp_path / "out/labels/train/0__flip.txt").rows) == 1


def test_seed_and_order(data, tmp_path):
    def shot(name: str, seed: int) -> bytes:
        expand(data, tmp_path / name, seed)
        return (tmp_path / name / "images/train/1__shift.png").read_bytes()

    first = shot("a", 0)
    (data.parent / "images/train/0.png").unlink()
    assert shot("b", 0) == first != shot("c", 1)


def test_unreadable_image_leaves_nothing(data, tmp_path):
    (data.parent / "images/train/1.png").write_bytes(b"no")
    with pytest.raises(UserError, match=r"1\.png: not a readable image"):
        expand(data, tmp_path / "out")
    assert [p.name for p in tmp_path.iterdir()] == ["set"]
