"""How hard distillation pulls: gradient products, gains, the cap, the projection, the schedule, the shares."""

from __future__ import annotations

import math
import sys
from copy import deepcopy
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "contract"))
from small import batch, detector, distilling

from cfg import UserError
from distill.balance import SETTLED, Balance
from distill.base import Distiller, Step, Term
from distill.gradients import GradientProducts, gradient_products, trunk
from distill.model import TrainingModel
from distill.networks import FrozenTeacher, spec_of
from distill.schedule import Schedule


def linear(x: torch.Tensor, *gradient: float) -> torch.Tensor:
    """A loss whose gradient at x is `gradient`."""
    return (x * torch.tensor(gradient)).sum()


def point(size: int = 2) -> torch.Tensor:
    return torch.zeros(size, requires_grad=True)


def pulls_of(detection: list[float], *terms: list[float]) -> GradientProducts:
    """Of a detection loss and terms with these gradients."""
    rows = torch.tensor([detection, *terms], dtype=torch.float32)
    return GradientProducts(rows @ rows.T)


def along(detection: float, *terms: float) -> GradientProducts:
    """Of gradients in one dimension."""
    return pulls_of([detection], *([term] for term in terms))


ONE = {"w": torch.tensor(1.0)}
A = (Term("a_loss", "w", portion=1.0),)
TWO_IN_A_GROUP = (Term("a_loss", "w"), Term("b_loss", "w"))
TWO_GROUPS = (Term("a_loss", "w", portion=1.0), Term("b_loss", "v", portion=1.0))


def test_products_by_hand() -> None:
    a, b = point(), point(1)
    losses = [linear(a, 3, 4), linear(a, 1, 0) + linear(b, 2), torch.tensor(7.0)]
    expected = torch.tensor([[25.0, 3, 0], [3, 5, 0], [0, 0, 0]])
    torch.testing.assert_close(gradient_products(losses, [a, b]), expected)
    torch.testing.assert_close(gradient_products(losses, [a, torch.ones(2, 3, requires_grad=True), b]), expected)


@pytest.mark.parametrize("size", [3e-8, 1e-6, 1.0, 1e3, 4e4])
def test_products_through_half_precision_neither_underflow_nor_overflow(size: float) -> None:
    x = point()
    loss = (x.half().float() * torch.tensor([3 * size, 4 * size]) / 4).sum()  # the gradient is float16 on its way
    assert gradient_products([loss], [x], half=True)[0, 0].sqrt().item() == pytest.approx(5 * size / 4, rel=0.01)


def test_the_trunk_is_what_is_trained_before_the_head() -> None:
    student = detector(8, "none")
    whole = trunk(student)
    assert {id(p) for p in whole} == {id(p) for layer in student.model[:-1] for p in layer.parameters()}
    next(student.parameters()).requires_grad_(False)
    assert len(trunk(student)) == len(whole) - 1
    student.model[:-1].requires_grad_(False)
    assert {id(p) for p in trunk(student)} == {id(p) for p in student.head.parameters()}


def test_lengths_and_cosines_by_hand() -> None:
    pulls = pulls_of([3, 4], [6, 0], [0, -8], [0, 0])
    sums = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0]])  # (6, 0), (0, -8), nothing, (6, -8)
    assert pulls.detection == 5 and pulls.lengths(sums).tolist() == [6, 8, 0, 10]
    assert pulls.cosines(sums).tolist() == pytest.approx([0.6, -0.8, 0, (18 - 32) / 50])


def test_the_gain_brings_a_group_to_its_share() -> None:
    # Detection pulls with 5, the group's two terms with (6, 0) and (0, 8) together with 10: share 0.2 needs a gain of 0.1.
    balance = Balance(TWO_IN_A_GROUP, share=0.2)
    balance.update(pulls_of([3, 4], [6, 0], [0, 8]), ONE)
    assert balance.gains.tolist() == pytest.approx([0.1])
    assert balance.shares.tolist() == pytest.approx([0.6 / 5, 0.8 / 5, 0.2])
    assert balance.cosines.tolist() == pytest.approx([0.6, 0.8, (18 + 32) / 50])
    assert list(balance.as_items()) == ["share_a", "share_b", "share_all", "cos_a", "cos_b", "cos_all"]
    gained = balance.gained({"a_loss": torch.tensor(6.0), "b_loss": torch.tensor(8.0), "own_loss": torch.tensor(2.0)})
    assert {k: v.item() for k, v in gained.items()} == pytest.approx({"a_loss": 0.6, "b_loss": 0.8, "own_loss": 2})


def test_gains_that_are_settled_over_the_first_measurements_and_kept() -> None:
    balance = Balance(A, share=1.0, hold=False)
    for pull in (2.0, 8.0):  # detection 2, then 8, against 2: ratios 1 and 4, their geometric mean 2
        balance.update(along(pull, 2), ONE)
    assert balance.gains.item() == pytest.approx(2)
    for _ in range(SETTLED - 2):
        balance.update(along(4, 2), ONE)
    balance.update(along(100, 2), ONE)
    assert balance.gains.item() == pytest.approx(2)
    assert balance.shares.tolist() == pytest.approx([0.04, 0.04])


