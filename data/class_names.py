"""Class names of a data YAML: the text that stands there, distinct, numbered from 0."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import Any

from cfg import UserError, read_yaml


def class_names(file: str | Path, content: dict[str, Any]) -> dict[int, str]:
    """Return the class names of a data YAML by index; `class_0`, `class_1` ... where it gives only their number.

    A name is what is written: `[yes, 1.0, 2026-01-01]` are the texts "yes", "1.0" and "2026-01-01", which YAML would
    turn into a truth value, a number and a date.

    Args:
        file: the YAML.
        content: what `cfg.read_yaml` made of it.

    Raises:
        UserError: no names, names that are no text or not distinct, or indices that do not run from 0.
    """
    names, nc = content.get("names"), content.get("nc")
    if names is None and isinstance(nc, int) and nc > 0:
        names = [f"class_{i}" for i in range(nc)]
    if isinstance(names, list):
        names = dict(enumerate(names))
    if not isinstance(names, dict) or not names:
        raise UserError(f"{file}: expected 'names' to list the classes, got {names!r}; write `names: [scratch, pit]`")
    keys = [int(key) if str(key).isdecimal() else key for key in names]
    if sorted(keys, key=str) != sorted(range(len(names)), key=str):
        raise UserError(f"{file}: expected 'names' to have the keys 0 to {len(names) - 1}, got {list(names)}; renumber")
    texts = [_text(file, name) for name in written(file, "names", names.values())]
    names = dict(sorted(zip(map(int, keys), texts, strict=True)))
    if len(set(names.values())) < len(names):
        raise UserError(f"{file}: expected distinct 'names', got {list(names.values())}; rename the repeated class")
    if nc is not None and nc != len(names):
        raise UserError(f"{file}: expected 'nc' to be the number of 'names' ({len(names)}), got {nc}; drop 'nc'")
    return names


def written(file: str | Path, key: str, values: Collection[Any]) -> list[Any]:
    """The entries of a list or mapping of a YAML as the text that stands there.

    Args:
        file: the YAML.
        key: of the list or mapping, at the top of the file.
        values: its entries as YAML reads them; returned where the file has others of that key (by a `<<` merge).
    """
    text = read_yaml(file, as_text=True).get(key)
    found = list(text.values() if isinstance(text, dict) else text or [])
    return found if len(found) == len(values) else list(values)


def _text(file: str | Path, name: Any) -> str:
    if isinstance(name, (list, dict)):
        raise UserError(f"{file}: expected each of 'names' to be a text, got {name!r}; write it in quotes")
    try:  # two halves of one character, as JSON escapes it, become that character
        return str(name).encode("utf-16", "surrogatepass").decode("utf-16")
    except UnicodeDecodeError:
        raise UserError(f"{file}: expected 'names' to be text, got {name!a}, half a character; correct it") from None
