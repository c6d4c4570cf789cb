"""Fill a network from one that is laid out like it, unit by unit: whole where they are equal, evenly chosen channels where
the source is wider (weight selection; Xu et al. 2024, "Initializing Models with Larger Ones").

A layer that reads only channels of layers that took nothing takes nothing: its weights are about other features. What is
deeper in the source is left out from the end, so that layer i becomes layer i (the paper's first-N selection;
shifted windows stay shifted). What the source has not keeps its own start, but for a residual branch of which it has
nothing: that starts at zero, so that features pass it as they passed in the source.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from models.channels import NONE, Axis, names_of, picked, without_items
from models.wiring import Wiring, wiring_of

if TYPE_CHECKING:
    from ultralytics.nn.tasks import DetectionModel

START_TABLE = "start.txt"  # in the run's folder: what each block took


@dataclass
class Unit:
    """What a unit of the student took: of its tensors, and of the numbers in its floating-point tensors."""

    title: str = ""
    tensors: int = 0
    taken: int = 0
    whole: int = 0  # of those taken, how many are equal to the source's
    partial: int = 0  # ... how many kept some numbers of their own
    numbers: int = 0
    numbers_taken: int = 0

    @property
    def how(self) -> str:
        """In words."""
        if not self.taken:
            return "own start"
        if self.taken == self.whole:
            return "whole"
        return "in part" if self.partial else "sliced"


@dataclass
class Selection:
    """Outcome of `select`: units by title in the order of the student's rows."""

    units: dict[str, Unit] = field(default_factory=dict)

    @property
    def whole(self) -> set[str]:
        """The units that are equal to the source's."""
        return {title for title, unit in self.units.items() if unit.how == "whole"}

    @property
    def total(self) -> Unit:
        """The sum of all units."""
        names = [name for name in vars(Unit()) if name != "title"]
        return Unit("total", *(sum(getattr(unit, name) for unit in self.units.values()) for name in names))


def select(student: DetectionModel, source: Wiring, state: dict[str, Tensor]) -> Selection:
    """Copy into `student`, in place, what another network has for it.

    Args:
        student: a detector that our parser built.
        source: the other network's wiring.
        state: its tensors by name.
    """
    return fill(student.state_dict(), wiring_of(student), source, state)


@torch.no_grad()
def fill(
    own: dict[str, Tensor], wiring: Wiring, source: Wiring, state: dict[str, Tensor], only: Collection[str] | None = None
) -> Selection:
    """As `select`, of tensors `own` in a `wiring` of their own, which are written in place; `only` these units, where given."""
    names = {wired.key: name for name, wired in source.tensors.items()}
    result, filled = Selection(), set()
    made: dict[str, bool] = {}  # channels that layers so far make, and whether one of these took something
    for name, wired in wiring.tensors.items():
        unit = result.units.setdefault(wired.unit, Unit(wired.unit))
        is_number = own[name].is_floating_point()
        unit.tensors += 1
        unit.numbers += own[name].numel() * is_number
        other = names.get(wired.key)
        reads, count = names_of(wired.reads), 0
        fed = not reads or any(made.get(channel, True) for channel in reads)
        if not wired.axes:
            fed = unit.taken > 0  # a norm's counter, which says nothing alone
        if other and fed and (only is None or wired.unit in only):
            count = _fill(own[name], state[other], _positions(source.tensors[other].axes, wired.axes))
        for channel in names_of(wired.axes[0]) if wired.axes else ():
            made[channel] = made.get(channel, False) or count > 0
        if count:
            filled.add(name)
            unit.taken += 1
            unit.whole += other is not None and count == own[name].numel() == state[other].numel()
            unit.partial += count < own[name].numel()
            unit.numbers_taken += count * is_number
    _close_branches(own, wiring, filled)
    return result


def isomorphic(student: Wiring, source: Wiring) -> str | None:
    """None where every tensor of `student` can be filled from `source`, whatever the classes; else the first that cannot."""
    others = {wired.key: wired.axes for wired in source.tensors.values()}
    for wired in student.tensors.values():
        axes = others.get(wired.key)
        positions = None if axes is None else _positions([without_items(a) for a in axes], [without_items(a) for a in wired.axes])
        if positions is None or any(bool((index == NONE).any()) for index in positions):
            return f"{wired.unit} ({wired.path})"
    return None


def _positions(source: list[Axis] | tuple[Axis, ...], target: list[Axis] | tuple[Axis, ...]) -> list[Tensor] | None:
    """For each axis the source's position of each of the target's; None for tensors of another number of axes."""
    return [picked(a, b) for a, b in zip(source, target)] if len(source) == len(target) else None


def _fill(target: Tensor, source: Tensor, positions: list[Tensor] | None) -> int:
    """Copy the chosen part of `source` to its place in `target`; return how many numbers that were."""
    if positions is None or not all((index != NONE).any() for index in positions):
        return 0
    places = [(index != NONE).nonzero().flatten() for index in positions]
    for axis, (index, place) in enumerate(zip(positions, places)):
        source = source.index_select(axis, index[place].to(source.device))
    if source.shape == target.shape:
        target.copy_(source)
    else:
        target[torch.meshgrid(*(place.to(target.device) for place in places), indexing="ij")] = source.to(target)
    return source.numel()


def _close_branches(own: dict[str, Tensor], wiring: Wiring, filled: set[str]) -> None:
    """Let residual branches that took nothing add nothing at the start."""
    for prefix, ends in wiring.branches.items():
        if filled and not any(name.startswith(prefix) for name in filled):
            for name in ends:
                if name in own:
                    own[name].zero_()
