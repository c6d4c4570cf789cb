"""Whether a model's classes are those of the data it is scored on, and which is which where only their order differs."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from cfg import UserError
from cfg.class_names import OTHER, REORDERED, SINGLE, check_classes, compare, nearest_name

MAPPED = "mapped"


def read_as(weights: str | Path, known: Mapping[int, str], data: str | Path, names: dict[int, str]) -> dict[int, str]:
    """The class names that the data's labels are read with: the one class of a `single_cls` model, else their own (`names`)."""
    if list(known.values()) != [SINGLE] or len(names) == 1:
        return names
    print(f"{weights} was trained with single_cls: the {len(names)} classes of {data} are read as one, '{SINGLE}'", file=sys.stderr)
    return {0: SINGLE}


def match_classes(
    weights: str | Path, known: Mapping[int, str], data: str | Path, wanted: Mapping[int, str], map_classes: bool = False
) -> tuple[list[int] | None, str]:
    """Compare the class names of a model (`known`) with the data's (`wanted`); say it where they cannot be compared.

    Args:
        map_classes: pair them by name where their order differs, and leave the model's further classes out.

    Returns:
        The model's class for each class of the data, None where they have the same numbers; and how they were compared:
        "same", "unknown" (placeholders on one side) or "mapped".

    Raises:
        UserError: other classes, or the same in another order without `map_classes`.
    """
    found = compare(known, wanted)
    if map_classes and found.relation in (REORDERED, OTHER):
        lacking = [wanted[index] for index, source in enumerate(found.by_name) if source is None]
        if lacking:
            hint = nearest_name(lacking[0], [str(name) for name in known.values()])
            raise UserError(
                f"--map-classes: expected {weights} to know every class of {data}, but not {lacking[0]!r}"
                f"{f' and {len(lacking) - 1} more' if lacking[1:] else ''}{hint}; correct the names, or train it on them"
            )
        return [source for source in found.by_name if source is not None], MAPPED
    fix = "use its own data set"
    if None not in found.by_name:
        fix = "use --map-classes to pair them by name, or use its own data set"
    note = check_classes(str(weights), known, str(data), wanted, fix)
    if note:
        print(note, file=sys.stderr)
    return None, found.relation
