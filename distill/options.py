"""Checks of the values in a distillation YAML: every method refuses the same mistakes in the same words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from cfg import UserError, is_number, nearest


def positive(method: str, name: str, value: object, usual: float) -> float:
    """`value` if it is a finite number above 0. Raises `UserError`, which names the usual value, for anything else."""
    if not (is_number(value) and value > 0):
        raise _wrong(method, name, value, "a number above 0", f"the paper's is {usual:g}")
    return value


def not_negative(method: str, name: str, value: object) -> float:
    """`value` if it is a finite number of at least 0. Raises `UserError` for anything else."""
    if not (is_number(value) and value >= 0):
        raise _wrong(method, name, value, "a number of at least 0", "correct it")
    return value


def ratio(method: str, name: str, value: object, usual: float) -> float:
    """`value` if it is a number from 0 to below 1. Raises `UserError`, which names the usual one, for anything else."""
    if not (is_number(value) and 0 <= value < 1):
        raise _wrong(method, name, value, "a number from 0 to below 1", f"the paper's is {usual:g}")
    return value


def flag(method: str, name: str, value: object) -> bool:
    """`value` if it is true or false. Raises `UserError` for anything else: the text "no" would count as true."""
    if not isinstance(value, bool):
        raise _wrong(method, name, value, "true or false, without quotes", "correct it")
    return value


def choice(method: str, name: str, value: object, among: tuple[str, ...]) -> str:
    """`value` if it is one of these words. Raises `UserError`, with the nearest, for anything else."""
    if not (isinstance(value, str) and value in among):
        raise _wrong(method, name, value, " or ".join(among), f"correct it{nearest(str(value), among)}")
    return value


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


def _wrong(method: str, name: str, value: object, expected: str, fix: str) -> UserError:
    return UserError(f"{method}: expected {name} to be {expected}, got {value!r}; {fix}")
