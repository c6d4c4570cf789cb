"""Names of channels: what each axis of a tensor stands for, and which channels of a larger network fill a smaller one.

An axis is a row of parts. A part has a name that says where its channels come from ("lateral 16"), so that two networks
can be compared: parts of one name are the same thing in both, however wide.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

NONE = -1  # index of a channel that has no counterpart


@dataclass(frozen=True)
class Part:
    """`size` channels of one origin; `items` names each of them where they are things with names (classes)."""

    name: str
    size: int
    items: tuple[str, ...] = ()


@dataclass(frozen=True)
class Grid:
    """Each channel of `outer` with each of `inner`, the outer one slowest: heads and their channels, anchors and classes."""

    outer: Axis
    inner: Axis
    items: ClassVar[tuple[str, ...]] = ()

    @property
    def name(self) -> str:
        return f"({label(self.outer)}) x ({label(self.inner)})"

    @property
    def size(self) -> int:
        return size(self.outer) * size(self.inner)


Axis = tuple[Part | Grid, ...]


CELLS = "cells: "  # begins the name of what is no channel


def cells(count: int) -> Axis:
    """An axis whose positions are no channels: a kernel's, a table's. It has a counterpart of the same length only."""
    return (Part(f"{CELLS}{count}", count),)


def names_of(axis: Axis) -> set[str]:
    """The names of the channels on an axis."""
    inner = [names_of((*part.outer, *part.inner)) if isinstance(part, Grid) else {part.name} for part in axis]
    return {name for names in inner for name in names if not name.startswith(CELLS)}


def size(axis: Axis) -> int:
    """Length of an axis."""
    return sum(part.size for part in axis)


def label(axis: Axis) -> str:
    """The names of an axis's parts."""
    return ", ".join(part.name for part in axis)


def without_items(axis: Axis) -> Axis:
    """The axis with one channel for each part whose channels have names, whatever their number."""
    parts: list[Part | Grid] = []
    for part in axis:
        if isinstance(part, Grid):
            parts.append(Grid(without_items(part.outer), without_items(part.inner)))
        else:
            parts.append(Part(part.name, 1) if part.items else part)
    return tuple(parts)


def picked(source: Axis, target: Axis) -> Tensor:
    """For each position of `target` the one of `source` that fills it, (size of target,); `NONE` where there is none.

    Parts are paired by name, the second of a name with the second. Of a wider part evenly spaced channels are taken (Xu et
    al. 2024, uniform selection), so that the choice depends on the two widths alone and is the same wherever the part is
    read. A narrower part fills the first channels.
    """
    by_name: dict[str, list[tuple[int, Part | Grid]]] = {}
    offset = 0
    for part in source:
        by_name.setdefault(part.name, []).append((offset, part))
        offset += part.size
    found = []
    for part in target:
        offset, other = by_name[part.name].pop(0) if by_name.get(part.name) else (0, None)
        index = torch.full((part.size,), NONE) if other is None else _of_part(other, part)
        found.append(torch.where(index == NONE, NONE, index + offset))
    return torch.cat(found) if found else torch.zeros(0, dtype=torch.long)


def _of_part(source: Part | Grid, target: Part | Grid) -> Tensor:
    if isinstance(source, Grid) and isinstance(target, Grid):
        outer, inner = picked(source.outer, target.outer)[:, None], picked(source.inner, target.inner)
        pairs = outer * size(source.inner) + inner
        return torch.where((outer == NONE) | (inner == NONE), NONE, pairs).flatten()
    if target.items or source.items:
        places = {name: i for i, name in enumerate(source.items)}
        return torch.tensor([places.get(name, NONE) for name in target.items or [""] * target.size])
    return evenly(source.size, target.size)


def evenly(source: int, target: int) -> Tensor:
    """Evenly spaced channels of `source` for `target` of them, (target,); of fewer the first, then `NONE`."""
    if target > source:
        return torch.cat((torch.arange(source), torch.full((target - source,), NONE)))
    return torch.arange(target) * source // target
