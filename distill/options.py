"""Checks of the values in a distillation YAML: every method refuses the same mistakes in the same words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from cfg import UserError, is_number, nearest


def positive(method: str, name: str, value: object, usual: float) -> float:
    """`value` if it is a finite number above 0. Raises `UserError`, which names the usual value, for anything else."""
    valid = is_number(value) and value > 0
    return _checked(method, name, value, valid, "a number above 0", f"the paper's is {usual:g}")


def not_negative(method: str, name: str, value: object) -> float:
    """`value` if it is a finite number of at least 0. Raises `UserError` for anything else."""
    return _checked(method, name, value, is_number(value) and value >= 0, "a number of at least 0", "correct it")


def ratio(method: str, name: str, value: object, usual: float) -> float:
    """`value` if it is a number from 0 to below 1. Raises `UserError`, which names the usual one, for anything else."""
    valid = is_number(value) and 0 <= value < 1
    return _checked(method, name, value, valid, "a number from 0 to below 1", f"the paper's is {usual:g}")


def flag(method: str, name: str, value: object) -> bool:
    """`value` if it is true or false. Raises `UserError` for anything else: the text "no" would count as true."""
    return _checked(method, name, value, isinstance(value, bool), "true or false, without quotes", "correct it")


def choice(method: str, name: str, value: object, among: tuple[str, ...]) -> str:
    """`value` if it is one of these words. Raises `UserError`, with the nearest, for anything else."""
    valid = isinstance(value, str) and value in among
    return _checked(method, name, value, valid, " or ".join(among), f"correct it{nearest(str(value), among)}")


def gains_of(method: str, given: Mapping[str, object] | None, names: Iterable[str]) -> dict[str, float]:
    """Base gains by name, 1 where none is given. Raises `UserError` for an unknown name or a wrong value."""
    known = tuple(names)
    if not isinstance(given, (Mapping, type(None))):
        raise UserError(f"{method}: expected gains to be numbers by name ({', '.join(known)}), got {given!r}; correct it")
    numbers = {}
    for name, value in (given or {}).items():
        if name not in known:
            raise UserError(f"{method}: expected gains among {', '.join(known)}, got '{name}'{nearest(name, known)}")
        numbers[name] = not_negative(method, name, value)
    return dict.fromkeys(known, 1.0) | numbers


def _checked(method: str, name: str, value: Any, valid: bool, expected: str, fix: str) -> Any:
    if not valid:
        raise UserError(f"{method}: expected {name} to be {expected}, got {value!r}; {fix}")
    return value
