"""Every registered block keeps what it promises; each test is named after a bug seen in published code."""

from __future__ import annotations

import sys
from copy import deepcopy
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from small import EXAMPLES, Example, example_of, hidden_modules, same, wake

from models.blocks import BLOCKS
from models.registry import Registry

NAMES = list(BLOCKS)
GRIDS = ((4, 4), (5, 7), (8, 8), (13, 9))


def as_list(output: torch.Tensor | list[torch.Tensor]) -> list[torch.Tensor]:
    """The outputs of a block: most have one, backbones and pyramids several."""
    return output if isinstance(output, list) else [output]


@pytest.mark.parametrize("name", NAMES)
def test_a_block_silently_given_the_wrong_channels(name: str) -> None:
    example = example_of(name)
    layer, plan = example.build(BLOCKS.get(name))
    layer.eval()
    for rows, columns in GRIDS:
        with torch.no_grad():
            output = layer(example.inputs(rows, columns))
        real = tuple(x.shape[1] for x in output) if isinstance(output, list) else output.shape[1]
        assert real == plan.out_channels, f"{name} promised {plan.out_channels} channels, gave {real}"
        assert all(len(x) == 2 for x in as_list(output))


@pytest.mark.parametrize("name", NAMES)
def test_a_parameter_that_never_gets_a_gradient(name: str) -> None:
    example = example_of(name)
    layer, _ = example.build(BLOCKS.get(name))
    parameters = dict(wake(layer).named_parameters())
    outputs = as_list(layer(example.inputs(8, 8)))
    if parameters:
        sum((x * torch.rand_like(x)).sum() for x in outputs).backward()
    dead = [n for n, p in parameters.items() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not dead, f"{name}: no gradient reaches {dead}"


@pytest.mark.parametrize("name", NAMES)
def test_a_module_that_hides_in_a_plain_list(name: str) -> None:
    assert hidden_modules(example_of(name).build(BLOCKS.get(name))[0]) == []


def test_hidden_modules_are_found() -> None:
    host = torch.nn.Identity()
    host.parts = {"a": [torch.nn.Linear(1, 1)]}
    assert hidden_modules(torch.nn.Sequential(host)) == ["Identity '0'.parts"]


@pytest.mark.parametrize("name", NAMES)
def test_a_block_that_overwrites_its_inputs(name: str) -> None:
    example = example_of(name)
    layer, _ = example.build(BLOCKS.get(name))
    inputs = example.inputs(6, 6)
    before = deepcopy(inputs)
    for mode in (True, False):
        layer.train(mode)(inputs)
        assert same(inputs, before)


def test_building_others_first_changes_a_block() -> None:
    """Each is built after those before it in the list, and after those behind it."""

    def built(name: str) -> tuple:
        example = example_of(name)
        layer, plan = example.build(BLOCKS.get(name))
        return plan, dict(layer.state_dict()), layer.eval()(example.inputs(4, 4))

    forwards, backwards = [built(name) for name in NAMES], [built(name) for name in NAMES[::-1]]
    for name, (plan, state, output), (plan_after, state_after, output_after) in zip(NAMES, forwards, backwards[::-1], strict=True):
        assert plan == plan_after and same(state, state_after) and same(output, output_after), name


@pytest.mark.parametrize("name", NAMES)
def test_images_of_a_batch_that_influence_each_other(name: str) -> None:
    example = example_of(name)
    layer, _ = example.build(BLOCKS.get(name))
    layer.eval()
    inputs = example.inputs(4, 4)
    first = [x[:1] for x in inputs] if isinstance(inputs, list) else inputs[:1]
    with torch.no_grad():
        whole, alone = as_list(layer(inputs)), as_list(layer(first))
        assert all(torch.allclose(a[:1], b, atol=1e-5) for a, b in zip(whole, alone, strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_a_block_that_says_something_else_in_bfloat16(name: str) -> None:
    example = example_of(name)
    layer, _ = example.build(BLOCKS.get(name))
    inputs = example.inputs(8, 8)
    with torch.no_grad():
        expected = as_list(wake(layer).eval()(inputs))
        with torch.autocast("cpu", torch.bfloat16):
            outputs = as_list(layer(inputs))
    for output, wanted in zip(outputs, expected, strict=True):
        assert (output.float() - wanted).norm() <= 0.05 * wanted.norm()


def test_a_block_without_example_says_what_to_add(monkeypatch: pytest.MonkeyPatch) -> None:
    class Odd:
        @staticmethod
        def rule(site: object) -> None:
            raise ValueError("never content")

    BLOCKS.get("Conv")  # loads the registry
    monkeypatch.setitem(BLOCKS._parts, "Odd", Odd)
    with pytest.raises(AssertionError, match="block 'Odd' accepts none of the usual rows: add it to EXAMPLES"):
        example_of("Odd")


def test_no_example_of_a_block_that_is_gone() -> None:
    assert set(EXAMPLES) <= set(NAMES)
    assert all(isinstance(example, Example) for example in EXAMPLES.values())


def test_one_name_for_two_parts_is_an_error() -> None:
    registry = Registry("part", "models.blocks")
    registry.register("a")(int)
    with pytest.raises(ValueError, match="part 'a' is registered twice"):
        registry.register("a")(str)
