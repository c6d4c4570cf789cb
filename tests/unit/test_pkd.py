"""Distillation by Pearson correlation against numpy's coefficient."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pairs import arrays, assert_pulls, random_maps, spec, step

from cfg import UserError
from distill.adapters import UNEQUAL
from distill.methods.pkd import PearsonDistiller, standardised


def naive(teacher: torch.Tensor, student: torch.Tensor) -> float:
    """1 - r of each image and channel, averaged."""
    pairs = [(t, s) for t_image, s_image in zip(arrays(teacher), arrays(student)) for t, s in zip(t_image, s_image)]
    return sum(1 - np.corrcoef(t.flatten(), s.flatten())[0, 1] for t, s in pairs) / len(pairs)


def loss(teacher: torch.Tensor, student: torch.Tensor, gain: float = 1.0) -> float:
    channels = teacher.shape[1]
    found = PearsonDistiller(spec(channels), spec(channels), gain, UNEQUAL).losses(step(student, teacher))
    assert list(found) == ["pkd_loss"]
    return found["pkd_loss"].item()


def test_it_is_1_minus_the_correlation() -> None:
    teacher, student = random_maps()
    assert loss(teacher, student) == pytest.approx(naive(teacher, student), rel=1e-5)
    assert loss(teacher, student, gain=3.0) == pytest.approx(3 * naive(teacher, student), rel=1e-5)


def test_three_cells_by_hand() -> None:
    teacher = torch.tensor([1.0, 2.0, 3.0]).view(1, 1, 1, 3)
    student = torch.tensor([1.0, 3.0, 2.0]).view(1, 1, 1, 3)  # covariance 1/3, variances 2/3: r = 1/2
    assert loss(teacher, student) == pytest.approx(0.5, rel=1e-5)
    assert loss(teacher, -teacher) == pytest.approx(2.0, rel=1e-5)


def test_mean_and_scale_of_a_channel_do_not_count() -> None:
    teacher, student = random_maps()
    assert loss(teacher, 5 * teacher + 7) == pytest.approx(0, abs=1e-6)
    assert loss(teacher, 0.1 * student - 2) == pytest.approx(loss(teacher, student), rel=1e-3)
    assert loss(1e-3 * teacher, 1e-3 * student) == pytest.approx(loss(teacher, student), rel=1e-3)


def test_each_image_is_standardised_by_itself() -> None:
    teacher, student = random_maps()
    louder = torch.stack([student[0], 50 * student[1] + 9])
    assert loss(teacher, louder) == pytest.approx(loss(teacher, student), rel=1e-4)


def test_a_channel_that_is_the_same_everywhere_is_finite() -> None:
    teacher, student = random_maps()
    student[:, 0], teacher[:, 1] = 4.0, 0.0
    student.requires_grad_(True)
    value = PearsonDistiller(spec(6), spec(6), mix=UNEQUAL).losses(step(student, teacher))["pkd_loss"]
    value.backward()
    assert torch.isfinite(value) and torch.isfinite(student.grad).all()
    flat = torch.full((1, 1, 40, 40), 4.1) + torch.tensor([0.0, 1e-7]).repeat(800).view(40, 40)  # rounding, no pattern
    assert standardised(flat).abs().max() < 0.1
    single = standardised(torch.full((1, 2, 1, 1), 3.0, requires_grad=True))
    single.sum().backward()
    assert (single == 0).all()


def test_the_student_is_pulled_and_every_parameter_trained() -> None:
    (teacher,), (student,) = random_maps(1), random_maps(1, channels=4)
    torch.manual_seed(0)
    distiller = PearsonDistiller(spec(4), spec(6))
    # A bias would be centred away.
    assert [name for name, _ in distiller.named_parameters()] == ["adapters.p3.mix.weight"]
    assert_pulls(distiller, student, teacher)


def test_wrong_options_are_refused() -> None:
    with pytest.raises(UserError, match="pkd: expected gain to be a number of at least 0, got -1"):
        PearsonDistiller(spec(4), spec(4), gain=-1)
