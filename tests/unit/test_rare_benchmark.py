"""What the benchmark of rare defects measures on and by."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.scarce.score import escape_rate
from benchmarks.scarce.sets import MARGIN, cut, good_squares
from cfg import UserError
from data.files import list_images
from data.labels import read_labels
from data.layout import label_path
from data.sample import make_sample


def test_escapes_at_an_overkill_by_hand():
    scores = np.array([0.1] * 18 + [0.5, 0.9] + [0.05, 0.5, 0.6, 0.95])
    defective = np.array([False] * 20 + [True] * 4)
    assert escape_rate(scores, defective, 0.05) == 0.5  # one of 20 good ones above 0.5: 0.05 and 0.5 pass
    assert escape_rate(scores, defective, 0.0) == 0.75
    assert escape_rate(scores, defective, 0.10) == 0.25


def test_good_squares_keep_clear_of_boxes():
    pixels = np.full((200, 200, 3), 50, np.uint8)
    pixels[60:100, 0:80] = 255  # the defect
    pictures = list(good_squares(pixels, np.array([[0, 40 / 200, 80 / 200, 80 / 200, 40 / 200]])))
    assert pictures and all(picture.shape == pixels.shape and (picture == 50).all() for picture in pictures)
    assert list(good_squares(pixels, np.array([[0, 0.5, 0.5, 1.0, 1.0]]))) == [] and MARGIN > 0


@pytest.fixture(scope="module")
def sample(tmp_path_factory):
    return make_sample(tmp_path_factory.mktemp("rare") / "s", images=70, size=200, difficulty=1.0)


@pytest.mark.long
@pytest.mark.parametrize("held_out", [False, True])
def test_cut_has_few_shots_and_good_pictures(sample, tmp_path, held_out):
    data = cut(sample, tmp_path / "few", 1, 0, held_out)
    train, val = (list_images(data.parent / "images" / part) for part in ("train", "val"))
    filled = [image for image in train if len(read_labels(label_path(image)).rows)]
    assert len(filled) == 4 and len(train) == 4 * 5
    names = {image.name for image in list_images(sample.parent / "images/val")}
    scored = {image.name for image in val if not image.name.startswith("good")}
    assert scored and (scored.isdisjoint(names) if held_out else scored <= names)
    assert scored.isdisjoint(image.name for image in filled)
    with pytest.raises(UserError, match="has only"):
        cut(sample, tmp_path / "many", 60, 0)


@pytest.mark.long
def test_sample_of_good_parts(tmp_path):
    data = make_sample(tmp_path / "s", images=100, size=64, empty=0.95)
    images = list_images(data.parent / "images")
    defective = sum(len(read_labels(label_path(image)).rows) > 0 for image in images)
    assert 1 <= defective <= 12
    with pytest.raises(UserError, match="--empty"):
        make_sample(tmp_path / "t", empty=1.0)
