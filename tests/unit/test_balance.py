"""How hard distillation pulls: gradient products, gains, the cap, the schedule, the shares."""

from __future__ import annotations

import math
import sys
from copy import deepcopy
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "contract"))
from small import batch, detector, distilling  # noqa: E402

from cfg import UserError  # noqa: E402
from distill.balance import WINDOW, Balance  # noqa: E402
from distill.gradients import gradient_products  # noqa: E402
from distill.model import TrainingModel  # noqa: E402


def linear(x: torch.Tensor, *gradient: float) -> torch.Tensor:
    """A loss whose gradient at x is `gradient`."""
    return (x * torch.tensor(gradient)).sum()


def point(size: int = 2) -> torch.Tensor:
    return torch.zeros(size, requires_grad=True)


ONE = {"w": torch.tensor(1.0)}


def test_products_by_hand() -> None:
    a, b = point(), point(1)
    losses = [linear(a, 3, 4), linear(a, 1, 0) + linear(b, 2), torch.tensor(7.0)]
    expected = torch.tensor([[25.0, 3, 0], [3, 5, 0], [0, 0, 0]])
    torch.testing.assert_close(gradient_products(losses, [a, b]), expected)


@pytest.mark.parametrize("size", [1e-6, 1.0, 1e3, 4e4])
def test_products_of_half_precision_maps_neither_underflow_nor_overflow(size: float) -> None:
    x = torch.zeros(2, dtype=torch.float16, requires_grad=True)
    products = gradient_products([(x.float() * torch.tensor([3 * size, 4 * size]) / 4).sum()], [x])
    assert products.item() == pytest.approx((5 * size / 4) ** 2, rel=0.01)


def test_products_where_a_level_is_held_back() -> None:
    a, held = point(), torch.ones(2)
    losses = [linear(a, 3, 4) + held.sum(), held.sum()]
    torch.testing.assert_close(gradient_products(losses, [a, held]), torch.tensor([[25.0, 0], [0, 0]]))
    assert gradient_products(losses, [held]).tolist() == [[0, 0], [0, 0]]


def test_products_of_gradients_too_small_for_half_precision() -> None:
    x = torch.zeros(2, dtype=torch.float16, requires_grad=True)
    loss = (x.float() * torch.tensor([3e-8, 0.0])).sum()
    assert gradient_products([loss], [x])[0, 0].sqrt().item() == pytest.approx(3e-8, rel=1e-2)


def test_the_gain_brings_a_group_to_its_share() -> None:
    # Detection pulls with 5, the group's two terms with (6, 0) and (0, 8) together with 10: share 0.2 needs a gain of 0.1.
    x, balance = point(), Balance({"a_loss": "w", "b_loss": "w"}, share=0.2)
    terms = {"a_loss": linear(x, 6, 0), "b_loss": linear(x, 0, 8)}
    balance.measure(linear(x, 3, 4), terms, ONE, [x])
    assert balance.gains.tolist() == pytest.approx([0.1])
    assert balance.shares.tolist() == pytest.approx([0.6 / 5, 0.8 / 5, 0.2])
    assert list(balance.as_items()) == ["share_a", "share_b", "share_all"]
    gained = balance.gained(terms | {"own_loss": torch.tensor(2.0)})
    assert torch.autograd.grad(gained["a_loss"], x)[0].tolist() == pytest.approx([0.6, 0]) and gained["own_loss"] == 2


def test_gains_that_are_settled_over_the_first_steps_and_kept() -> None:
    x, balance = point(1), Balance({"a_loss": "w"}, share=1.0, hold=False)
    for pull in range(1, WINDOW + 1):  # detection 1, 2 ... 8 against 2: mean 4.5 / 2
        balance.measure(linear(x, pull), {"a_loss": linear(x, 2)}, ONE, [x])
    assert balance.gains.item() == pytest.approx(4.5 / 2) and not balance.settling
    balance.measure(linear(x, 100), {"a_loss": linear(x, 2)}, ONE, [x])
    assert balance.gains.item() == pytest.approx(4.5 / 2)
    assert balance.shares.tolist() == pytest.approx([0.045, 0.045])


