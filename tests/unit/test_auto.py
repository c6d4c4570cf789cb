"""The default method: what it chooses for which pair of heads."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "contract"))
from small import detector, stock

from cfg import UserError
from distill.build import build_distiller
from distill.methods.auto import Auto
from distill.networks import FrozenTeacher, spec_of


def choice(student, teacher, predictions: list[str]) -> list[str]:
    specs = spec_of(student, "student"), spec_of(teacher, "teacher")
    return list(Auto(*specs, features="pkd", predictions=predictions).parts)


@pytest.mark.parametrize(
    ("teacher", "predictions", "chosen"),
    [
        (lambda: detector(16, seed=2), ["output"], ["pkd", "output"]),
        (lambda: detector(16, seed=2), ["ld", "output"], ["pkd", "output"]),  # no box distributions on either side
        (lambda: stock(16, seed=2), ["output", "ld"], ["pkd"]),  # anchors beside one prediction per cell
        (lambda: detector(16, seed=2), [], ["pkd"]),
    ],
)
def test_predictions_are_compared_where_they_stand_for_the_same(teacher, predictions, chosen) -> None:
    assert choice(detector(8, "none", seed=1), teacher(), predictions) == chosen


def test_without_labels_only_features_are_compared() -> None:
    student, teacher = spec_of(detector(8, "none", seed=1), "student"), spec_of(detector(16, seed=2), "teacher")
    assert list(Auto(replace(student, headless="no labels"), teacher, predictions=["output"]).parts) == ["pkd"]


def test_as_shipped_features_are_compared_and_the_teachers_head_is_not_run() -> None:
    student, teacher = detector(8, "none", seed=1), FrozenTeacher(detector(16, seed=2), "teacher")
    assert not build_distiller("auto", student, teacher, "s").reads_head


def test_auto_needs_a_teacher() -> None:
    with pytest.raises(UserError, match="auto needs a teacher"):
        build_distiller("auto", detector(8, "none", seed=1), None, "s")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"predictions": ["outptu"]}, "distillation 'outptu' not found: .*did you mean 'output"),
        ({"predictions": "output"}, r"expected predictions to be a list of configurations as \[output\], got 'output'"),
        ({"predictions": [1]}, "expected predictions to be a list"),
        ({"predictions": None}, "expected predictions to be a list"),
        ({"features": 1}, "expected features to be the name of a configuration"),
    ],
)
def test_mistakes_in_its_yaml_are_told(options, message) -> None:
    specs = spec_of(detector(8, "none", seed=1), "student"), spec_of(detector(16, seed=2), "teacher")
    with pytest.raises(UserError, match=message):
        Auto(*specs, **options)


def test_features_that_need_labels_are_refused_where_there_are_none(tmp_path) -> None:
    (tmp_path / "mine.yaml").write_text("method: auto\nfeatures: attention\n")
    pair = detector(8, "none", seed=1), FrozenTeacher(detector(16, seed=2), "teacher")
    assert build_distiller(str(tmp_path / "mine.yaml"), *pair, "s").terms
    with pytest.raises(UserError, match="--unlabelled: .*mine.yaml needs labels"):
        build_distiller(str(tmp_path / "mine.yaml"), *pair, "s", label_free=True)
