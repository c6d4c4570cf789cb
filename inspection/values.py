"""Values of a plan, checked one by one: text or numbers in, numbers out, or one line that says what was expected."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from cfg import UserError, nearest

NOTHING = (None, "", "~", "null")  # how YAML says that there is no value


def absent(value: Any) -> bool:
    """Whether a value means none."""
    return value is None or (isinstance(value, str) and value in NOTHING)


def mapping(content: Any, where: str, known: Iterable[str] | None = None) -> dict[str, Any]:
    """`content` as {text: value}; with `known`, no other keys. Raises `UserError`."""
    if absent(content):
        return {}
    if not isinstance(content, Mapping):
        raise UserError(f"{where}: expected key: value lines, got {str(content)[:60]!r}; see the example of a plan in docs/inspection.md")
    found = {str(key): value for key, value in content.items()}
    allowed = list(found if known is None else known)
    for key in found:
        if key not in allowed:
            raise UserError(f"{where}: expected one of {', '.join(allowed)}; got '{key}'{nearest(key, allowed)}")
    return found


def number(value: Any, where: str, least: float = -math.inf, above: float = -math.inf, most: float = math.inf) -> float:
    """`value` as a finite number, at least `least`, greater than `above`, at most `most`. Raises `UserError`."""
    try:
        found = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        found = math.nan
    if not (math.isfinite(found) and least <= found <= most and found > above):
        low = f" greater than {above:g}" if above > -math.inf else f" of at least {least:g}" if least > -math.inf else ""
        high = f" and at most {most:g}" if most < math.inf else ""
        raise UserError(f"{where}: expected a number{low}{high}, got {str(value)[:60]!r}; correct it")
    return found


def whole(value: Any, where: str, least: int) -> int:
    """`value` as a whole number of at least `least`. Raises `UserError`."""
    found = number(value, where, least=least)
    if found != int(found):
        raise UserError(f"{where}: expected a whole number, got {value}; correct it")
    return int(found)


def choice(value: Any, where: str, known: Iterable[str]) -> str:
    """`value`, one of the words `known`. Raises `UserError`."""
    known = list(known)
    if value not in known:
        raise UserError(f"{where}: expected {' or '.join(known)}, got {str(value)[:60]!r}{nearest(str(value), known)}")
    return str(value)