def test_gains_that_follow_hold_the_share() -> None:
    x, balance = point(1), Balance({"a_loss": "w"}, share=1.0)
    for pull in (2.0, 4.0):  # detection 2, then 4, against 1: means 2 and 3
        balance.measure(linear(x, pull), {"a_loss": linear(x, 1)}, ONE, [x])
    assert balance.gains.item() == pytest.approx(3.0)
    for _ in range(12 * WINDOW):
        balance.measure(linear(x, 1), {"a_loss": linear(x, 5)}, ONE, [x])
    assert balance.gains.item() == pytest.approx(0.2, rel=1e-3) and balance.shares[-1].item() == pytest.approx(1, rel=1e-3)
    window = balance.lengths.clone()
    balance.measure(linear(x, 9), {"a_loss": linear(x, 5)}, ONE, [x])
    assert balance.lengths[0].item() == pytest.approx(window[0].item() + (9 - window[0].item()) / WINDOW)


def test_a_term_that_starts_later_is_settled_then() -> None:
    x, balance = point(1), Balance({"a_loss": "w"}, share=0.5)
    balance.measure(linear(x, 4), {"a_loss": torch.tensor(0.0)}, ONE, [x])
    assert balance.gains.item() == 1 and balance.shares.tolist() == [0, 0]
    assert [balance.due({"a_loss": torch.tensor(v)}) for v in (0.0, 0.0, 3.0)] == [True, False, True]
    balance.measure(linear(x, 4), {"a_loss": linear(x, 8)}, ONE, [x])
    assert balance.gains.item() == pytest.approx(0.25) and balance.due({"a_loss": torch.tensor(3.0)})


def test_without_a_share_the_methods_own_coefficients_stay() -> None:
    x, balance = point(1), Balance({"a_loss": "w", "b_loss": "v"}, strengths={"v": 0.5}, share=None)
    balance.measure(linear(x, 1), {"a_loss": linear(x, 3), "b_loss": linear(x, 4)}, ONE | {"v": torch.tensor(2.0)}, [x])
    assert balance.gains.tolist() == [1, 0.5] and balance.shares.tolist() == pytest.approx([3, 4, 7])


def test_portions_and_strengths_are_factors_on_the_share() -> None:
    x, balance = point(1), Balance({"a_loss": "w", "b_loss": "v"}, {"w": 0.75, "v": 0.25}, {"v": 0.5}, share=0.4)
    balance.measure(linear(x, 1), {"a_loss": linear(x, 3), "b_loss": linear(x, 4)}, ONE | {"v": torch.tensor(1.0)}, [x])
    assert balance.shares.tolist() == pytest.approx([0.3, 0.05, 0.35])


@pytest.mark.parametrize("pull, left", [(2.0, 0.5 / 2), (0.4, 1.0)])
def test_the_cap_limits_all_terms_together(pull: float, left: float) -> None:
    x, balance = point(1), Balance({"a_loss": "w"}, share=None, cap=0.5)
    balance.measure(linear(x, 1), {"a_loss": linear(x, pull)}, ONE, [x])
    assert balance.limit.item() == pytest.approx(left)
    assert balance.shares[-1].item() == pytest.approx(min(pull, 0.5))
    assert all(balance.due({"a_loss": torch.tensor(0.0)}) for _ in range(5)), "a cap is held at every step"


def test_weights_and_fade_count_for_the_cap() -> None:
    x, balance = point(1), Balance({"a_loss": "w"}, share=None, cap=0.5)
    balance.measure(linear(x, 1), {"a_loss": linear(x, 1)}, {"w": torch.tensor(4.0)}, [x], fade=0.25)
    assert balance.limit.item() == pytest.approx(0.5)


