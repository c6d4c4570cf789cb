"""Reductions over the cells of feature maps: the values, and one memory layout from the features to their gradients."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

sys.path.insert(0, str(Path(__file__).parents[1] / "contract"))
from pairs import spec, step
from small import detector

from distill.base import METHODS
from distill.cells import centred, mean_square, over_channels, softmax_over_cells
from distill.model import TrainingModel
from distill.networks import FrozenTeacher, spec_of

SHAPE = (2, 6, 4, 5)


def maps(last: bool) -> torch.Tensor:
    torch.manual_seed(0)
    layout = torch.channels_last if last else torch.contiguous_format
    return torch.randn(SHAPE, dtype=torch.float64).contiguous(memory_format=layout)


@pytest.mark.parametrize("last", [True, False])
def test_values_are_those_of_torch(last: bool) -> None:
    x = maps(last)
    assert torch.allclose(softmax_over_cells(x), x.flatten(2).softmax(2).view(SHAPE))
    rest, mean, variance = centred(x)
    expected, average = torch.var_mean(x, (2, 3), correction=0, keepdim=True)
    assert torch.allclose(variance, expected) and torch.allclose(mean, average) and torch.allclose(rest, x - average)
    assert torch.allclose(mean_square(x, x * 3), (2 * x).square().mean())
    assert torch.allclose(over_channels(x), x.sum(1, keepdim=True))


class Layouts(TorchDispatchMode):
    """Names the operations on two whole maps of which one has its channels last in memory and the other first."""

    def __init__(self, numel: int) -> None:
        super().__init__()
        self.numel, self.mixed, self.seen = numel, set(), 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        whole = [x for x in tree_leaves(args) if isinstance(x, torch.Tensor) and x.numel() == self.numel]
        strides = {x.stride() for x in whole if len({y.shape for y in whole}) == 1 and 0 not in x.stride()}
        self.seen += len(whole) > 1
        if len(strides) > 1:
            self.mixed.add(str(func))
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("method", ["attention", "cwd", "fgd", "mgd", "pkd"])
def test_maps_with_channels_last_are_never_met_by_maps_with_channels_first(method: str) -> None:
    """Neither forwards nor backwards: on a CPU a product of the two takes five to ten times as long."""
    torch.manual_seed(0)
    teacher, student = (torch.randn(2, 6, 8, 8).contiguous(memory_format=torch.channels_last) for _ in range(2))
    student.requires_grad_()
    part = METHODS.get(method)(spec(6), spec(6))
    with Layouts(student.numel()) as layouts:
        sum(part.losses(step(student, teacher)).values()).backward()
    assert layouts.seen > 3 and not layouts.mixed
    assert student.grad.is_contiguous(memory_format=torch.channels_last)


def test_a_teacher_has_its_attention_folded_for_training() -> None:
    """Two of four 1x1 convs and a BatchNorm less, in its forward pass and on both sides of eq. 9; the same values."""
    teacher, images = FrozenTeacher(detector(16, seed=2), "teacher"), torch.rand(2, 3, 64, 64)
    for module in teacher.model.modules():  # statistics that are not 0 and 1
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.normal_(0, 0.2), module.running_var.uniform_(0.5, 2)
    before = teacher.see(images)
    student = detector(8, seed=1)
    TrainingModel(student, METHODS.get("attention")(spec_of(student, "student"), teacher.spec), teacher)
    after = teacher.see(images)
    assert before.attention and all(len(module.channel) == 3 for module in after.attention.values())
    for name, features in before.feats.items():
        assert torch.allclose(after.feats[name], features, rtol=1e-4, atol=1e-5)
    assert not any(p.requires_grad for p in teacher.model.parameters())


def test_a_dynamic_teachers_features_have_their_channels_last_as_the_students() -> None:
    """The student's head reads both; on maps with channels first it is slower."""
    torch.manual_seed(0)
    student = detector(8, seed=1).to(memory_format=torch.channels_last)
    part = METHODS.get("sdd")(spec_of(student, "student"), None)
    part.prepare(64, 64)
    boxes = torch.tensor([[0.3, 0.4, 0.2, 0.5], [0.6, 0.6, 0.3, 0.3]])
    batch = {"img": torch.rand(2, 3, 64, 64), "bboxes": boxes}
    batch |= {"batch_idx": torch.tensor([0.0, 1]), "cls": torch.zeros(2, 1)}
    last = torch.channels_last
    feats = {n: torch.randn(2, s.channels, 64 // s.stride, 64 // s.stride).contiguous(memory_format=last)
             for n, s in part.sizes.items()}  # fmt: skip
    taught = part.teach(batch, feats)
    assert taught.keys() == feats.keys() and all(x.is_contiguous(memory_format=last) for x in taught.values())
