"""The arguments for rare defects: off but in their recipe, and refused where they cannot be meant."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest

from cfg import UserError, read_yaml
from engine.settings import Rare, Settings, complete, known_names, read_command_line
from engine.training.build import small_boxes_note

TRAIN = Path(__file__).resolve().parents[2] / "cfg/train"
GIVEN = {"model": "s-model.yaml", "data": "neu-det.yaml"}


def labels_of(sides: np.ndarray, shape: int) -> list[dict]:
    """A label for each square box of a side, as a fraction of a square image."""
    return [{"bboxes": np.array([[0.5, 0.5, side, side]]), "shape": (shape, shape)} for side in sides]


def test_off_but_in_the_recipe():
    assert not Rare().chooses_draws and not Rare().paste
    options = {one.name for one in fields(Rare)}
    recipes = {path.stem: read_yaml(path).keys() & options for path in TRAIN.glob("*.yaml")}
    assert recipes.pop("rare") == options
    assert not any(recipes.values())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"repeat_threshold": 0}, "repeat_threshold: expected a share of the images above 0"),
        ({"repeat_threshold": "many"}, "repeat_threshold: .*'many'"),
        ({"background_share": 1.5}, "background_share: expected a share from 0 to 1"),
        ({"min_steps": -1}, "min_steps: expected a whole number"),
        ({"min_steps": 2.5}, "min_steps: expected a whole number"),
        ({"paste": 30}, "paste: expected a probability"),
        ({"paste": None}, "paste: expected a probability"),
        ({"recipe": "rare", "rect": True}, "rect: batches of images of like shape"),
    ],
)
def test_wrong_values(changes, said):
    with pytest.raises(UserError, match=said):
        complete(GIVEN | changes)


def test_a_recipe_can_be_overruled():
    tokens = ["--repeat-threshold", "None", "--background-share=None", "--min-steps", "0", "--rect", "True", "--recipe", "rare"]
    settings = complete(GIVEN | read_command_line(tokens, known_names()))
    assert not Settings.of(settings).rare.chooses_draws and settings["paste"] > 0


def test_small_boxes_are_told():
    sides = np.array([4.0] * 3 + [20.0] * 7)  # of 128 px images
    labels = labels_of(sides / 128, 128)
    note = small_boxes_note(labels, 128, 8)
    assert "30% are smaller than 8 px" in note and "--imgsz 128 (median 20.0 px)" in note and "at --imgsz 256 only 10%" in note
    assert small_boxes_note(labels, 256, 8) == ""  # 4 px are 8
    assert small_boxes_note(labels_of(np.zeros(0), 128), 128, 8) == ""