def test_measurements_are_rare_once_gains_are_settled() -> None:
    balance = Balance({"a_loss": "w"}, share=None, every=4)
    assert [balance.due({"a_loss": torch.tensor(1.0)}) for _ in range(9)] == [True, False, False, False, True, False, False, False, True]
    assert all(Balance({"a_loss": "w"}, share=None, every=1).due({}) for _ in range(2))
    assert not Balance({}, share=None).due({})


def test_no_gradient_of_detection_and_values_that_are_no_numbers_change_nothing() -> None:
    x, balance = point(1), Balance({"a_loss": "w"}, cap=0.1)
    for detection, pull in ((0.0, 1.0), (math.nan, 1.0), (math.inf, 1.0), (1.0, math.inf)):
        balance.measure(linear(x, detection), {"a_loss": linear(x, pull)}, ONE, [x])
    assert balance.gains.item() == 1 and balance.limit.item() == 1 and balance.measured.item() == 0


def test_the_schedule() -> None:
    assert [Balance({}, until=0.5).fade(p) for p in (0, 0.49, 0.5, 1)] == [1, 1, 0, 0]
    cosine = Balance({}, until=0.8, decay="cosine")
    assert [cosine.fade(p) for p in (0, 0.4, 0.8)] == pytest.approx([1, 0.5, 0])
    assert Balance({}).fade(0.999) == 1
    warm = Balance({}, warmup=0.2, until=0.8, decay="cosine")
    assert warm.fade(0) == pytest.approx(1e-3), "never off: adapters learn from the first step"
    assert warm.fade(0.1) == pytest.approx(0.5 * (1 + math.cos(math.pi / 8)) / 2)
    assert [warm.fade(0.2), warm.fade(0.4)] == pytest.approx([cosine.fade(0.2), 0.5])


