"""The wiring of a network: for each tensor, which channels its axes stand for, found by a walk over the rows.

A block says how channels pass through it by a method `wire(scope, inputs, out)`, as it says its arithmetic by its `rule`:
`inputs` are the axes it reads, `out` the axis (of a row with several outputs, the axes) of new channels it may give; it
returns the axes it does give. Without one, a block's tensors have a counterpart only as a whole.

Two networks are compared by *units*: a C3, a Conv, the attention of a level ... named by place and kind ("top-down 16
C3"), never by row number, so that YOLOv5's rows and ours, which are cut differently, can be matched.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from torch import nn

from models.channels import Axis, Part, cells, names_of, size

if TYPE_CHECKING:  # it is built of blocks, which say their wiring by this module
    from models.detector import DetectionModel

WIRINGS: dict[type[nn.Module], Callable[..., Axis]] = {}  # of modules that others wrote; filled beside their rules
NORMS = (nn.BatchNorm2d, nn.GroupNorm, nn.LayerNorm)
MIXERS = (nn.Conv2d, nn.Linear)


@dataclass(frozen=True)
class Place:
    """Where a feature map stands: in the backbone, a tower of the neck or a lateral conv, at a stride."""

    tower: str
    stride: int

    def __str__(self) -> str:
        return f"{self.tower} {self.stride}" if self.stride else self.tower


@dataclass(frozen=True)
class Wired:
    """What one tensor is: its unit, its path there, the meaning of its axes: first what it makes, then what it reads."""

    unit: str
    path: str
    axes: tuple[Axis, ...]

    @property
    def key(self) -> tuple[str, str]:
        """The same in two networks for the same thing."""
        return self.unit, self.path

    @property
    def reads(self) -> Axis:
        """The channels that it mixes, or shifts and scales one by one."""
        others = [axis for axis in self.axes[1:] if names_of(axis)]
        return others[0] if others else self.axes[0] if self.axes else ()


@dataclass
class Wiring:
    """Tensors of a network by their state-dict names, and its residual branches: name of the first, names that end it."""

    tensors: dict[str, Wired] = field(default_factory=dict)
    branches: dict[str, tuple[str, ...]] = field(default_factory=dict)
    titles: Counter[str] = field(default_factory=Counter)
    class_names: tuple[str, ...] = ()


@dataclass(frozen=True)
class Scope:
    """A module in a walk: what it says is recorded under its unit."""

    wiring: Wiring
    module: nn.Module
    prefix: str  # of its tensors' names
    place: Place
    unit: str = ""
    path: str = ""  # from the unit to the module

    def at(self, name: str, key: str | None = None) -> Scope:
        """The submodule `name`, known as `key` where its name would depend on more than its role."""
        module = self.module.get_submodule(name)
        key = name if key is None else key
        return replace(self, module=module, prefix=f"{self.prefix}{name}.", path=f"{self.path}{key}.")

    def as_unit(self, kind: str, place: Place | None = None) -> Scope:
        """This module as a unit of its own; a second one of the same place and kind is "... 2"."""
        place = place or self.place
        title = f"{place} {kind}"
        self.wiring.titles[title] += 1
        number = self.wiring.titles[title]
        return replace(self, place=place, unit=title if number == 1 else f"{title} {number}", path="")

    def new(self, channels: int) -> Axis:
        """Channels that this module makes for itself."""
        return (Part(f"{self.unit}: {self.path}", channels),)

    def classes(self, count: int) -> Axis:
        """The detector's classes, which correspond by their names."""
        return (Part("classes", count, self.wiring.class_names),)

    def tensor(self, name: str, *axes: Axis) -> None:
        """Record the tensor `name` of this module. Raises `ValueError` when the axes are not as long as it says."""
        tensor = self.module.state_dict()[name]
        if [size(axis) for axis in axes] != list(tensor.shape):
            got = [size(axis) for axis in axes]
            raise ValueError(f"{self.prefix}{name}: its block's `wire` says {got}, its shape is {list(tensor.shape)}")
        self.wiring.tensors[f"{self.prefix}{name}"] = Wired(self.unit, f"{self.path}{name}", axes)

    def branch(self, *ends: str) -> None:
        """Say that this module's result is added to its input, and which of its layers come last in that."""
        names = tuple(f"{self.prefix}{end}.{part}" for end in ends for part in ("weight", "bias"))
        self.wiring.branches[self.prefix] = names

    def layers(self, inputs: Axis, out: Axis | None = None) -> Axis:
        """Record this module, whatever it is, between `inputs` and `out` (new channels where it makes some)."""
        module = self.module
        wire: Callable[..., Axis] | None = getattr(module, "wire", None) or WIRINGS.get(type(module))
        if wire is not None:
            return wire(self, [inputs], out)
        if isinstance(module, nn.Sequential):
            return self.chain(list(dict(module.named_children())), inputs, out)
        if isinstance(module, NORMS):
            self._norm(inputs)
            return inputs
        if isinstance(module, MIXERS):
            return self._mix(module, inputs, out)
        if module.state_dict():
            self.opaque()
            return out if out is not None else inputs
        return inputs

    def chain(self, names: list[str], inputs: Axis, out: Axis | None = None) -> Axis:
        """Record submodules that follow one another; the last that makes channels makes `out`."""
        children = [self.at(name) for name in names]
        makers = [i for i, child in enumerate(children) if _makes_channels(child.module)]
        axis = inputs
        for i, child in enumerate(children):
            axis = child.layers(axis, out if makers and i == makers[-1] else None)
        return axis

    def opaque(self) -> None:
        """Record all tensors of this module as ones that correspond as a whole or not at all."""
        for name, tensor in self.module.state_dict().items():
            self.tensor(name, *(cells(length) for length in tensor.shape))

    def _mix(self, layer: nn.Conv2d | nn.Linear, inputs: Axis, out: Axis | None) -> Axis:
        kernel = [cells(side) for side in layer.weight.shape[2:]]
        if isinstance(layer, nn.Linear) or layer.groups == 1:
            out = out if out is not None else self.new(layer.weight.shape[0])
            self.tensor("weight", out, inputs, *kernel)
        elif layer.groups == len(layer.weight) == layer.in_channels:  # depth-wise
            out = inputs
            self.tensor("weight", out, cells(1), *kernel)
        else:
            self.opaque()
            return out if out is not None else self.new(layer.weight.shape[0])
        if layer.bias is not None:
            self.tensor("bias", out)
        return out

    def _norm(self, axis: Axis) -> None:
        for name, tensor in self.module.state_dict().items():
            self.tensor(name, *([axis] if tensor.ndim else []))


