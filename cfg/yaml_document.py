"""Load a YAML document of a user: nothing in it is executed, left out, or larger than it looks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import yaml

MOST_VALUES = 1_000_000  # with every alias replaced by what it stands for


def load_document(text: str, as_text: bool = False) -> Any:
    """Load the one document in a text; None where it is empty.

    Args:
        as_text: leave values as they are written, where YAML sees numbers, dates or `yes` as True.

    Raises:
        yaml.YAMLError, ValueError or RecursionError: not YAML; a key that is there twice, of which YAML's loader takes the last;
            aliases that stand for more than `MOST_VALUES`, as a few lines can.
    """
    loader = yaml.BaseLoader(text) if as_text else yaml.SafeLoader(text)
    try:
        document = loader.get_single_node()
        if document is None:
            return None
        if _count(document, {}) > MOST_VALUES:
            raise ValueError(f"with its aliases replaced it has more than {MOST_VALUES:,} values, or contains itself")
        return loader.construct_document(document)
    finally:
        loader.dispose()


def _count(node: yaml.Node, counted: dict[int, float]) -> float:
    """How many values a node has with every alias replaced; infinite if it contains itself. Raises `ValueError` for a key twice."""
    if isinstance(node, yaml.ScalarNode):
        return 1
    if id(node) not in counted:
        counted[id(node)] = math.inf
        parts = node.value
        if isinstance(node, yaml.MappingNode):
            _check_keys([key for key, _ in node.value])
            parts = [part for pair in node.value for part in pair]
        counted[id(node)] = 1 + sum(_count(part, counted) for part in parts)
    return counted[id(node)]


def _check_keys(keys: Sequence[yaml.Node]) -> None:
    seen: dict[tuple[str, str], int] = {}
    for key in keys:
        if not isinstance(key, yaml.ScalarNode) or key.value == "<<":
            continue
        name, line = (key.tag, key.value), key.start_mark.line + 1
        if name in seen:
            raise ValueError(f"the key '{key.value}' is there twice, in lines {seen[name]} and {line}")
        seen[name] = line
