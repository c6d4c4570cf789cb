"""How a block declares its own channel arithmetic, so that the parser needs no knowledge of any block.

A rule looks at a `Site` (where in the network the block stands, and what its YAML row says) and returns a `Plan` (the
constructor's arguments and the channels promised). Blocks carry theirs as a static method `rule`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from torch import nn

from cfg import UserError, is_whole


@dataclass(frozen=True)
class Site:
    """One YAML row, with what the rows before it produced."""

    channels: tuple[int, ...]  # of each input, in the order of the row's `from`
    strides: tuple[int, ...]  # image pixels per cell of each input
    repeats: int  # already multiplied by the model's depth
    args: tuple[Any, ...]
    scale: Callable[[int], int]  # channels in the YAML -> channels at the model's width


@dataclass(frozen=True)
class Plan:
    """Arguments for the block's constructor, and the output channels it promises: one number per output, None for a head."""

    out_channels: int | tuple[int, ...] | None  # a tuple for a row with several outputs
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)
    copies: int = 1  # the block is built this often, one after the other


class Block(Protocol):
    """What a YAML row may name: a module's class with its rule."""

    def rule(self, site: Site, /) -> Plan: ...

    def __call__(self, *args: Any, **kwargs: Any) -> nn.Module: ...


def one_input(site: Site) -> int:
    """Channels of the only input. Raises `UserError` when the row names several."""
    if len(site.channels) != 1:
        raise UserError(f"takes one input, got {len(site.channels)}; put Concat or a fusion block before it")
    return site.channels[0]


def required(args: Sequence[Any], count: int, names: str) -> None:
    """Raise `UserError` when fewer than `count` arguments were given; `names` says which they are."""
    if len(args) < count:
        raise UserError(f"expected arguments [{names}], got {list(args)}")


def whole(name: str, value: object, least: int = 1) -> int:
    """`value`, an argument that has to be a whole number. Raises `UserError` for anything else, and below `least`."""
    if not is_whole(value, least):
        raise UserError(f"expected {name} to be a whole number of at least {least}, got {value!r}; correct it")
    return int(value)


def to_channels(site: Site) -> Plan:
    """Rule of blocks `(c_in, c_out, ...)` whose first YAML argument is the output width; repeats are copies."""
    required(site.args, 1, "channels, ...")
    out = site.scale(width(site.args[0]))
    return Plan(out, (one_input(site), out, *site.args[1:]), copies=site.repeats)


def to_channels_repeated_inside(site: Site) -> Plan:
    """Rule of blocks `(c_in, c_out, n, ...)` that repeat a part of themselves, such as C3."""
    required(site.args, 1, "channels, ...")
    out = site.scale(width(site.args[0]))
    return Plan(out, (one_input(site), out, site.repeats, *site.args[1:]))


def unchanged(site: Site) -> Plan:
    """Rule of blocks without channel arguments that keep their input's channels (resampling)."""
    return Plan(one_input(site), site.args, copies=site.repeats)


def width(value: Any) -> int:
    """Return a block's first argument if it is a number of channels. Raises `UserError` otherwise."""
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise UserError(f"expected a positive number of channels as first argument, got {value!r}")
    return value
