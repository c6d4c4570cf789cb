"""Checks of the options of distillation methods."""

from __future__ import annotations

import math
import re

import pytest

from cfg import UserError
from distill.options import flag, gains_of, not_negative, positive, ratio

WRONG = (-1, math.nan, math.inf, "4", None, True, [1])


@pytest.mark.parametrize("value", [*WRONG, 0])
def test_not_above_0(value: object) -> None:
    with pytest.raises(UserError, match=r"cwd: expected temperature to be a number above 0, got .*; the paper's is 4$"):
        positive("cwd", "temperature", value, 4)


@pytest.mark.parametrize("value", WRONG)
def test_negative(value: object) -> None:
    got = re.escape(repr(value))
    with pytest.raises(UserError, match=rf"cwd: expected gain to be a number of at least 0, got {got}; "):
        not_negative("cwd", "gain", value)


@pytest.mark.parametrize("value", [*WRONG, 1, 1.5])
def test_no_ratio(value: object) -> None:
    with pytest.raises(UserError, match=r"mask to be a number from 0 to below 1, got .*; the paper's is 0.65$"):
        ratio("mgd", "mask", value, 0.65)


@pytest.mark.parametrize("value", ["no", "false", 0, 1, None])
def test_neither_true_nor_false(value: object) -> None:
    got = re.escape(repr(value))
    with pytest.raises(UserError, match=rf"sdd: expected virtual to be true or false, without quotes, got {got}; "):
        flag("sdd", "virtual", value)


def test_right_values_come_back() -> None:
    assert flag("m", "f", False) is False and flag("m", "f", True) is True
    assert (positive("m", "t", 0.5, 1), not_negative("m", "g", 0), ratio("m", "r", 0, 0.5)) == (0.5, 0, 0)


def test_gains_are_1_where_none_is_given() -> None:
    assert gains_of("fgd", None, ("a", "b")) == {"a": 1.0, "b": 1.0}
    assert gains_of("fgd", {"b": 0.5}, ("a", "b")) == {"a": 1.0, "b": 0.5}


@pytest.mark.parametrize("given, message", [
    ({"fature": 1}, "fgd: expected gains among feature, global, got 'fature'; did you mean 'feature'"),
    ({"global": -2}, "fgd: expected global to be a number of at least 0, got -2"),
    (3.0, "fgd: expected gains to be numbers by name"),
])  # fmt: skip
def test_wrong_gains_are_refused(given: object, message: str) -> None:
    with pytest.raises(UserError, match=message):
        gains_of("fgd", given, ("feature", "global"))
