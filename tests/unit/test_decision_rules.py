"""From boxes to a verdict: hand-worked cases of every rule."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from cfg import UserError
from inspection.plan import ClassRule, Plan, Regions
from inspection.regions import looked_at
from inspection.rules import Code, Found, class_scores, counted, decide, undefined

HEIGHT, WIDTH = 60, 100
PLAN = Plan(("scratch", "pit"), (ClassRule(0.5), ClassRule(0.4, review=0.2)))


def found(*rows: tuple[float, float, float, float, float, int]) -> Found:
    """Boxes from rows of x1, y1, x2, y2, score, class."""
    table = np.array(rows, dtype=float).reshape(-1, 6)
    return Found(table[:, :4], table[:, 4], table[:, 5].astype(int))


def box(score: float, kind: int, x: float = 10, y: float = 10, width: float = 10, height: float = 10):
    return (x, y, x + width, y + height, score, kind)


def verdict(plan: Plan, *rows):
    return decide(plan, found(*rows), HEIGHT, WIDTH)


@pytest.mark.parametrize(
    ("rows", "code", "rule", "score", "boxes"),
    [
        ([], Code.OK, "no box counts", 0.0, []),
        ([box(0.49, 0)], Code.OK, "scratch 0.49 < 0.5", 0.49, []),
        ([box(0.5, 0)], Code.NG, "scratch 0.5 >= 0.5", 0.5, [0]),
        ([box(0.1, 0), box(0.2, 1)], Code.REVIEW, "pit 0.2 >= 0.2", 0.2, [1]),
        ([box(0.3, 1), box(0.9, 0), box(0.6, 0)], Code.NG, "scratch 0.9 >= 0.5", 0.9, [1, 2]),
        ([box(0.9, 1), box(0.6, 0)], Code.NG, "pit 0.9 >= 0.4", 0.9, [0, 1]),  # of two, the one farther above its threshold
    ],
)
def test_verdicts(rows, code, rule, score, boxes):
    got = verdict(PLAN, *rows)
    assert (got.code, got.rule, got.score, got.boxes.tolist()) == (code, rule, score, boxes)


def test_the_clearest_class_of_an_ok_image_has_a_box():
    """Not one without any, however low its limit is."""
    plan = Plan(PLAN.names, (ClassRule(0.2), ClassRule(0.9)))
    got = verdict(plan, box(0.5, 1))
    assert (got.code, got.rule, got.score, got.class_index) == (Code.OK, "pit 0.5 < 0.9", 0.5, 1)


def test_codes_are_those_of_the_companion_specification():
    assert {code.name: int(code) for code in Code} == {"UNDEFINED": 0, "OK": 1, "NG": 2, "REVIEW": 3}


def test_the_most_severe_class_is_named_first():
    plan = Plan(PLAN.names, (ClassRule(0.5, severity="critical"), ClassRule(0.4)))
    got = verdict(plan, box(0.9, 1), box(0.5, 0))
    assert got.rule == "scratch 0.5 >= 0.5" and got.class_index == 0


def test_a_class_of_severity_none_never_counts():
    plan = Plan(PLAN.names, (ClassRule(severity="none"), ClassRule(0.4)))
    assert verdict(plan, box(1.0, 0)).code == Code.OK


def test_more_boxes_than_allowed():
    plan = Plan(PLAN.names, (ClassRule(0.5), ClassRule(0.4, max_count=2)))
    two = [box(0.9, 1), box(0.8, 1, x=40)]
    assert verdict(plan, *two).code == Code.OK and verdict(plan, *two, box(0.39, 1, x=60)).code == Code.OK
    got = verdict(plan, *two, box(0.4, 1, x=60))
    assert (got.code, got.rule, got.score) == (Code.NG, "3 pit >= 0.4, at most 2 allowed", 0.4)
    assert class_scores(plan, found(*two, box(0.4, 1)), HEIGHT, WIDTH).tolist() == [0.0, 0.4]


def test_a_box_counts_by_its_diagonal_and_its_area():
    plan = Plan(PLAN.names, (ClassRule(0.5, min_length_mm=5), ClassRule(0.4, min_area_mm2=12)), mm_per_pixel=0.1)
    rows = [box(0.9, 0, width=30, height=40), box(0.9, 0, width=30, height=39),  # 3-4-5
            box(0.9, 1, width=30, height=40), box(0.9, 1, width=30, height=39)]  # fmt: skip
    assert counted(plan, found(*rows), HEIGHT, WIDTH).tolist() == [True, False, True, False]


SQUARE = ((0.2, 0.2), (0.6, 0.2), (0.6, 0.8), (0.2, 0.8))  # 20..60 x 12..48 pixels
PLACES = {"inside": (30, 20), "across": (15, 20), "outside": (70, 20), "touching": (60, 20), "around": (10, 5)}


@pytest.mark.parametrize(
    ("part", "kept"),
    [("look_at", {"inside", "across", "around"}), ("leave_out", {"across", "outside", "touching", "around"})],
)
def test_what_is_partly_in_a_region_is_looked_at(part, kept):
    rows = [box(0.9, 0, *place, **({"width": 80, "height": 50} if name == "around" else {})) for name, place in PLACES.items()]
    plan = replace(PLAN, regions=Regions(**{part: (SQUARE,)}))
    assert counted(plan, found(*rows), HEIGHT, WIDTH).tolist() == [name in kept for name in PLACES]
    pixels = tuple((x * WIDTH, y * HEIGHT) for x, y in SQUARE)
    same = replace(PLAN, regions=Regions("pixels", **{part: (pixels,)}, width=WIDTH, height=HEIGHT))
    assert counted(same, found(*rows), HEIGHT, WIDTH).tolist() == [name in kept for name in PLACES]


def test_a_region_that_is_not_convex():
    horseshoe = ((0, 0), (1, 0), (1, 1), (0.8, 1), (0.8, 0.2), (0.2, 0.2), (0.2, 1), (0, 1))
    plan = replace(PLAN, regions=Regions(leave_out=(horseshoe,)))
    rows = [box(0.9, 0, x=5, y=30), box(0.9, 0, x=45, y=30), box(0.9, 0, x=45, y=1)]
    assert counted(plan, found(*rows), HEIGHT, WIDTH).tolist() == [False, True, False]


def lies(polygon: np.ndarray, box: np.ndarray) -> tuple[bool, bool]:
    """Whether the box's centre is inside the polygon, and whether an edge runs through the box: edge by edge."""
    (x1, y1, x2, y2), inside, crossed = box.tolist(), False, False
    x, y, reach_x, reach_y = (x1 + x2) / 2, (y1 + y2) / 2, (x2 - x1) / 2, (y2 - y1) / 2
    for (ax, ay), (bx, by) in zip(polygon.tolist(), np.roll(polygon, -1, axis=0).tolist(), strict=True):
        if (ay > y) != (by > y) and ax + (y - ay) * ((bx - ax) / (by - ay)) > x:
            inside = not inside
        meets = min(ax, bx) < x2 and max(ax, bx) > x1 and min(ay, by) < y2 and max(ay, by) > y1
        apart = abs((bx - ax) * (y - ay) - (by - ay) * (x - ax)) >= abs(bx - ax) * reach_y + abs(by - ay) * reach_x
        crossed |= meets and not apart
    return inside, crossed


