"""Thresholds with a promise: the published table, worlds of known truth, and MAPIE as an oracle."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from cfg import UserError
from inspection.binomial import allowed_misses, interval, units_needed, upper_limit
from inspection.evidence import Evidence, Image, gather
from inspection.plan import ClassRule, Plan
from inspection.promise import PER_CLASS, Wish, choose
from inspection.rules import Code, Found, decide

TABLE = [(0.05, 59, 93, 124), (0.02, 149, 236, 313), (0.01, 299, 473, 628), (0.001, 2995, 4742, 6294)]
ONE = Plan(("scratch",), (ClassRule(),))
TWO = Plan(("scratch", "pit"), (ClassRule(), ClassRule()))


def evidence(ng: np.ndarray, ok: np.ndarray | None = None, defects: np.ndarray | None = None) -> Evidence:
    """Units with these class scores, (U, K); of class 0 unless `defects` says otherwise."""
    ng = np.asarray(ng, dtype=float)
    ok = np.zeros((1, ng.shape[1])) if ok is None else np.asarray(ok, dtype=float)
    if defects is None:
        defects = np.eye(ng.shape[1], dtype=bool)[np.zeros(len(ng), dtype=int)]
    units = len(ng) + len(ok)
    labels = np.concatenate([defects, np.zeros(ok.shape, dtype=bool)])
    return Evidence((), tuple(map(str, range(units))), np.concatenate([ng, ok]), labels, np.arange(0))


@pytest.mark.parametrize(("rate", "none", "one", "two"), TABLE)
def test_units_needed_are_those_of_the_table(rate, none, one, two):
    assert [units_needed(rate, 0.05, misses) for misses in range(3)] == [none, one, two]
    for misses, units in enumerate((none, one, two)):
        assert allowed_misses(units, rate, 0.05) == misses and allowed_misses(units - 1, rate, 0.05) == misses - 1


@pytest.mark.parametrize("units", [1, 17, 59, 400])
@pytest.mark.parametrize("rate", [0.01, 0.2])
def test_allowed_misses_are_the_definition(units, rate):
    cdf = stats.binom.cdf(np.arange(units), units, rate)  # BinomCDF(k - 1; n, rate) for k = 1 ...
    assert allowed_misses(units, rate, 0.05) == int((cdf <= 0.05).sum()) - 1


def test_limits_are_those_of_scipy():
    known = stats.binomtest(3, 40).proportion_ci(0.9, method="exact")
    assert interval(3, 40, 0.9) == pytest.approx((known.low, known.high))
    assert interval(0, 40, 0.9)[0] == 0 and interval(40, 40, 0.9)[1] == 1 and interval(0, 0, 0.9) == (0, 1)
    assert upper_limit(0, 120, 0.05) == pytest.approx(1 - 0.05 ** (1 / 120))


def test_the_threshold_is_the_k_th_smallest_score():
    scores = np.linspace(0.1, 0.9, 93)[:, None]
    plan, allowed = choose(ONE, evidence(scores), Wish(0.05))
    assert allowed == 1
    assert plan.rules[0].threshold == pytest.approx(scores[1, 0], abs=2e-6) and plan.rules[0].threshold <= scores[1, 0]
    assert plan.rules[0].review is None


def test_float32_scores_at_the_threshold_are_rejected():
    for score in np.random.default_rng(0).random(200).astype(np.float32):
        plan, _ = choose(ONE, evidence(np.full((60, 1), score)), Wish(0.05))
        assert decide(plan, Found(np.zeros((1, 4)), np.array([score]), np.array([0])), 9, 9).code == Code.NG


def broken(rounds: int, seed: int, wish: Wish, n: int) -> tuple[float, float]:
    """Shares of made worlds in which the true escape rate, and the true overkill rate, is above what was promised.

    NG scores are Beta(4, 2), OK scores Beta(2, 6): the true rates at a threshold are their distribution functions.
    """
    rng, escapes, overkills = np.random.default_rng(seed), 0, 0
    for _ in range(rounds):
        plan, _ = choose(ONE, evidence(rng.beta(4, 2, (n, 1)), rng.beta(2, 6, (n, 1))), wish)
        rule = plan.rules[0]
        passed = rule.threshold if rule.review is None else rule.review
        escapes += stats.beta.cdf(passed, 4, 2) > wish.max_escape
        overkills += wish.max_overkill is not None and stats.beta.sf(rule.threshold, 2, 6) > wish.max_overkill
    return escapes / rounds, overkills / rounds


@pytest.mark.long
@pytest.mark.parametrize(("n", "wish"), [(93, Wish(0.05)), (300, Wish(0.1, 0.9, 0.05)), (60, Wish(0.05, 0.95, 0.1))])
def test_promises_are_broken_no_more_often_than_said(n, wish):
    rounds = 600
    escapes, overkills = broken(rounds, 1, wish, n)
    exact = stats.binom.cdf(allowed_misses(n, wish.max_escape, wish.doubt), n, wish.max_escape)
    error = np.sqrt(wish.doubt / rounds)
    assert exact <= wish.doubt
    assert escapes <= wish.doubt + 3 * error and overkills <= wish.doubt + 3 * error
    assert abs(escapes - exact) <= 4 * error  # not far safer than said either: the method is exact


@pytest.mark.long
def test_promises_per_class_are_kept_together():
    rng, rounds, broken_ones = np.random.default_rng(2), 400, 0
    for _ in range(rounds):
        scores, defects = rng.beta(4, 2, (240, 2)), np.repeat(np.eye(2, dtype=bool), 120, axis=0)
        plan, _ = choose(TWO, evidence(scores, defects=defects), Wish(0.05, 0.95, method=PER_CLASS))
        broken_ones += any(stats.beta.cdf(rule.threshold, 4, 2) > 0.05 for rule in plan.rules)
    assert broken_ones / rounds <= 0.05 + 3 * np.sqrt(0.05 / rounds)


def test_the_review_zone_lies_between_what_both_kinds_promise():
    ng, ok = np.linspace(0.2, 0.9, 93)[:, None], np.linspace(0.01, 0.6, 93)[:, None]
    rule = choose(ONE, evidence(ng, ok), Wish(0.05, max_overkill=0.05))[0].rules[0]
    assert rule.review == pytest.approx(ng[1, 0], abs=2e-6) and rule.threshold == pytest.approx(ok[-2, 0], abs=2e-6)
    assert rule.threshold > ok[-2, 0]
    apart = choose(ONE, evidence(ng, ok / 10), Wish(0.05, max_overkill=0.05))[0].rules[0]
    assert apart.review is None and apart.threshold == pytest.approx(ng[1, 0], abs=2e-6)  # no zone where none is needed


def test_the_thresholds_of_a_starting_plan_are_offsets():
    start = Plan(TWO.names, (ClassRule(0.5), ClassRule(0.2)))
    scores = np.random.default_rng(3).uniform(0.1, 0.9, (93, 2))
    rules = choose(start, evidence(scores), Wish(0.05))[0].rules
    odds = [rule.threshold / (1 - rule.threshold) for rule in rules]
    assert odds[0] / odds[1] == pytest.approx(1 / 0.25, rel=1e-3)
    passed = (scores[:, 0] < rules[0].threshold) & (scores[:, 1] < rules[1].threshold)
    assert passed.sum() == 1


def test_classes_that_do_not_count_get_no_threshold():
    plan = Plan(TWO.names, (ClassRule(), ClassRule(severity="none")))
    scores = np.stack([np.full(59, 0.5), np.full(59, 0.9)], axis=1)
    rules = choose(plan, evidence(scores), Wish(0.05))[0].rules
    assert rules[0].threshold == pytest.approx(0.5, abs=2e-6) and rules[1].threshold is None


@pytest.mark.parametrize(
    ("ng", "wish", "message"),
    [
        (np.full((120, 1), 0.5), Wish(0.01), "expected at least 299 NG images (at 0.95 confidence, without a miss), got 120; 2.47 % is the "
         "best that these can promise: collect more, or accept --max-escape 0.0247"),
        (np.zeros((0, 1)), Wish(0.01), "expected at least 299 NG images (at 0.95 confidence, without a miss), got none"),
        (np.concatenate([np.zeros((2, 1)), np.full((298, 1), 0.5)]), Wish(0.01), "in 2 of 300 none counts at any threshold under the plan's "
         "rules; with so many misses 628 NG images are needed"),
        (np.full((300, 1), 0.5), Wish(0.01, max_overkill=0.05), "--max-overkill 0.05: expected at least 59 OK images"),
        (np.full((300, 1), 0.5), Wish(0.01, method=PER_CLASS), None),
    ],
)  # fmt: skip
def test_too_few_units_are_refused_with_the_number_needed(ng, wish, message):
    if message is None:
        assert choose(ONE, evidence(ng), wish)[1] == 0
        return
    with pytest.raises(UserError) as told:
        choose(ONE, evidence(ng), wish)
    assert message in str(told.value) and "\n" not in str(told.value)


def test_a_set_without_ok_images_is_refused():
    with pytest.raises(UserError, match=r"expected OK images \(without labels\) too, got none among 300"):
        choose(ONE, evidence(np.full((300, 1), 0.5), np.zeros((0, 1))), Wish(0.01))


def test_the_best_promise_that_is_named_is_kept_when_asked_for():
    assert choose(ONE, evidence(np.full((120, 1), 0.5)), Wish(0.0247))[1] == 0


def test_a_class_with_too_few_units_is_named():
    with pytest.raises(UserError, match="NG images of class 'pit'"):
        choose(TWO, evidence(np.full((300, 2), 0.5)), Wish(0.05, method=PER_CLASS))


def test_images_of_one_part_are_one_unit():
    def image(name: str, group: str, score: float, labelled: bool) -> Image:
        box = Found(np.array([[0.0, 0, 5, 5]]), np.array([score]), np.array([0]))
        label = Found(*(part[: int(labelled)] for part in (box.boxes_xyxy, np.ones(1), box.classes)))
        return Image(name, 9, 9, label, box, group)

    got = gather(ONE, [image("a", "p", 0.2, True), image("b", "q", 0.3, False), image("c", "p", 0.9, False)], "part")
    assert got.names == ("p", "q") and got.of.tolist() == [0, 1, 0]
    assert got.scores.tolist() == [[0.9], [0.3]] and got.ng.tolist() == [True, False]
    with pytest.raises(UserError, match=r"NG units \(images of one part\)"):
        choose(ONE, got, Wish(0.05))
    with pytest.raises(UserError, match="OK units"):
        choose(ONE, gather(ONE, [image("a", "p", 0.2, True)], "part"), Wish(0.05))


@pytest.mark.parametrize(("units", "rate"), [(512, 0.01), (1024, 0.02), (256, 0.05)])
def test_mapie_chooses_the_same_threshold(units, rate):
    """Numbers of units are powers of 2: MAPIE 1.6 rounds n (1 - recall) up, 1.0000000000000002 misses to 2."""
    controllers = pytest.importorskip("mapie.risk_control", reason="MAPIE is not installed; it is an oracle for this test only")
    rng = np.random.default_rng(5)
    ng, ok = rng.beta(4, 2, units), rng.beta(2, 6, 200)
    scores, labels = np.concatenate([ng, ok])[:, None], np.repeat([1, 0], [units, 200])
    candidates = np.sort(ng)[:60]  # the most careful first
    controller = controllers.BinaryClassificationController(
        lambda x: np.concatenate([1 - x, x], axis=1), controllers.recall, target_level=1 - rate, confidence_level=0.95,
        list_predict_params=candidates, fwer_method="fixed_sequence",
    )  # fmt: skip
    controller.calibrate(scores, labels)
    ours = choose(ONE, evidence(ng[:, None]), Wish(rate))[0].rules[0].threshold
    assert ours == pytest.approx(np.max(controller.valid_predict_params), abs=2e-6)
    assert len(controller.valid_predict_params) == allowed_misses(units, rate, 0.05) + 1