def test_gains_that_follow_hold_the_share() -> None:
    balance = Balance(A, share=1.0)
    for pull in (2.0, 8.0):
        balance.update(along(pull, 1), ONE)
    assert balance.gains.item() == pytest.approx(4.0)
    for _ in range(20):
        balance.update(along(1, 5), ONE)
    assert balance.gains.item() == pytest.approx(0.2, rel=1e-3) and balance.shares[-1].item() == pytest.approx(1, rel=1e-3)


def test_one_batch_moves_a_gain_at_most_twofold() -> None:
    balance = Balance(A, share=1.0)
    for pull, gain in ((1e-3, 1e3), (1.0, 500), (1e-9, 1e3), (0.0, 1e3)):  # the first is taken as it is, no gradient is none
        balance.update(along(1, pull), ONE)
        assert balance.gains.item() == pytest.approx(gain, rel=1e-3)


def test_a_term_that_starts_later_does_nothing_until_it_is_measured() -> None:
    balance = Balance(A, share=0.5)
    balance.update(along(4, 0), ONE)
    assert balance.gains.item() == 0 and balance.shares.tolist() == [0, 0]
    assert balance.gained({"a_loss": torch.tensor(3.0)})["a_loss"] == 0
    balance.update(along(4, 8), ONE)
    assert balance.gains.item() == pytest.approx(0.25) and balance.shares[-1].item() == pytest.approx(0.5)


def test_without_a_share_the_methods_own_coefficients_stay() -> None:
    balance = Balance((TWO_GROUPS[0], Term("b_loss", "v", strength=0.5)), share=None)
    balance.update(along(1, 3, 4), ONE | {"v": torch.tensor(2.0)})
    assert balance.gains.tolist() == [1, 0.5] and balance.shares.tolist() == pytest.approx([3, 4, 7])


def test_portions_and_strengths_are_factors_on_the_share() -> None:
    balance = Balance((Term("a_loss", "w", portion=0.75), Term("b_loss", "v", portion=0.25, strength=0.5)), share=0.4)
    balance.update(along(1, 3, 4), ONE | {"v": torch.tensor(1.0)})
    assert balance.shares.tolist() == pytest.approx([0.3, 0.05, 0.35])


@pytest.mark.parametrize("pull, left", [(2.0, 0.5 / 2), (0.4, 1.0)])
def test_the_cap_limits_all_terms_together(pull: float, left: float) -> None:
    balance = Balance(A, share=None, cap=0.5)
    balance.update(along(1, pull), ONE)
    assert balance.limit(1.0).item() == pytest.approx(left)
    assert balance.shares[-1].item() == pytest.approx(min(pull, 0.5))


def test_weights_and_the_schedule_count_for_the_cap() -> None:
    balance = Balance(A, share=None, cap=0.5)
    balance.update(along(1, 1), {"w": torch.tensor(4.0)}, left=0.25)
    assert [balance.limit(left).item() for left in (0.25, 0.5, 0.1)] == pytest.approx([0.5, 0.25, 1.0]), "until the next measurement too"
    assert balance.shares[-1].item() == pytest.approx(0.5)


@pytest.mark.parametrize("term, given_back", [((-3.0, 0.0), 3 * 3 / 25), ((3.0, 0.0), 0.0), ((0.0, -8.0), 32 / 25)])
def test_what_opposes_detection_is_given_back(term: tuple[float, float], given_back: float) -> None:
    balance = Balance(A, share=None)
    balance.update(pulls_of([3, 4], list(term)), ONE)
    assert balance.given_back(1.0).item() == pytest.approx(given_back, abs=1e-6)
    assert balance.given_back(0.5).item() == pytest.approx(given_back / 2, abs=1e-6)
    total = (1 + given_back) * torch.tensor([3.0, 4]) + torch.tensor(term)
    assert total @ torch.tensor([3.0, 4]) >= 25 - 1e-4, "as steep for detection as alone, or steeper"
    off = Balance(A, share=None, project=False)
    off.update(pulls_of([3, 4], list(term)), ONE)
    assert off.given_back(1.0) == 0 and off.cosines.tolist() == balance.cosines.tolist()


def test_the_sum_counts_and_what_the_cap_leaves_of_it() -> None:
    balance = Balance(TWO_GROUPS, share=None)
    balance.update(along(1, -2, 3), ONE | {"v": torch.tensor(1.0)})
    assert balance.given_back(1.0) == 0 and balance.cosines.tolist() == [-1, 1, 1]
    capped = Balance(A, share=None, cap=0.5)
    capped.update(along(1, -2), ONE)
    assert capped.given_back(1.0).item() == pytest.approx(0.5)


def test_measurements_are_rare_after_the_first_steps() -> None:
    balance = Balance(A, every=20)
    assert [i for i in range(1, 65) if balance.due()] == [1, 2, 4, 8, 16, 21, 41, 61]
    assert all(Balance(A, every=1).due() for _ in range(2))
    assert not Balance(()).due()


