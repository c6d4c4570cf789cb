"""Masked generative distillation against loops over cells in float64, and its masks."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
import torch
from pairs import arrays, assert_pulls, cells, random_maps, set_identity, spec, step
from torch import Tensor, nn

from cfg import UserError
from distill.adapters import UNEQUAL
from distill.methods.mgd import MaskedGenerativeDistiller, random_mask


def same_width(channels: int = 6, **options: float) -> MaskedGenerativeDistiller:
    torch.manual_seed(1)
    return MaskedGenerativeDistiller(spec(channels), spec(channels), **{"mix": UNEQUAL} | options)


def naive_conv(x: np.ndarray, conv: nn.Conv2d) -> np.ndarray:
    """3x3 convolution of (C, H, W) with zeros around it."""
    weight, bias = arrays(conv.weight), arrays(conv.bias)
    _, height, width = x.shape
    out = np.zeros((len(weight), height, width))
    for o, (i, j) in product(range(len(weight)), cells(x)):
        out[o, i, j] = bias[o]
        for c, a, b in product(range(len(x)), range(3), range(3)):
            row, column = i + a - 1, j + b - 1
            if 0 <= row < height and 0 <= column < width:
                out[o, i, j] += weight[o, c, a, b] * x[c, row, column]
    return out


def naive(method: MaskedGenerativeDistiller, teacher: Tensor, student: Tensor, masks: Tensor) -> float:
    """|T - W2(ReLU(W1(S * M)))|^2 per element, mean over images."""
    first, _, second = method.generators["p3"]
    losses = []
    for t, s, m in zip(arrays(teacher), arrays(student), arrays(masks)):
        restored = naive_conv(np.maximum(naive_conv(s * m, first), 0), second)
        losses.append(sum((t[c, i, j] - restored[c, i, j]) ** 2 for c, i, j in np.ndindex(t.shape)) / t.size)
    return sum(losses) / len(losses)


def test_the_formula_in_training_with_the_drawn_masks() -> None:
    teacher, student = random_maps(channels=3, grid=(4, 5))
    distiller = same_width(3).train()
    torch.manual_seed(7)
    found = distiller.losses(step(student, teacher))["mgd_loss"].item()
    torch.manual_seed(7)
    masks = random_mask(student, 0.65)
    assert not torch.equal(masks[0], masks[1])
    assert found == pytest.approx(naive(distiller, teacher, student, masks), rel=1e-5)


def test_the_formula_in_evaluation_with_one_fixed_mask() -> None:
    teacher, student = random_maps(channels=3, grid=(4, 5))
    distiller = same_width(3).eval()
    masks = random_mask(student, 0.65, fixed=True)
    assert torch.equal(masks[0], masks[1]) and set(masks.unique().tolist()) == {0.0, 1.0}
    state = torch.get_rng_state()
    losses = [distiller.losses(step(student, teacher))["mgd_loss"].item() for _ in range(2)]
    assert losses[0] == losses[1] == pytest.approx(naive(distiller, teacher, student, masks), rel=1e-5)
    assert torch.equal(torch.get_rng_state(), state), "validation moves the run's random numbers"


def test_masks_hide_the_share_that_was_asked_for_in_all_channels() -> None:
    torch.manual_seed(0)
    for hidden in (0.0, 0.3, 0.65):
        mask = random_mask(torch.zeros(4, 3, 100, 100), hidden)
        assert mask.shape == (4, 1, 100, 100) and mask.mean().item() == pytest.approx(1 - hidden, abs=0.01)


def test_what_is_hidden_does_not_count_and_what_is_seen_does() -> None:
    teacher, student = random_maps()
    distiller = same_width().eval()
    for conv in (distiller.generators["p3"][0], distiller.generators["p3"][2]):
        set_identity(conv)
    mask = random_mask(student, 0.65, fixed=True)
    changed = {name: student + where for name, where in {"hidden": 1 - mask, "seen": mask}.items()}
    loss = {name: distiller.losses(step(x, teacher))["mgd_loss"] for name, x in (changed | {"before": student}).items()}
    assert loss["hidden"] == loss["before"] != loss["seen"]
    expected = (teacher - (student * mask).relu()).square().mean()  # the generator is a ReLU now
    assert loss["before"].item() == pytest.approx(expected.item(), rel=1e-5)


def test_the_loss_does_not_grow_with_the_grid() -> None:
    distiller = same_width(mask=0.0, gain=2.0).eval()
    teacher, student = random_maps(grid=(40, 40))
    part = distiller.losses(step(student[..., :20, :20], teacher[..., :20, :20]))["mgd_loss"].item()
    assert distiller.losses(step(student, teacher))["mgd_loss"].item() == pytest.approx(part, rel=0.1)


def test_the_student_is_pulled_and_every_parameter_trained() -> None:
    (teacher,), (student,) = random_maps(1), random_maps(1, channels=4)
    torch.manual_seed(0)
    assert_pulls(MaskedGenerativeDistiller(spec(4), spec(6)).eval(), student, teacher)


def test_a_narrower_generator() -> None:
    teacher, student = random_maps(channels=4, grid=(4, 5))
    distiller = same_width(4, width=0.5).eval()
    assert [tuple(p.shape) for p in distiller.parameters()] == [(2, 4, 3, 3), (2,), (4, 2, 3, 3), (4,)]
    masks = random_mask(student, 0.65, fixed=True)
    found = distiller.losses(step(student, teacher))["mgd_loss"].item()
    assert found == pytest.approx(naive(distiller, teacher, student, masks), rel=1e-5)


@pytest.mark.parametrize("options", [{"width": 0}, {"mask": 1.0}, {"mask": -0.1}, {"mask": math.nan}, {"gain": -1.0}])
def test_wrong_options_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(UserError, match="mgd: expected (mask|gain|width) to be a number"):
        MaskedGenerativeDistiller(spec(4), spec(4), **options)