@pytest.mark.parametrize("options, message", [
    ({"share": 0}, "kd_share: expected a number above 0"),
    ({"cap": -1.0}, "kd_cap: expected a number above 0 as 0.5, or None, got -1.0"),
    ({"cap": True}, "kd_cap"),
    ({"warmup": 1}, "kd_warmup: expected a fraction of training, 0 or more and below 1, got 1"),
    ({"until": 0}, "kd_until: expected a fraction of training above 0, at most 1, got 0"),
    ({"until": 1.5}, "kd_until"),
    ({"hold": "maybe"}, "kd_hold: expected True or False, got 'maybe'"),
    ({"every": 0}, "kd_every: expected a whole number"),
    ({"decay": "cosin"}, "kd_decay: expected none or cosine, got 'cosin'; did you mean 'cosine'"),
])  # fmt: skip
def test_values_out_of_range(options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Balance({"a_loss": "w"}, **options)


# -- within a run -------------------------------------------------------------------------------------------------------


def training(**balance: object) -> TrainingModel:
    model = distilling("attention")
    return TrainingModel(model.student, model.distiller, model.teacher, "none", balance).train()


def pulls(model: TrainingModel) -> tuple[torch.Tensor, torch.Tensor]:
    """Gradients of the student's first layer: of the whole loss, and of the detection loss alone."""
    alone = deepcopy(model.student).train()
    vector, _ = alone.loss(batch(3))
    (vector.sum() / 3).backward()
    total, _ = model.loss(batch(3))
    (total / 3).backward()
    first = lambda m: next(m.parameters()).grad.flatten()  # noqa: E731
    return first(model.student), first(alone)


def test_each_loss_of_a_run_starts_at_its_share_and_the_total_has_the_gains() -> None:
    model = training(share=0.3)
    total, items = model.loss(batch(3))
    assert items["share_att"].item() == pytest.approx(0.1, rel=1e-4)
    assert items["share_global"].item() == pytest.approx(0.1, rel=1e-4)
    losses = {k: v for k, v in items.items() if k.endswith("_loss")}
    assert total.item() == pytest.approx(3 * sum(v.item() for v in model.balance.gained(losses).values()), rel=1e-5)
    assert total.item() != pytest.approx(3 * sum(v.item() for v in losses.values()), rel=0.1), "reported without gains"
    assert model.eval().loss(batch(3))[1]["share_att"] == items["share_att"], "measured in training only"


def test_losses_are_reported_without_gains_that_move() -> None:
    model = training(share=0.3)
    model.loss(batch(3))
    model.eval()
    _, before = model.loss(batch(3))
    total = model.loss(batch(3))[0]
    model.balance.gains.mul_(5)
    moved, after = model.loss(batch(3))
    assert {k: v.item() for k, v in after.items()} == pytest.approx({k: v.item() for k, v in before.items()})
    assert moved.item() > total.item()


def test_half_precision_around_a_step_changes_no_gain() -> None:
    one, other = training(), training()
    one.loss(batch(3))
    preds = other.student(batch(3)["img"])  # forward in float32 in both: only what follows it is compared
    with torch.autocast("cpu", torch.float16):
        other.loss(batch(3), preds)
    torch.testing.assert_close(other.balance.gains, one.balance.gains, rtol=1e-3, atol=0)
    assert (other.balance.measured == 1).all() and other.balance.gains.dtype == torch.float32


def test_a_strong_teacher_is_held_back_by_the_cap() -> None:
    whole, alone = pulls(training(share=50.0, cap=0.1))
    free, _ = pulls(training(share=50.0))
    assert (whole - alone).norm() < 0.02 * (free - alone).norm()


def test_after_its_end_distillation_costs_and_does_nothing() -> None:
    model = training(until=0.5)
    names = list(model.loss(batch(3))[1])
    model.progress = 0.5
    model.teacher = None  # would fail if it were looked at
    whole, alone = pulls(model)
    items = model.loss(batch(3))[1]
    assert torch.allclose(whole, alone) and list(items) == names and items["share_all"] == 0
    before = model.weights.epochs.item()
    model.end_epoch(dict.fromkeys(names, 1.0))
    assert model.weights.epochs == before, "losses of 0 are no measure of their weights"


def test_a_copy_takes_over_gains_weights_and_progress() -> None:
    model, other = training(), training()
    model.loss(batch(3))
    model.progress = 0.25
    other.copy_state(model)
    assert torch.equal(other.balance.gains, model.balance.gains) and other.progress == 0.25
    TrainingModel(detector()).copy_state(TrainingModel(detector()))


def test_the_rhythm_of_measurements_survives_a_resume() -> None:
    balance, other = Balance({"a_loss": "w"}, share=None, every=4), Balance({"a_loss": "w"}, share=None, every=4)
    quiet = {"a_loss": torch.tensor(0.0)}
    for _ in range(3):
        balance.due(quiet)
    other.load_state_dict(balance.state_dict())
    assert [other.due(quiet), other.due(quiet)] == [False, True]


def test_gains_are_saved() -> None:
    model, other = training(), training()
    model.loss(batch(3))
    other.load_state_dict(model.state_dict())
    assert torch.equal(other.balance.gains, model.balance.gains) and (other.balance.gains != 1).all()


def test_a_backbone_that_is_held_back() -> None:
    model = training()
    assert model.frozen_layers() == []
    model.distiller.freeze_until = 0.5
    assert model.frozen_layers() == list(model.student.model[:3]), "the three backbone rows"

    model.loss(batch(3))[0].backward()
    of_backbone = tuple(f"model.{row}." for row in range(3))
    for name, parameter in model.student.named_parameters():
        assert (parameter.grad is None) == name.startswith(of_backbone), name
    model.progress = 0.5
    assert model.frozen_layers() == []
    model.loss(batch(3))[0].backward()
    assert all(p.grad is not None for p in model.student.parameters())
