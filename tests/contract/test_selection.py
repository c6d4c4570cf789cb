"""Every block and head says rightly which channels its tensors read and give.

Proved by function: a network in which every channel stands twice or three times computes what the single one computes, and
choosing evenly among its channels gives the single one back, bit by bit. A wrong word on one axis (a concatenation in
another order, heads of an attention cut in two) breaks one or the other.
"""

from __future__ import annotations

import sys
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent))
from small import Example, description, example_of, same, wake

from engine.start.selection import fill, isomorphic, select
from models.blocks import BLOCKS
from models.channels import Axis, Grid, Part, picked, size
from models.detector import Detector
from models.parser import read_model
from models.rules import Plan, Site
from models.wiring import Place, Scope, Wiring, record, wiring_of

MORE = {  # rows that use a block in another way than its usual example does
    "Attention": [Example(["cbam"]), Example(["none"])],
    "BlockN": [Example([16, "none", "skip"], (8, 8), (16, 8)), Example([16, "none", "skip"], (32, 8), (16, 8)),
               Example([16, "dual", "skip"], (32, 8), (4, 8)), Example([16, "cbam"], (16, 8), (4, 8), repeats=2)],
    "C3": [Example([16], repeats=2), Example([32, False], repeats=2)],
    "Conv": [Example([16, 1, 1]), Example([32, 3, 2], repeats=2)],
    "FPN": [Example([16, 4], (8, 16), (4, 8))],
    "Swin": [Example([4, 16], repeats=3)],
}  # fmt: skip
FIXED = ("Backbone",)  # of one width
ROWS = [(name, row) for name in BLOCKS for row in (example_of(name), *MORE.get(name, []))]
UNEVEN, EVEN, ONCE = (2, 3, 2, 3), (2,) * 4, (1,) * 4  # times that each input's channels stand in the wide block


def build(name: str, row: Example, factors: tuple[int, ...] = ONCE) -> tuple[nn.Module, Plan]:
    """The block of a row, its inputs `factors` times as wide, its own channels the first of them, with nothing zero."""
    channels = tuple(c * factor for c, factor in zip(row.channels, factors))
    plan = BLOCKS.get(name).rule(Site(channels, row.strides, row.repeats, tuple(row.args), lambda c: c * factors[0]))
    block = BLOCKS.get(name)
    copies = [block(*plan.args, **plan.kwargs) for _ in range(plan.copies)]
    return wake(copies[0] if plan.copies == 1 else nn.Sequential(*copies)), plan


def wide_of(name: str, row: Example) -> tuple[nn.Module, Plan, tuple[int, ...]]:
    """A wider block of the same layers: each input by a factor of its own where the block allows it, else all by one."""
    layers = build(name, row)[0].state_dict().keys()
    for factors in (UNEVEN, EVEN):
        try:
            wide, plan = build(name, row, factors)
            wide(row_inputs(row, factors))
        except Exception:  # whatever a block does with inputs that it cannot take
            continue
        if wide.state_dict().keys() == layers:
            return wide, plan, factors
    raise AssertionError(f"{name}: no wider block of this row can be built")


def row_inputs(row: Example, factors: tuple[int, ...]) -> Any:
    images = [x.repeat_interleave(f, 1) for x, f in zip(as_list(row.inputs(8, 8)), factors)]
    return images if len(images) > 1 else images[0]


def wired(layer: nn.Module, row: Example, plan: Plan, factors: tuple[int, ...]) -> tuple[Wiring, list[Axis]]:
    """The wiring of one block, and the axes it gives."""
    wiring, outputs = Wiring(), plan.out_channels if isinstance(plan.out_channels, tuple) else [plan.out_channels]
    scope = Scope(wiring, layer, "", Place("backbone", min(row.strides))).as_unit("block")
    inputs = [(Part(f"input {i}", c * f),) for i, (c, f) in enumerate(zip(row.channels, factors))]
    return wiring, record(scope, inputs, [(Part(f"output {i}", c),) for i, c in enumerate(outputs)])