@pytest.mark.parametrize("scale", [1, 200])
@pytest.mark.parametrize("seed", range(4))
def test_places_are_those_of_the_plain_definition(seed: int, scale: int) -> None:
    """Every box against every edge, many at once and one by one; corners and boxes on a grid too, where edges touch sides and corners."""
    rng = np.random.default_rng(seed)
    height, width = HEIGHT * scale, WIDTH * scale
    for _ in range(5):
        drawn = [rng.uniform(-0.1, 1.1, (count, 2)) if seed % 2 else rng.integers(0, 11, (count, 2)) / 10 for count in (5, 3, 7, 4)]
        look_at, leave_out = drawn[: rng.integers(0, 3)], drawn[2:]
        polygons = {"look_at": look_at, "leave_out": leave_out}
        regions = Regions(**{part: tuple(tuple(map(tuple, p.tolist())) for p in given) for part, given in polygons.items()})
        corners = rng.uniform(-5, 95, (25, 2)) if seed < 2 else rng.integers(0, 10, (25, 2)) * (10.0, 6.0)
        boxes = np.hstack([corners, corners + rng.choice([0.0, 6.0, 30.0], (25, 2))]) * scale
        boxes = boxes.astype(rng.choice([np.float32, np.float64]))
        want = []
        for box in boxes:
            places = {part: [lies(p * (width, height), box) for p in given] for part, given in polygons.items()}
            wanted = not look_at or any(inside or crossed for inside, crossed in places["look_at"])
            want.append(wanted and not any(inside and not crossed for inside, crossed in places["leave_out"]))
        assert looked_at(regions, boxes, height, width).tolist() == want
        assert [bool(looked_at(regions, box[None], height, width)[0]) for box in boxes] == want


