"""The built-in sample: deterministic, complete, reusable, and not to be solved by a threshold."""

from pathlib import Path

import numpy as np
import pytest

from cfg import UserError
from data.check import check_data
from data.dataset import resolve, validate
from data.drawn.boxes import box_of
from data.files import find_images
from data.images import read_pixels
from data.labels import read_labels
from data.layout import label_path, rows_to_xyxy
from data.sample import make_sample
from data.steel import DEFECTS, draw_plate


@pytest.fixture(scope="module")
def sample(tmp_path_factory) -> Path:
    return make_sample(tmp_path_factory.mktemp("sample") / "s", images=60, size=128, seed=0).parent


def content(root: Path) -> dict[str, bytes]:
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in sorted(root.rglob("*")) if p.is_file()}


@pytest.mark.long
def test_deterministic(tmp_path):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        make_sample(tmp_path / name, images=10, size=96, seed=seed)
    first, second, other = (content(tmp_path / name) for name in "abc")
    assert first == second
    assert all(first[key] != other[key] for key in first if key.endswith(".png") and key in other)


@pytest.mark.long
def test_parts_classes_and_health(sample):
    summary = validate(sample)
    assert summary.images == {"train": 42, "val": 12, "test": 6}
    assert list(summary.names.values()) == ["scratch", "pit", "inclusion", "patch"]
    assert summary.names == resolve("sample", require=())["names"] == dict(enumerate(DEFECTS))
    assert all(counts.min() > 0 for part, counts in summary.boxes_per_class.items() if part != "test")
    assert sum(summary.background.values()) > 0
    assert summary.boxes["train"] > 1.5 * summary.images["train"]
    assert not check_data(sample).findings


@pytest.mark.long
def test_box_sizes(sample):
    sides = np.concatenate([rows_to_xyxy(read_labels(p).rows, 128, 128) for p in sample.glob("labels/*/*.txt")])
    sides = sides[:, 2:] - sides[:, :2]
    assert sides.min() >= 6 - 1e-3 and sides.max() > 128 / 3


def test_a_threshold_does_not_solve_it(sample):
    """Brightness relative to the image's own: the area under the ROC curve stays near chance."""
    inside, outside = [], []
    for image in find_images(sample / "images"):
        grey = read_pixels(image)[..., 0].astype(float)
        grey -= np.median(grey)
        mask = np.zeros(grey.shape, bool)
        for x1, y1, x2, y2 in rows_to_xyxy(read_labels(label_path(image)).rows, 128, 128).round().astype(int):
            mask[y1:y2, x1:x2] = True
        inside.append(grey[mask])
        outside.append(grey[~mask])
    inside, outside = np.sort(np.concatenate(inside)), np.sort(np.concatenate(outside))
    below = np.searchsorted(outside, inside).mean() / len(outside)
    assert 0.35 < below < 0.65


def test_every_defect_is_where_its_box_says():
    for kind, draw in DEFECTS.items():
        rng = np.random.default_rng(5)
        plate = draw_plate(rng, 128)
        change = draw(rng, plate, np.array([64.0, 60.0]))
        x1, y1, x2, y2 = box_of(change)
        outside = np.abs(change).copy()
        outside[int(y1):int(np.ceil(y2)), int(x1):int(np.ceil(x2))] = 0
        assert outside.max() < 0.65 * np.abs(change).max(), kind
        assert x1 < 64 < x2 or y1 < 60 < y2


def test_box_of_by_hand():
    change = np.zeros((64, 64), np.float32)
    change[20:40, 10:30] = 9
    np.testing.assert_allclose(box_of(change), [10, 20, 30, 40], atol=1)
    change[:] = 0
    change[0:30, 0:2] = 9  # thin and at the edge: widened to 6 pixels, inside the image
    box = box_of(change)
    assert box[0] == 0 and box[2] == 6 and box[1] == 0
    assert box_of(np.zeros((64, 64), np.float32)) is None


@pytest.mark.long
def test_reuse_and_refusal(tmp_path):
    out = tmp_path / "s"
    yaml = make_sample(out, images=10, size=64)
    before = yaml.stat().st_mtime_ns
    assert make_sample(out, images=10, size=64) == yaml and yaml.stat().st_mtime_ns == before
    make_sample(out, images=11, size=64)  # other arguments: made anew
    assert len(find_images(out / "images")) == 11
    find_images(out / "images")[0].unlink()
    make_sample(out, images=11, size=64)  # incomplete: made anew
    assert len(find_images(out / "images")) == 11
    (tmp_path / "other").mkdir()
    (tmp_path / "other/mine.txt").write_text("keep")
    with pytest.raises(UserError, match="new or empty folder"):
        make_sample(tmp_path / "other", images=10, size=64)
    with pytest.raises(UserError, match="at least 10"):
        make_sample(tmp_path / "few", images=2)


@pytest.mark.long
def test_an_easier_sample_has_larger_and_clearer_defects(sample, tmp_path):
    easy = make_sample(tmp_path / "easy", images=60, size=128, seed=0, difficulty=0.0).parent

    def measure(root: Path) -> tuple[float, float]:
        sides, contrasts = [], []
        for image in find_images(root / "images"):
            grey = read_pixels(image)[..., 0].astype(float)
            for x1, y1, x2, y2 in rows_to_xyxy(read_labels(label_path(image)).rows, 128, 128).round().astype(int):
                sides.append(np.sqrt((x2 - x1) * (y2 - y1)))
                contrasts.append(grey[y1:y2, x1:x2].std() / grey.std())
        return float(np.median(sides)), float(np.median(contrasts))

    (usual_side, usual_contrast), (side, contrast) = measure(sample), measure(easy)
    assert side > 1.3 * usual_side and contrast > 1.1 * usual_contrast
    for wrong in (-0.1, 1.1, float("nan")):
        with pytest.raises(UserError, match="--difficulty: expected a number from 0"):
            make_sample(tmp_path / "wrong", difficulty=wrong)


@pytest.mark.long
@pytest.mark.parametrize("name", ["labels/train/steel_0001.txt", "images/val/mine.png", "notes.txt"])
def test_a_changed_sample_is_not_replaced(tmp_path, name):
    """What a person corrected or added stays, whatever is asked for; what runs keep beside labels is no change."""
    out = tmp_path / "s"
    yaml = make_sample(out, images=10, size=64)
    (out / "labels/train.tandem").mkdir()
    (out / "labels/train.tandem/images.json").write_text("{}")
    assert make_sample(out, images=11, size=64) == yaml
    (out / name).write_text("0 0.5 0.5 0.2 0.2\n")
    before = content(out)
    with pytest.raises(UserError, match=f"{name} was not made by data.sample, or changed since"):
        make_sample(out, images=10, size=64)
    assert content(out) == before
    (tmp_path / "empty").mkdir()
    make_sample(tmp_path / "empty", images=10, size=64)