# -- every channel several times ----------------------------------------------------------------------------------------


def origin(wide: Axis, narrow: Axis) -> Tensor:
    """For each channel of `wide` the one of `narrow` that it repeats."""
    found, offset = [], 0
    for large, small in zip(wide, narrow, strict=True):
        if isinstance(large, Grid):
            index = (origin(large.outer, small.outer)[:, None] * size(small.inner) + origin(large.inner, small.inner)).flatten()
        else:
            index = torch.searchsorted(picked((large,), (small,)), torch.arange(large.size), right=True) - 1
        found.append(index + offset)
        offset += small.size
    return torch.cat(found)


def repeated(state: dict[str, Tensor], wide: Wiring, narrow: Wiring) -> dict[str, Tensor]:
    """Tensors of a network that computes the same with repeated channels: all are made, the first of each is read."""
    result = {}
    for name, tensor in state.items():
        for dim, (large, small) in enumerate(zip(wide.tensors[name].axes, narrow.tensors[name].axes, strict=True)):
            tensor = tensor.index_select(dim, origin(large, small))
            if dim == 1 and name.endswith("weight"):
                first = torch.zeros(size(large)).index_fill(0, picked(large, small), 1)
                tensor = tensor * first.view(-1, *[1] * (tensor.ndim - 2))
        result[name] = tensor
    return result


def as_list(value: Any) -> list[Tensor]:
    return value if isinstance(value, list) else [value]


@pytest.mark.parametrize(("name", "row"), [r for r in ROWS if r[0] not in FIXED], ids=str)
def test_a_block_of_repeated_channels_is_the_same_function_and_selection_undoes_it(name: str, row: Example) -> None:
    (narrow, plan), (wide, wide_plan, factors) = build(name, row), wide_of(name, row)
    (small, outputs), (large, wide_outputs) = wired(narrow, row, plan, ONCE), wired(wide, row, wide_plan, factors)
    assert set(small.tensors) == set(narrow.state_dict()), "tensors that the block's wire() does not speak of"
    wide.load_state_dict(repeated(narrow.state_dict(), large, small))
    with torch.no_grad():
        expected, got = as_list(narrow(row_inputs(row, ONCE))), as_list(wide(row_inputs(row, factors)))
    for one, many, axis, wide_axis in zip(expected, got, outputs, wide_outputs, strict=True):
        assert torch.allclose(many, one[:, origin(wide_axis, axis)], atol=1e-4, rtol=1e-4)
    before = deepcopy(narrow.state_dict())
    state = wake(narrow, seed=5).state_dict()
    total = fill(state, small, large, wide.state_dict()).total
    assert total.taken == total.tensors == len(state) and total.partial == 0
    assert same(dict(state), dict(before))


@pytest.mark.parametrize(("name", "row"), ROWS, ids=str)
def test_selection_from_a_block_of_the_same_width_copies_it(name: str, row: Example) -> None:
    (one, plan), other = build(name, row), wake(build(name, row)[0], seed=7)
    state = one.state_dict()
    total = fill(state, wired(one, row, plan, ONCE)[0], wired(other, row, plan, ONCE)[0], other.state_dict()).total
    assert total.whole == total.tensors == len(state) and same(dict(state), dict(other.state_dict()))


def inputs_turned(self: nn.Module, scope: Scope, inputs: list[Axis], out: Axis) -> Axis:
    return sum(inputs[::-1], ())


def heads_cut(self: nn.Module, scope: Scope, inputs: list[Axis], out: Axis) -> Axis:
    scope.at("qkv").layers(inputs[0])
    scope.tensor("position_bias", (Part("cells", len(self.position_bias)),), scope.new(self.heads))
    return scope.at("out").layers(scope.new(len(self.out.weight)), inputs[0])