def test_no_gradient_of_detection_and_values_that_are_no_numbers_change_nothing() -> None:
    balance = Balance(A, cap=0.1)
    for detection, pull in ((0.0, 1.0), (math.nan, 1.0), (math.inf, 1.0), (1.0, math.inf)):
        balance.update(along(detection, pull), ONE)
    assert balance.gains.item() == 0 and balance.limit(1.0).item() == 1 and balance.measured.item() == 0


def test_the_schedule() -> None:
    assert [Schedule(until=0.5).left(p) for p in (0, 0.49, 0.5, 1)] == [1, 1, 0, 0]
    cosine = Schedule(until=0.8, decay="cosine")
    assert [cosine.left(p) for p in (0, 0.4, 0.8)] == pytest.approx([1, 0.5, 0])
    assert Schedule().left(0.999) == 1
    warm = Schedule(warmup=0.2, until=0.8, decay="cosine")
    assert warm.left(0) == pytest.approx(1e-3), "never off: adapters learn from the first step"
    assert warm.left(0.1) == pytest.approx(0.5 * (1 + math.cos(math.pi / 8)) / 2)
    assert [warm.left(0.2), warm.left(0.4)] == pytest.approx([cosine.left(0.2), 0.5])


@pytest.mark.parametrize("options, message", [
    ({"share": 0}, "kd_share: expected a number above 0"),
    ({"cap": -1.0}, "kd_cap: expected a number above 0 as 0.5, or None, got -1.0"),
    ({"cap": True}, "kd_cap"),
    ({"warmup": 1}, "kd_warmup: expected a fraction of training, 0 or more and below 1, got 1"),
    ({"until": 0}, "kd_until: expected a fraction of training above 0, at most 1, got 0"),
    ({"until": 1.5}, "kd_until"),
    ({"warmup": 0.5, "until": 0.5}, "kd_warmup: expected less than kd_until, 0.5, got 0.5"),
    ({"project": 1}, "kd_project: expected True or False, got 1"),
    ({"hold": "maybe"}, "kd_hold: expected True or False, got 'maybe'"),
    ({"every": 0}, "kd_every: expected a whole number"),
    ({"decay": "cosin"}, "kd_decay: expected none or cosine, got 'cosin'; did you mean 'cosine'"),
])  # fmt: skip
def test_values_out_of_range(options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Balance(A, **options)


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
    model = training(share=0.3, project=False)
    total, items = model.loss(batch(3))
    assert items["share_att"].item() == pytest.approx(0.1, rel=1e-4)
    assert items["share_global"].item() == pytest.approx(0.1, rel=1e-4)
    losses = {k: v for k, v in items.items() if k.endswith("_loss")}
    assert total.item() == pytest.approx(3 * sum(v.item() for v in model.balance.gained(losses).values()), rel=1e-5)
    assert total.item() != pytest.approx(3 * sum(v.item() for v in losses.values()), rel=0.1), "reported without gains"
    assert model.eval().loss(batch(3))[1]["share_att"] == items["share_att"], "measured in training only"


class Opposing(Distiller):
    """Asks for the contrary of what the detection loss asks for."""

    terms = (Term("opposing_loss", "opposing"),)

    def losses(self, step: Step) -> dict[str, torch.Tensor]:
        return {"opposing_loss": -torch.stack(list(step.task_loss(step.student).values())).sum()}


@pytest.mark.parametrize("project", [True, False])
def test_nothing_is_left_against_detection_at_the_trunk(project: bool) -> None:
    student, teacher = detector(8, "none"), FrozenTeacher(detector(16), "teacher")
    method = Opposing(spec_of(student, "student"), teacher.spec)
    model = TrainingModel(student, method, teacher, balance={"share": 0.4, "project": project}).train()
    whole, alone = pulls(model)
    items = model.balance.as_items()
    assert items["share_opposing"].item() == pytest.approx(0.4, rel=1e-3)
    assert items["cos_all"].item() == pytest.approx(-1, abs=1e-3)
    torch.testing.assert_close(whole, alone if project else 0.6 * alone, rtol=1e-2, atol=1e-3 * alone.abs().max().item())


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
    assert model.weights.ended.tolist() == [False, False, True, True, True]
    model.end_epoch(dict.fromkeys(names, 1.0))
    assert model.weights.weights.tolist() == [1, 1, 0, 0, 0], "losses of 0 are no measure of their weights"


def test_a_copy_takes_over_gains_weights_and_progress() -> None:
    model, other = training(), training()
    model.loss(batch(3))
    model.progress = 0.25
    other.copy_state(model)
    assert torch.equal(other.balance.gains, model.balance.gains) and other.progress == 0.25
    TrainingModel(detector()).copy_state(TrainingModel(detector()))


def test_the_rhythm_of_measurements_survives_a_resume() -> None:
    balance, other = Balance(A, every=7), Balance(A, every=7)
    for _ in range(6):
        balance.due()
    other.load_state_dict(balance.state_dict())
    assert [other.due(), other.due()] == [False, True]


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
