"""Adaptive weights in their four modes."""

from __future__ import annotations

import math

import pytest
import torch

from cfg.errors import UserError
from distill.weighting import AdaptiveWeights, bounded_sum, eq18

NAMES = ["box_loss", "obj_loss", "fg_loss"]


def means(*values: float) -> dict[str, float]:
    return dict(zip(NAMES, values, strict=True))


def losses(*values: float) -> dict[str, torch.Tensor]:
    return {name: torch.tensor(v, requires_grad=True) for name, v in means(*values).items()}


def test_eq18_by_hand() -> None:
    # exp(L) = 1, 2, 5, sum 8, n = 3, w = 1, 1, 2: 3/8, 6/8, 30/8.
    got = eq18(torch.tensor([0, math.log(2), math.log(5)]), torch.tensor([1.0, 1, 2]))
    torch.testing.assert_close(got, torch.tensor([0.375, 0.75, 3.75]))


def test_paper_mode_compounds_to_the_letter() -> None:
    weights = AdaptiveWeights(NAMES, "paper")
    epoch = means(0, math.log(2), math.log(5))
    weights.update(epoch)
    torch.testing.assert_close(weights.weights, torch.tensor([3 / 8, 6 / 8, 15 / 8]))
    weights.update(epoch)  # each factor squared: 9/64, 36/64, 225/64
    torch.testing.assert_close(weights.weights, torch.tensor([9 / 64, 36 / 64, 225 / 64]))
    assert weights.epochs == 2


def test_paper_mode_stays_finite() -> None:
    weights = AdaptiveWeights(NAMES, "paper")
    for _ in range(300):
        weights.update(means(1e4, 1.0, 0.0))
    assert weights.weights.isfinite().all()


def test_stable_mode_by_hand() -> None:
    weights = AdaptiveWeights(NAMES, "stable")
    weights.update(means(4.0, 0.02, 100.0))  # the first epoch is the yardstick: all quotients 1
    torch.testing.assert_close(weights.weights, torch.ones(3))
    torch.testing.assert_close(weights.first, torch.tensor([4.0, 0.02, 100.0]))
    # Quotients 0.5, 1, 0.25: exp = 1.648721, 2.718282, 1.284025, sum 5.651028; times 3 / sum.
    weights.update(means(2.0, 0.02, 25.0))
    torch.testing.assert_close(weights.weights, torch.tensor([0.875268, 1.443072, 0.681660]), rtol=1e-5, atol=1e-5)
    for _ in range(50):  # nothing compounds
        weights.update(means(2.0, 0.02, 25.0))
    torch.testing.assert_close(weights.weights, torch.tensor([0.875268, 1.443072, 0.681660]), rtol=1e-5, atol=1e-5)
    weights.update(means(4.0, 0.02, 100.0))  # and every weight can come back
    torch.testing.assert_close(weights.weights, torch.ones(3))


def test_stable_mode_does_not_depend_on_units() -> None:
    one, other = AdaptiveWeights(NAMES, "stable"), AdaptiveWeights(NAMES, "stable")
    for scale, weights in ((1.0, one), (1000.0, other)):
        weights.update(means(4.0 * scale, 2.0, 3.0))
        weights.update(means(1.0 * scale, 1.0, 2.0))
    torch.testing.assert_close(one.weights, other.weights)


@pytest.mark.parametrize("n", [1, 2, 5, 30])
def test_clamp_and_sum_hold_together(n: int) -> None:
    generator = torch.Generator().manual_seed(n)
    for spread in (0.1, 3.0, 200.0):
        weights = AdaptiveWeights([str(k) for k in range(n)], "stable")
        weights.update(dict.fromkeys(weights.names, 1.0))
        weights.update({name: spread * torch.rand((), generator=generator) for name in weights.names})
        assert weights.weights.sum().item() == pytest.approx(n, rel=1e-5)
        assert weights.weights.min() >= 0.1 - 1e-6 and weights.weights.max() <= 10 + 1e-5


def test_bounded_sum_by_hand() -> None:
    # 0.01 ends at the lower bound; the other two share 3 - 0.1 = 2.9 as 2 to 1.
    got = bounded_sum(torch.tensor([0.01, 2.0, 1.0], dtype=torch.float64))
    torch.testing.assert_close(got, torch.tensor([0.1, 2.9 * 2 / 3, 2.9 / 3], dtype=torch.float64))
    # One weight of 20 holds everything: bound 10 for it, and 10 / 19 for each of the rest.
    got = bounded_sum(torch.tensor([1.0] + [1e-9] * 19, dtype=torch.float64))
    torch.testing.assert_close(got, torch.tensor([10.0] + [10 / 19] * 19, dtype=torch.float64))