@pytest.mark.parametrize(
    ("name", "row", "module", "wrong"),
    [("Concat", Example([], (16, 8), (8, 8)), "models.blocks.host.Concat", inputs_turned),
     ("Swin", Example([4, 8]), "models.blocks.swin.WindowAttention", heads_cut)],
    ids=["inputs in another order", "heads taken for neighbouring channels"],
)  # fmt: skip
def test_a_block_that_says_something_wrong_is_found(
    monkeypatch: pytest.MonkeyPatch, name: str, row: Example, module: str, wrong: Any
) -> None:
    monkeypatch.setattr(f"{module}.wire", wrong)
    with pytest.raises(AssertionError):
        test_a_block_of_repeated_channels_is_the_same_function_and_selection_undoes_it(name, row)


def test_axes_of_another_length_are_an_error_that_names_the_tensor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models.blocks.mlp_fpn.TopDown.wire", lambda self, scope, inputs, out: scope.at("lateral").layers(out, out))
    with pytest.raises(ValueError, match=r"lateral.weight: its block's `wire` says \[16, 16, 1, 1\], its shape is \[16, 8, 1, 1\]"):
        wired(build("TopDown", example_of("TopDown"))[0], example_of("TopDown"), Plan(16), ONCE)


# -- heads and whole networks -------------------------------------------------------------------------------------------

WIDE = {8: 16, 16: 48, 24: 48, 32: 96, 48: 96, 64: 128, 96: 192, 128: 256}  # channels of the rows below, and twice or thrice as many
HEADS = {
    "coupled": ["AnchorDetect", ["nc", "anchors"]],
    "decoupled": ["AnchorDetect", ["nc", "anchors", "decoupled", "dual", 16, 2]],
    "gfl": ["GFLDetect", ["nc", "gfl", 32, 2]],
    "hkh, one width": ["GFLDetect", ["nc", "hkh", 16, 2]],
}


def with_channels(rows: dict[str, Any], number: Any) -> dict[str, Any]:
    """The model with `number(n)` in the place of each row's channels, the first argument, and of a head's hidden ones."""
    rows = deepcopy(rows)
    for row in (*rows["backbone"], *rows["head"]):
        place = {"AnchorDetect": 4, "GFLDetect": 2, "Swin": None}.get(row[2], 0)
        if place is not None and len(row[3]) > place and isinstance(row[3][place], int):
            row[3][place] = number(row[3][place])
    return rows | {"width_multiple": 1.0}


def check_repeated(rows: dict[str, Any]) -> None:
    """A detector, and one in which every channel stands two or three times: alike in function, and one chosen from the other."""
    torch.manual_seed(0)
    narrow, wide = Detector(rows), Detector(with_channels(rows, WIDE.__getitem__)).eval()
    for _ in range(3):  # BatchNorm's statistics
        narrow(torch.rand(2, 3, 128, 128))
    wide.load_state_dict(repeated(narrow.eval().state_dict(), wiring_of(wide), wiring_of(narrow)))
    image = torch.rand(1, 3, 256, 256)
    with torch.no_grad():
        assert torch.allclose(narrow(image)[0], wide(image)[0], atol=1e-3, rtol=1e-4)
    student = Detector(rows)
    assert isomorphic(wiring_of(student), wiring_of(wide)) is None
    total = select(student, wiring_of(wide), wide.state_dict()).total
    assert total.taken == total.tensors and same(dict(student.state_dict()), dict(narrow.state_dict()))


@pytest.mark.parametrize("kind", HEADS)
def test_a_head_of_repeated_channels(kind: str) -> None:
    rows = description(head=HEADS[kind])
    if "one width" in kind:
        rows["head"] = [*rows["head"][:2], [[3, 3], 1, *HEADS[kind]]]
    check_repeated(rows)


@pytest.mark.long
@pytest.mark.parametrize("name", ["s-model.yaml", "t-model.yaml", "s-model-fast.yaml", "table3-our-neck.yaml"])
def test_a_whole_network_of_repeated_channels(name: str) -> None:
    rows = read_model(name)
    quarter = 0.25 * rows["width_multiple"]
    check_repeated(with_channels(rows, lambda channels: max(8, round(channels * quarter / 8) * 8)) | {"nc": 2})
