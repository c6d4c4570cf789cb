"""Find and read the YAML files of `cfg/` by short name or by path."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import yaml

from cfg.errors import UserError, nearest
from cfg.text import read_text

ROOT = Path(__file__).resolve().parent
MOST_VALUES = 1_000_000  # of a YAML with every alias replaced by what it stands for


def find(kind: str, name: str | Path) -> Path:
    """Return the path of a configuration file.

    Args:
        kind: folder below `cfg/`: ``models``, ``distill``, ``data`` or ``train``.
        name: a path that exists, or a file name below that folder, with or without ``.yaml``.

    Raises:
        UserError: no such file; the message lists where it was looked for and the nearest known name.
    """
    given = Path(name)
    for candidate in (given, given.with_name(given.name + ".yaml")):
        if candidate.is_file():
            return candidate.resolve()
    folder = ROOT / kind
    known = {p.relative_to(folder).as_posix(): p for p in sorted(folder.rglob("*.yaml"))}
    by_name = {p.name: p for p in known.values()} | known
    for key in (str(name), f"{name}.yaml"):
        if key in by_name:
            return by_name[key]
    raise UserError(
        f"{kind} configuration '{name}' not found: expected a YAML file at that path or one of "
        f"cfg/{kind}: {', '.join(known) or 'none'}{nearest(f'{name}', known)}"
    )


def read_yaml(path: str | Path, as_text: bool = False) -> dict[str, Any]:
    """Read a YAML mapping; `as_text` leaves its values as they are written, where YAML sees numbers, dates or `yes` as True.

    Raises:
        UserError: naming the file when it is unreadable, not YAML or not a mapping.
    """
    try:
        content = _load(read_text(path), yaml.BaseLoader if as_text else yaml.SafeLoader)
    except UserError:
        raise
    except (yaml.YAMLError, RecursionError, ValueError) as error:  # ValueError: a date such as 2026-99-99
        detail = " ".join(str(error).split())
        raise UserError(f"{path}: not valid YAML ({detail}); correct the file at that line") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected a YAML mapping (key: value lines), got {'nothing' if content is None else type(content).__name__}")
    return content


def _load(text: str, kind: type[yaml.BaseLoader | yaml.SafeLoader]) -> Any:
    """Load a YAML document. Raises `ValueError` where its aliases stand for too much: a few lines can stand for more than any memory."""
    loader = kind(text)
    try:
        document = loader.get_single_node()
        if document is None:
            return None
        if _values(document, {}) > MOST_VALUES:
            raise ValueError(f"with its aliases replaced it has more than {MOST_VALUES:,} values, or contains itself")
        return loader.construct_document(document)
    finally:
        loader.dispose()


def _values(node: yaml.Node, counted: dict[int, float]) -> float:
    """How many values a node has with every alias replaced; infinite if it contains itself."""
    if isinstance(node, yaml.ScalarNode):
        return 1
    if id(node) not in counted:
        counted[id(node)] = math.inf
        pairs = isinstance(node, yaml.MappingNode)
        counted[id(node)] = 1 + sum(_values(part, counted) for part in ([x for pair in node.value for x in pair] if pairs else node.value))
    return counted[id(node)]