def test_a_box_that_rounding_could_move_over_a_border_is_compared_exactly() -> None:
    """A thousandth of a pixel in 20,000 is beyond single precision, in which many boxes are looked at."""
    half = Regions(look_at=(((0, 0), (0.5, 0), (0.5, 1), (0, 1)),))
    x1 = 10_000 + np.array([-1e-3, -1e-9, 0.0, 1e-9, 1e-3] * 20)
    boxes = np.column_stack([x1, np.full(100, 50.0), x1 + 100, np.full(100, 90.0)])
    assert looked_at(half, boxes, 20_000, 20_000).tolist() == [True, True, False, False, False] * 20


def test_regions_in_pixels_of_another_size_decide_nothing():
    plan = replace(PLAN, regions=Regions("pixels", look_at=(((0, 0), (5, 0), (5, 5)),), width=10, height=10))
    got = verdict(plan)
    assert got.code == Code.UNDEFINED and "100 x 60" in got.rule and "10 x 10" in got.rule


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_scores_that_are_no_numbers_decide_nothing(value):
    assert verdict(PLAN, box(value, 0)).code == Code.UNDEFINED


def test_an_unreadable_image_is_not_ok():
    assert undefined("truncated").code == Code.UNDEFINED


def test_a_plan_without_thresholds_decides_nothing():
    with pytest.raises(UserError, match="expected a threshold for every class"):
        verdict(Plan(PLAN.names, (ClassRule(0.5), ClassRule())))


@pytest.mark.parametrize("seed", range(4))
def test_many_boxes_in_regions_are_decided_as_if_each_was_looked_at(seed):
    """The place of most boxes is not asked for; the verdict is that of all of them."""
    rng = np.random.default_rng(seed)
    star = tuple((0.5 + 0.4 * np.cos(angle), 0.5 + 0.4 * np.sin(angle)) for angle in rng.uniform(0, 6.28, 7))
    for _ in range(40):
        plan = Plan(PLAN.names, (ClassRule(rng.uniform(0.2, 1)), ClassRule(rng.uniform(0.2, 1), review=0.1)),
                    regions=Regions(look_at=(star,), leave_out=(SQUARE,)))  # fmt: skip
        corners = rng.uniform(0, 0.9, (60, 2)) * (WIDTH, HEIGHT)
        boxes = np.hstack([corners, corners + rng.uniform(1, 12, (60, 2))])
        many = Found(boxes, rng.uniform(0, 1, 60) ** 2, rng.integers(0, 2, 60))
        best = class_scores(plan, many, HEIGHT, WIDTH)
        want = Code.NG if (best >= plan.thresholds).any() else Code.REVIEW if (best >= plan.review_limits).any() else Code.OK
        got = decide(plan, many, HEIGHT, WIDTH)
        assert got.code == want and got.score == best[got.class_index]
        if want != Code.OK:
            limits = plan.thresholds if want == Code.NG else plan.review_limits
            over = best >= limits
            there = counted(plan, many, HEIGHT, WIDTH) & over[many.classes] & (many.scores >= limits[many.classes])
            assert got.boxes.tolist() == np.flatnonzero(there).tolist()
