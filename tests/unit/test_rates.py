"""Escapes, overkills, curves and comparisons on hand-made sets."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from cfg import UserError
from engine.validation.average_precision import resamples
from inspection.compare import equivalence, mcnemar
from inspection.evidence import Image, gather
from inspection.plan import ClassRule, Plan, Regions
from inspection.promise import Wish, choose
from inspection.rates import confusion, curve, equivalent_scores, histogram, judge, rates
from inspection.rule_checks import check_rules, smallest_labels
from inspection.rules import Code, Found

PLAN = Plan(("scratch", "pit"), (ClassRule(0.5, review=0.3), ClassRule(0.5, review=0.3)))
PLACE, ELSEWHERE = (10, 10, 20, 20), (60, 60, 70, 70)


def boxes(*rows: tuple[tuple, float, int]) -> Found:
    corners = np.array([row[0] for row in rows], dtype=float).reshape(-1, 4)
    return Found(corners, np.array([row[1] for row in rows], dtype=float), np.array([row[2] for row in rows], dtype=int))


def image(name: str, labels: list, found: list, group: str = "") -> Image:
    return Image(name, 100, 100, boxes(*((place, 1.0, kind) for place, kind in labels)), boxes(*found), group)


IMAGES = [
    image("caught", [(PLACE, 0)], [(PLACE, 0.9, 0)]),
    image("caught elsewhere", [(PLACE, 0)], [(ELSEWHERE, 0.8, 1)]),
    image("escape", [(PLACE, 1)], [(PLACE, 0.2, 1)]),
    image("nothing found", [(PLACE, 0), (ELSEWHERE, 1)], []),
    image("to review", [(PLACE, 1)], [(PLACE, 0.4, 1)]),
    image("fine", [], [(PLACE, 0.1, 0)]),
    image("overkill", [], [(PLACE, 0.7, 1)]),
    image("fine, to review", [], [(PLACE, 0.3, 1)]),
    image("empty", [], []),
]


def test_rates_of_a_set():
    evidence = gather(PLAN, IMAGES)
    got = rates(PLAN, evidence, judge(PLAN, evidence))
    counts = {name: (got[name]["count"], got[name]["of"]) for name in
              ("escape", "overkill", "review_ng", "review_ok", "flagged", "flagged_at_the_right_place")}  # fmt: skip
    assert counts == {"escape": (2, 5), "overkill": (1, 4), "review_ng": (1, 5), "review_ok": (1, 4), "flagged": (3, 5),
                      "flagged_at_the_right_place": (2, 5)}  # fmt: skip
    known = stats.binomtest(2, 5).proportion_ci(0.95, method="exact")
    assert got["escape"]["interval"] == pytest.approx([known.low, known.high])
    per_class = [(row["name"], row["escape"]["count"], row["escape"]["of"], row["overkill"]["count"]) for row in got["per_class"]]
    assert per_class == [("scratch", 1, 3, 0), ("pit", 2, 3, 1)]


def test_a_unit_is_as_bad_as_its_worst_image():
    grouped = [replace(one, group=part) for one, part in zip(IMAGES, "aabbccdde", strict=True)]
    evidence = gather(PLAN, grouped, "part")
    outcomes = judge(PLAN, evidence)
    assert [Code(c).name for c in outcomes.codes] == ["NG", "OK", "REVIEW", "NG", "OK"]
    got = rates(PLAN, evidence, outcomes)
    assert (got["escape"]["count"], got["escape"]["of"]) == (1, 3) and got["unit"] == "part" and got["units"] == 5


def test_a_set_without_ok_images_has_no_overkill():
    evidence = gather(PLAN, IMAGES[:3])
    got = rates(PLAN, evidence, judge(PLAN, evidence))["overkill"]
    assert got == {"count": 0, "of": 0, "rate": None, "interval": None}


def test_the_curve_counts_what_a_threshold_does():
    evidence = gather(PLAN, IMAGES)
    scores, ng = evidence.scores.max(1), evidence.ng
    points = curve(PLAN, evidence)
    assert [p["threshold"] for p in points] == pytest.approx(sorted({*scores[scores > 0], 0.5}))
    for point in points:
        t = point["threshold"] - 1e-9
        assert point["escape"]["count"] == (scores[ng] < t).sum() and point["overkill"]["count"] == (scores[~ng] >= t).sum()


def test_equivalent_scores_compare_as_the_classes_do():
    plan = Plan(PLAN.names, (ClassRule(0.5), ClassRule(0.2)))
    scores = np.random.default_rng(0).random((500, 2))
    over = (scores >= [0.5, 0.2]).any(1)
    assert ((equivalent_scores(plan, scores) >= 0.2) == over).all()
    assert equivalent_scores(plan, np.zeros((1, 2))).tolist() == [0.0]


def test_histogram_holds_every_unit():
    got = histogram(PLAN, gather(PLAN, IMAGES))
    assert sum(got["ng"]) == 5 and sum(got["ok"]) == 4 and got["ok"][0] == 1 and got["ng"][18] == 1 and len(got["edges"]) == 21


def test_confusion_of_classes():
    mixed = image("m", [(PLACE, 0), (ELSEWHERE, 1)], [(PLACE, 0.9, 1), (PLACE, 0.8, 0), (ELSEWHERE, 0.1, 1), (PLACE, 0.2, 0)])
    assert confusion(PLAN, [mixed]).tolist() == [[0, 1, 0], [0, 0, 1], [1, 0, 0]]


SMALL = Plan(("scratch",), (ClassRule(0.5, min_length_mm=2.0),), mm_per_pixel=0.1)
SCRATCH = image("s", [(PLACE, 0)], [(PLACE, 0.9, 0)])  # 1.41 mm


def test_a_rule_that_makes_an_escape_is_refused():
    with pytest.raises(UserError, match=r"scratch: min_length_mm 2: .* makes 1 of 1 NG images pass as OK, the first is s"):
        check_rules(SMALL, gather(SMALL, [SCRATCH]))
    told = smallest_labels(SMALL, gather(SMALL, [SCRATCH]))
    assert len(told) == 1 and "1.41 mm" in told[0] and "longer side <= length <= diagonal" in told[0]
    check_rules(replace(SMALL, rules=(ClassRule(0.5, min_length_mm=1.4),)), gather(SMALL, [SCRATCH]))


def test_what_the_specification_allows_is_no_escape():
    plan = replace(SMALL, ng_images="by_rules")
    evidence = gather(plan, [SCRATCH])
    assert not evidence.ng.any()
    check_rules(plan, evidence)


def test_regions_and_counts_that_make_escapes_are_refused():
    corner = ((0.5, 0.5), (1, 0.5), (1, 1), (0.5, 1))
    plan = replace(PLAN, regions=Regions(look_at=(corner,)))
    with pytest.raises(UserError, match="regions: expected a rule"):
        check_rules(plan, gather(plan, [SCRATCH]))
    plan = replace(PLAN, rules=(ClassRule(0.5, max_count=1), ClassRule(0.5)))
    with pytest.raises(UserError, match="max_count 1"):
        check_rules(plan, gather(plan, [SCRATCH]))


def test_an_escape_that_no_rule_made_is_none_of_theirs():
    weak = image("w", [(PLACE, 0)], [(PLACE, 0.2, 0)])
    check_rules(SMALL, gather(SMALL, [weak]))


def test_thresholds_come_from_scores_under_the_rules():
    plan = Plan(("scratch",), (ClassRule(max_count=1),), ng_images="by_rules")
    pair = [(PLACE, 0), (ELSEWHERE, 0)]
    images = [image(str(n), pair, [(PLACE, 0.9, 0), (ELSEWHERE, 0.3 + n / 1000, 0)]) for n in range(59)] + [image("fine", [], [])]
    assert choose(plan, gather(plan, images), Wish(0.05))[0].rules[0].threshold == pytest.approx(0.3, abs=2e-6)


def test_mcnemar_is_the_binomial_test_of_the_flips():
    a = np.array([True] * 12 + [False] * 5 + [True] * 3)
    b = np.array([False] * 9 + [True] * 11)
    got = mcnemar(a, b)
    assert got.harmful == tuple(range(9)) and got.beneficial == tuple(range(12, 17))
    assert got.p_value == pytest.approx(2 * stats.binom.cdf(5, 14, 0.5))
    assert mcnemar(a, a).p_value == 1 and mcnemar(a, a).harmful == ()


@pytest.mark.parametrize(
    ("shift", "spread", "loses_at_most", "equal"),
    [(0.0, 0.004, True, True), (-0.02, 0.004, False, False), (0.02, 0.004, True, False), (0.0, 0.02, False, False)],
)
def test_equal_is_more_than_not_different(shift, spread, loses_at_most, equal):
    drawn = np.random.default_rng(1).normal(shift, spread, 2000)
    got = equivalence(drawn, 0.01)
    assert (got.loses_at_most, got.equal) == (loses_at_most, equal)
    assert got.equal == (got.interval.low > -0.01 and got.interval.high < 0.01)


def test_units_are_drawn_whole():
    of = np.array([0, 0, 1, 2, 2, 2])
    copies = resamples(6, 50, seed=3, of=of)
    assert copies.shape == (50, 6) and (copies[:, 0] == copies[:, 1]).all() and (copies[:, [0, 2, 3]].sum(1) == 3).all()


def test_the_same_images_are_known_under_any_rules():
    """By names and labels: a rule that is added, or other boxes found, make no other images of them."""
    first = gather(PLAN, IMAGES).fingerprint()
    long_ones = replace(PLAN, rules=tuple(replace(rule, min_length_mm=30.0) for rule in PLAN.rules), mm_per_pixel=1.0)
    assert gather(long_ones, IMAGES).fingerprint() == first
    assert gather(PLAN, [replace(one, found=boxes()) for one in IMAGES], "part").fingerprint() == first
    assert gather(PLAN, [replace(IMAGES[0], labels=boxes((PLACE, 1.0, 1))), *IMAGES[1:]]).fingerprint() != first
    assert gather(PLAN, IMAGES[1:]).fingerprint() != first