def test_term_that_is_zero_at_first() -> None:
    weights = AdaptiveWeights(NAMES, "stable")
    weights.update(means(1.0, 1.0, 0.0))
    torch.testing.assert_close(weights.weights, torch.ones(3))
    weights.update(means(0.5, 0.5, 0.0))  # counts as the average of the others
    torch.testing.assert_close(weights.weights, torch.ones(3))
    weights.update(means(0.5, 0.5, 2.0))  # begun in the middle of an epoch, whose mean has zeros in it
    torch.testing.assert_close(weights.weights, torch.ones(3))
    weights.update(means(0.5, 0.5, 8.0))  # its first whole epoch: its own yardstick, quotient 1
    assert weights.first[2] == 8
    torch.testing.assert_close(weights.weights, 3 * torch.softmax(torch.tensor([0.5, 0.5, 1.0]), 0))
    weights.update(means(0.5, 0.5, 4.0))
    torch.testing.assert_close(weights.weights, torch.ones(3))
    none = AdaptiveWeights(NAMES, "stable")
    none.update(means(0, 0, 0))
    torch.testing.assert_close(none.weights, torch.ones(3))


@pytest.mark.parametrize("mode", ["stable", "paper", "none", "uncertainty"])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_means_that_are_not_finite_change_nothing(mode: str, bad: float) -> None:
    weights = AdaptiveWeights(NAMES, mode)
    weights.update(means(1.0, bad, 1.0))
    assert weights.epochs == 0 and torch.equal(weights.first, torch.zeros(3))
    weights.update(means(1.0, 2.0, 3.0))
    before = {k: v.clone() for k, v in weights.state_dict().items()}
    weights.update(means(bad, 2.0, 3.0))
    assert all(torch.equal(v, before[k]) for k, v in weights.state_dict().items())
    assert all(w.isfinite() for w in weights.as_items().values())


def test_total_and_terms_by_hand() -> None:
    weights = AdaptiveWeights(NAMES, "none")
    weights.weights.copy_(torch.tensor([2.0, 1.0, 3.0]))
    given = losses(1.0, 4.0, 5.0)
    total, terms = weights(given)
    assert {k: round(v.item(), 6) for k, v in terms.items()} == means(2.0, 4.0, 15.0)
    assert total.shape == () and total.item() == pytest.approx(21.0)
    total.backward()  # d total / d loss = weight
    assert [given[k].grad.item() for k in NAMES] == pytest.approx([2.0, 1.0, 3.0])


def test_order_of_the_losses_does_not_matter() -> None:
    weights = AdaptiveWeights(NAMES, "none")
    given = losses(1.0, 4.0, 5.0)
    assert weights(given)[0] == weights(dict(reversed(given.items())))[0]
    assert list(given) == NAMES


def test_uncertainty_by_hand() -> None:
    weights = AdaptiveWeights(NAMES, "uncertainty")
    total, _ = weights(losses(1.0, 0.25, 4.0))
    assert total.item() == pytest.approx(5.25)
    total.backward()  # at s = 0: d/ds (exp(-s) L + s/2) = 1/2 - L
    torch.testing.assert_close(weights.log_variances.grad, torch.tensor([-0.5, 0.25, -3.5]))


@pytest.mark.long
def test_uncertainty_learns_bounded_weights() -> None:
    weights = AdaptiveWeights(NAMES, "uncertainty")
    optimiser = torch.optim.SGD(weights.parameters(), lr=0.5)
    for _ in range(500):
        optimiser.zero_grad()
        weights(means_as_tensors(1.0, 0.25, 1e-3))[0].backward()
        optimiser.step()
    box, obj, fg = (w.item() for w in weights.as_items().values())
    # The optimum is exp(-s) = 1 / (2 L).
    assert box == pytest.approx(0.5, rel=1e-3) and obj == pytest.approx(2.0, rel=1e-3)
    assert 5 < fg <= 10


def test_a_term_that_has_ended_has_no_learned_weight() -> None:
    weights = AdaptiveWeights(NAMES, "uncertainty")
    weights.end({NAMES[0]})
    items = weights.as_items()
    assert items[f"w_{NAMES[0]}"] == 0 and items[f"w_{NAMES[1]}"] == 1