def _makes_channels(module: nn.Module) -> bool:
    """Whether a module gives other channels than it reads; blocks of ours that do not say `keeps_channels`."""
    if getattr(module, "keeps_channels", False):
        return False
    layers = [m for m in module.modules() if isinstance(m, MIXERS)]
    return any(getattr(layer, "groups", 1) == 1 for layer in layers)


# -- the walk ----------------------------------------------------------------------------------------------------------

TOWERS = ("backbone", "lateral", "top-down", "bottom-up")  # in the order in which features pass them


def wiring_of(detector: DetectionModel) -> Wiring:
    """The wiring of a detector that our parser built."""
    wiring = Wiring(class_names=tuple(map(str, detector.names.values())))
    given: list[list[tuple[Axis, Place]]] = []
    for layer in detector.model:
        sources = layer.f if isinstance(layer.f, list) else [layer.f]
        image = [((Part("image", detector.yaml["channels"]),), Place("backbone", 1))]
        read = [feature for source in sources for feature in (given[source] if given else image)]
        places = [_place(layer, [place for _, place in read], stride) for _, stride in layer.gives]
        new: list[Axis] = [(Part(str(place), channels),) for place, (channels, _) in zip(places, layer.gives)]
        row = Scope(wiring, layer, f"model.{layer.i}.", places[0] if places else Place("head", 0)).as_unit(layer.type)
        axes = record(row, [axis for axis, _ in read], new)
        given.append(list(zip(axes, places)))
    return wiring


def record(scope: Scope, inputs: list[Axis], new: list[Axis]) -> list[Axis]:
    """Record one row; return the axis of each of its outputs."""
    only = new[0] if new else None
    wire: Callable[..., Axis | list[Axis]] | None = getattr(scope.module, "wire", None)
    axes: Axis | list[Axis]
    if wire is not None:
        axes = wire(scope, inputs, new if len(new) > 1 else only)
    elif len(inputs) == 1 and len(new) < 2:
        axes = scope.layers(inputs[0], only)
    else:
        scope.opaque()
        axes = new
    return axes if isinstance(axes, list) else [axes]


def _place(layer: nn.Module, read: list[Place], stride: int) -> Place:
    """The place of a row's output, by the direction in which it goes from the row's first input."""
    kernel = getattr(getattr(layer, "conv", None), "kernel_size", None)
    if kernel == (1, 1):
        return Place("lateral", stride)
    if stride < read[0].stride:
        return Place("top-down", stride)
    if stride > read[0].stride and read[0].tower != "backbone":
        return Place("bottom-up", stride)
    return Place(max((place.tower for place in read), key=TOWERS.index), stride)
