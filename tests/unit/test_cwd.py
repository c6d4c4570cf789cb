"""Channel-wise distillation against the published formula in naive float64 and by hand."""

from __future__ import annotations

import math

import pytest
import torch
from pairs import arrays, assert_pulls, random_maps, spec, step, view

from cfg import UserError
from distill.adapters import UNEQUAL
from distill.methods.cwd import ChannelDistiller, channel_divergence


def naive(teacher: torch.Tensor, student: torch.Tensor, temperature: float) -> float:
    """T^2 / C * sum over channels and cells of p_T log(p_T / p_S), mean over images."""
    total = 0.0
    for t_image, s_image in zip(arrays(teacher), arrays(student)):
        for t, s in zip(t_image, s_image):
            powers_t = [math.exp(v / temperature) for v in t.flatten()]
            powers_s = [math.exp(v / temperature) for v in s.flatten()]
            for a, b in zip(powers_t, powers_s):
                p, q = a / sum(powers_t), b / sum(powers_s)
                total += p * math.log(p / q) * temperature**2 / len(t_image)
    return total / len(teacher)


@pytest.mark.parametrize("temperature", [1.0, 4.0])
def test_the_published_formula(temperature: float) -> None:
    teacher, student = random_maps()
    found = ChannelDistiller(spec(6), spec(6), temperature=temperature, mix=UNEQUAL).losses(step(student, teacher))
    assert list(found) == ["cwd_loss"]
    assert found["cwd_loss"].item() == pytest.approx(naive(teacher, student, temperature), rel=1e-5)


def test_two_cells_by_hand() -> None:
    teacher = torch.tensor([2 * math.log(3), 0.0, 0.0, 0.0]).view(1, 2, 1, 2)  # T = 2: 3/4, 1/4 and 1/2, 1/2
    student = torch.zeros(1, 2, 1, 2)
    expected = 4 / 2 * (0.75 * math.log(1.5) + 0.25 * math.log(0.5))
    assert channel_divergence(teacher, student, 2.0).item() == pytest.approx(expected, rel=1e-6)


def test_a_constant_added_to_a_channel_changes_nothing() -> None:
    teacher, student = random_maps()
    shift = torch.arange(6.0).view(1, 6, 1, 1)
    moved = channel_divergence(teacher, student + shift, 4.0)
    assert moved.item() == pytest.approx(channel_divergence(teacher, student, 4.0).item(), rel=1e-4)
    assert channel_divergence(teacher, teacher + shift, 4.0).abs() < 1e-5


def test_as_published_channels_are_mixed_only_where_they_differ_and_levels_add_up() -> None:
    assert not list(ChannelDistiller(spec(6), spec(6), mix=UNEQUAL).parameters())
    mixed = ChannelDistiller(spec(4), spec(6))
    assert [name for name, _ in mixed.named_parameters()] == ["adapters.p3.mix.weight"]  # the softmax undoes a bias
    teacher, student = random_maps()
    two = ChannelDistiller(spec(6, strides=(8, 16)), spec(6, strides=(8, 16)), gain=0.5, mix=UNEQUAL)
    one = ChannelDistiller(spec(6), spec(6), mix=UNEQUAL).losses(step(student, teacher))["cwd_loss"]
    both = two.losses(step(view([student, student]), view([teacher, teacher])))["cwd_loss"]
    assert both.item() == pytest.approx(one.item(), rel=1e-6)  # 0.5 * (1 + 1)


def test_the_student_is_pulled_and_every_parameter_trained() -> None:
    (teacher,), (student,) = random_maps(1), random_maps(1, channels=4)
    torch.manual_seed(0)
    assert_pulls(ChannelDistiller(spec(4), spec(6)), student, teacher)


def test_large_features_and_half_precision_are_finite_float32() -> None:
    teacher, student = random_maps()
    distiller = ChannelDistiller(spec(6), spec(6), mix=UNEQUAL)
    loss = distiller.losses(step((student * 1e4).bfloat16(), (teacher * 1e4).bfloat16()))["cwd_loss"]
    assert torch.isfinite(loss) and loss.dtype == torch.float32


@pytest.mark.parametrize("options", [{"temperature": 0}, {"temperature": -4}, {"gain": -1.0}, {"gain": math.nan}])
def test_wrong_options_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(UserError, match="cwd: expected (temperature|gain) to be a number"):
        ChannelDistiller(spec(4), spec(4), **options)


def test_pairs_it_cannot_serve() -> None:
    with pytest.raises(UserError, match="needs a teacher"):
        ChannelDistiller(spec(4), None)
    with pytest.raises(UserError, match="no common stride"):
        ChannelDistiller(spec(4), spec(4, strides=(16,)))