def test_uncertainty_waits_for_a_term_that_has_not_begun() -> None:
    weights = AdaptiveWeights(NAMES, "uncertainty")
    optimiser = torch.optim.SGD(weights.parameters(), lr=0.5)
    for loss in (0.0, 0.25):
        for _ in range(100):
            optimiser.zero_grad()
            weights(means_as_tensors(1.0, 0.25, loss))[0].backward()
            optimiser.step()
        assert weights.as_items()["w_fg_loss"].item() == pytest.approx(2.0 if loss else 1.0, rel=1e-2)


def means_as_tensors(*values: float) -> dict[str, torch.Tensor]:
    return {name: torch.tensor(v) for name, v in means(*values).items()}


@pytest.mark.parametrize("mode", ["stable", "paper", "none", "uncertainty"])
def test_state_survives_a_round_trip(mode: str) -> None:
    weights = AdaptiveWeights(NAMES, mode)
    weights.update(means(1.0, 2.0, 3.0))
    weights.update(means(0.5, 0.5, 2.0))
    copy = AdaptiveWeights(NAMES, mode)
    copy.load_state_dict(weights.state_dict())
    for w in (weights, copy):
        w.update(means(0.4, 0.5, 1.0))
    assert all(torch.equal(v, copy.state_dict()[k]) for k, v in weights.state_dict().items())
    assert copy.epochs == 3


def test_items_are_detached_scalars() -> None:
    for mode in ("stable", "uncertainty"):
        weights = AdaptiveWeights(NAMES, mode)
        items = weights.as_items()
        assert list(items) == [f"w_{name}" for name in NAMES]
        assert all(v.shape == () and not v.requires_grad and v == 1 for v in items.values())
    kept = AdaptiveWeights(NAMES, "stable")
    items = kept.as_items()
    kept.weights.fill_(5)
    assert items["w_box_loss"] == 1  # a snapshot, no view


@pytest.mark.parametrize("mode", ["stable", "paper", "none"])
def test_terms_that_end_leave_the_others_with_their_own_sum(mode: str) -> None:
    weights = AdaptiveWeights(NAMES, mode)
    weights.weights.copy_(torch.tensor([1.0, 0.5, 1.5]))
    for _ in range(2):
        weights.end(["fg_loss"])
        torch.testing.assert_close(weights.weights, torch.tensor([4 / 3, 2 / 3, 0]))
    copy = AdaptiveWeights(NAMES, mode)
    copy.load_state_dict(weights.state_dict())
    for w in (weights, copy):
        w.update(means(0.0, 0.0, 0.0) if mode == "paper" else means(1.0, 1.0, 0.0))
        expected = [1.0, 1.0, 0] if mode == "stable" else [4 / 3, 2 / 3, 0]  # equal losses: eq. 18 leaves its weights
        assert w.weights.tolist() == pytest.approx(expected)
    total, _ = weights(losses(1.0, 1.0, 7.0))
    assert total.item() == pytest.approx(2.0)


def test_wrong_input() -> None:
    with pytest.raises(UserError, match="did you mean 'stable'"):
        AdaptiveWeights(NAMES, "stabel")
    with pytest.raises(ValueError, match="expected the terms"):
        AdaptiveWeights(NAMES)({"box_loss": torch.ones(())})
    with pytest.raises(ValueError, match="missing"):
        AdaptiveWeights(NAMES).update({"box_loss": 1.0})


def test_instances_share_nothing() -> None:
    one, other = AdaptiveWeights(NAMES, "stable"), AdaptiveWeights(NAMES, "stable")
    one.weights.fill_(3)
    assert (other.weights == 1).all()


def test_a_loss_that_spikes_does_not_switch_the_others_off() -> None:
    weights = AdaptiveWeights(["box", "focal", "feature", "attention", "global"], "stable")
    weights.update(dict.fromkeys(weights.names, 1.0))
    weights.update(dict.fromkeys(weights.names, 1.0) | {"feature": 100.0})
    # The ratio counts as 2: e^2 / (e^2 + 4 e) * 5 = 2.0230 for the spike, e / (e^2 + 4 e) * 5 = 0.7442 for the others.
    assert weights.weights.tolist() == pytest.approx([0.7442, 0.7442, 2.0230, 0.7442, 0.7442], abs=1e-4)
