"""Adapters start from the least squares of the first batch."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from cfg import UserError
from distill.adapters import ALWAYS, UNEQUAL, Adapter
from distill.base import Level
from distill.options import choice


def adapter(student: int, teacher: int, **options: object) -> Adapter:
    torch.manual_seed(0)
    return Adapter(Level(student, 8), Level(teacher, 8), **options)


def maps(channels: int, seed: int = 0, grid: tuple[int, int] = (9, 7)) -> Tensor:
    return torch.randn(4, channels, *grid, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("teacher", [6, 9])
def test_a_teacher_that_is_a_mixture_of_the_student_is_met_at_once(teacher: int) -> None:
    """Also where it has as many channels, in another order and scale."""
    student, mixture = maps(6), torch.randn(teacher, 6, generator=torch.Generator().manual_seed(1))
    target = torch.einsum("tc,bchw->bthw", mixture, student) + 3.0
    mixed = adapter(6, teacher)(student, target)
    assert (mixed - target).std() < 0.02 * target.std()
    assert (adapter(6, teacher).eval()(student, target) - target).std() > 0.5 * target.std(), "random numbers did it too"


def test_it_is_solved_once_and_only_in_training() -> None:
    one, student = adapter(4, 4), maps(4)
    one.eval()(student, maps(4, 1))
    assert not one.solved
    one.train()(student, maps(4, 1))
    weight = one.mix.weight.detach().clone()
    one(student, maps(4, 2))
    assert one.solved and torch.equal(one.mix.weight, weight)
    resumed = adapter(4, 4)
    resumed.load_state_dict(one.state_dict())
    resumed(student, maps(4, 2))
    assert torch.equal(resumed.mix.weight, weight)


def test_the_regression_is_that_of_centred_images() -> None:
    """A brightness that differs from image to image is no pattern."""
    student, target = maps(3), maps(2, 1)
    shifted = student + 100 * torch.randn(4, 3, 1, 1, generator=torch.Generator().manual_seed(2))
    weights = []
    for features in (student, shifted):
        one = adapter(3, 2)
        one(features, target)
        weights.append(one.mix.weight.detach())
    assert torch.allclose(*weights, atol=1e-3)


def test_grids_and_cells_fewer_than_channels() -> None:
    one = adapter(32, 8)
    assert one(maps(32, grid=(2, 2)), maps(8, 1, grid=(4, 4))).shape == (4, 8, 4, 4)
    assert one.mix.weight.isfinite().all() and one.mix.weight.abs().max() < 10


def test_features_that_are_no_numbers_leave_it_as_it_is() -> None:
    one = adapter(3, 3)
    before = one.mix.weight.detach().clone()
    one(maps(3) * float("nan"), maps(3))
    assert torch.equal(one.mix.weight, before)


def test_as_published_equal_channels_are_compared_as_they_are() -> None:
    assert isinstance(adapter(4, 4, mix=UNEQUAL).mix, nn.Identity) and isinstance(adapter(4, 5, mix=UNEQUAL).mix, nn.Conv2d)
    student = maps(4)
    assert torch.equal(adapter(4, 4, mix=UNEQUAL)(student, maps(4, 1)), student)
    with pytest.raises(UserError, match="pkd: expected mix to be always or unequal, got 'never'"):
        choice("pkd", "mix", "never", (ALWAYS, UNEQUAL))
