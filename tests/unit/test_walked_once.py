"""A measured step walks the head once: the same gradients, and no more work than a step that measures nothing."""

from __future__ import annotations

import sys
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

sys.path.insert(0, str(Path(__file__).parents[1] / "contract"))
from small import batch, detector  # noqa: E402

from distill.base import METHODS  # noqa: E402
from distill.gradients import walked_once  # noqa: E402
from distill.model import TrainingModel  # noqa: E402
from distill.networks import FrozenTeacher, spec_of  # noqa: E402
from ultralytics.nn.tasks import DetectionModel  # noqa: E402

ROWS: dict[str, Any] = {
    "nc": 2,
    "backbone": [[-1, 1, "Conv", [8, 3, 2]], [-1, 1, "Conv", [16, 3, 2]], [-1, 1, "Conv", [32, 3, 2]]],
    "head": [[[1, 2], 1, "Detect", ["nc"]]],
}


def stock(end2end: bool) -> DetectionModel:
    torch.manual_seed(0)
    model = DetectionModel(deepcopy(ROWS) | {"end2end": end2end}, nc=2, verbose=False)
    model.args = type("Arguments", (), {"box": 7.5, "cls": 0.5, "dfl": 1.5, "overlap_mask": False, "epochs": 2})()
    return model


STUDENTS = {"ours": lambda: detector(8, seed=1), "stock": lambda: stock(False), "end2end": lambda: stock(True)}


def pair(student: str, method: str = "pkd", adaptive: str = "none") -> TrainingModel:
    """A student that learns from another of its kind, measured at every step."""
    learns, teaches = STUDENTS[student](), FrozenTeacher(STUDENTS[student](), "teacher")
    with torch.no_grad():
        for parameter in teaches.model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    part = METHODS.get(method)(spec_of(learns, "student"), teaches.spec)
    return TrainingModel(learns, part, teaches, adaptive, {"every": 1}).train()


def gradients(model: TrainingModel) -> dict[str, torch.Tensor]:
    model.zero_grad()
    model.loss(batch(3))[0].sum().backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("student", STUDENTS)
@pytest.mark.parametrize("adaptive", ["none", "uncertainty"])
def test_a_measured_step_has_the_gradients_of_one_that_measures_nothing(student: str, adaptive: str) -> None:
    model = pair(student, adaptive=adaptive)
    measured = gradients(model)
    assert (model.balance.measured == 1).all() and model.balance.shares[-1] > 0.1
    model.balance.due = lambda terms: False  # its gains and its limit stay as they are
    plain = gradients(model)
    assert measured.keys() == plain.keys() and any("head" in n or "model.3" in n for n in plain)
    for name, value in plain.items():
        torch.testing.assert_close(measured[name], value, rtol=1e-4, atol=1e-6 * float(value.abs().max()) + 1e-7)


class Count(TorchDispatchMode):
    """Counts backward passes of a head's convolutions."""

    def __init__(self, head: torch.nn.Module) -> None:
        super().__init__()
        self.own, self.walks = {p.data_ptr() for p in head.parameters()}, 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.ops.aten.convolution_backward.default:
            self.walks += args[2].data_ptr() in self.own
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("student", STUDENTS)
def test_the_heads_convolutions_are_walked_once(student: str) -> None:
    model, counts = pair(student), []
    for due in (True, False):
        model.balance.due = lambda terms, due=due: due
        with Count(model.student.model[-1]) as count:
            gradients(model)
        counts.append(count.walks)
    assert counts[0] == counts[1] > 3


def test_what_the_loss_does_not_reach_and_half_precision_are_left_alone() -> None:
    x, y = torch.ones(2, requires_grad=True), torch.ones(2, requires_grad=True)
    half = torch.ones(2, dtype=torch.float16, requires_grad=True)
    assert walked_once((x * 2).sum(), [x, y], []) is None
    assert walked_once(half.sum().float(), [half], []) is None
    assert walked_once(torch.tensor(1.0), [x], []) is None


def test_the_known_gradient_is_scaled_by_what_comes_after() -> None:
    x, weight, unused = (torch.full((2,), v, requires_grad=True) for v in (3.0, 5.0, 1.0))
    stands_in = walked_once((x * weight).sum(), [x], [weight, unused])
    (stands_in * 4).backward()
    assert stands_in.item() == 30 and x.grad.tolist() == [20, 20] and weight.grad.tolist() == [12, 12]
    assert unused.grad is None
