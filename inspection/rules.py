"""From the boxes of an image to its verdict, by a plan: which boxes count, the score of each class, OK, NG or REVIEW."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from math import isfinite

import numpy as np

from cfg.errors import UserError
from inspection.plan import PIXELS, Plan
from inspection.regions import looked_at

FEW = 4  # boxes whose place is looked at first
LEAST = np.finfo(float).min  # of margins that are numbers
NOTHING = "no box counts"  # the rule of an image in which nothing was found
NO_NUMBERS = "the network's output has values that are no numbers"  # suppression would drop these, and leave an image without boxes


class Code(IntEnum):
    """The verdict on an image or part, as OPC 40001-101's `ResultEvaluationEnum`; REVIEW is its "not decidable"."""

    UNDEFINED = 0
    OK = 1
    NG = 2
    REVIEW = 3


@dataclass(frozen=True)
class Found:
    """The boxes that a detector found in one image: `boxes_xyxy` (N, 4) pixels, `scores` (N,) 0 to 1, `classes` (N,) indices."""

    boxes_xyxy: np.ndarray
    scores: np.ndarray
    classes: np.ndarray


@dataclass(frozen=True)
class Verdict:
    """What was decided about an image.

    Attributes:
        code: OK, NG, REVIEW, or UNDEFINED where nothing could be decided; never OK by default.
        rule: the rule that decided, in words.
        score: of the class that decided (`class_scores`), for OK the one that is nearest to its limit; 0 without a box that counts.
        boxes: (M,) indices of the boxes that are at or above the limit of their class.
        class_index: the class that decided, -1 for none.
    """

    code: Code
    rule: str
    score: float = 0.0
    boxes: np.ndarray = field(default_factory=lambda: np.zeros(0, dtype=int))
    class_index: int = -1


def undefined(reason: str) -> Verdict:
    """The verdict on an image that could not be looked at."""
    return Verdict(Code.UNDEFINED, reason)


def counted(plan: Plan, found: Found, height: int, width: int) -> np.ndarray:
    """Which boxes (N,) count under the plan: their class, size and place.

    Args:
        plan: with or without thresholds.
        found: boxes in pixels of the image.
        height, width: of the image in pixels.
    """
    found, keep = _plain(found), np.zeros(len(found.scores), dtype=bool)
    keep[_counting(plan, found, _of_counting_classes(plan, found), height, width)] = True
    return keep


def _of_counting_classes(plan: Plan, found: Found) -> np.ndarray:
    """The boxes (M,) of classes that count."""
    rows: np.ndarray = plan.counting[found.classes].nonzero()[0]
    return rows


def _counting(plan: Plan, found: Found, rows: np.ndarray, height: int, width: int) -> np.ndarray:
    """Those of `rows` (M,), of classes that count, whose size and place count. The place costs most: it is asked last, of the fewest."""
    if plan.has_sizes and len(rows):
        boxes, classes = found.boxes_xyxy.take(rows, axis=0).T, found.classes.take(rows)
        wide, high = np.maximum(boxes[2:] - boxes[:2], 0) * plan.mm_per_pixel
        large = np.hypot(wide, high) >= plan.min_lengths.take(classes)
        large &= wide * high >= plan.min_areas.take(classes)
        rows = rows[large]
    if plan.has_regions and len(rows):
        rows = rows[looked_at(plan.regions, found.boxes_xyxy.take(rows, axis=0), height, width)]
    return rows


def class_scores(plan: Plan, found: Found, height: int, width: int) -> np.ndarray:
    """The score (K,) of each class in an image: the highest of the boxes that count, 0 without one.

    With a `max_count` of m it is the (m + 1)-th highest: an image is NG from that score on. Args as `counted`.
    """
    found = _plain(found)
    return _best(plan, found, _counting(plan, found, _of_counting_classes(plan, found), height, width))


def _plain(found: Found) -> Found:
    """The same with float64 scores and whole-number classes."""
    return Found(np.asarray(found.boxes_xyxy), np.asarray(found.scores, dtype=float), np.asarray(found.classes, dtype=int))


def _best(plan: Plan, found: Found, rows: np.ndarray) -> np.ndarray:
    """`class_scores` where only the boxes of `rows` (M,) count."""
    scores, classes = found.scores[rows], found.classes[rows]
    best = np.zeros(len(plan.rules))
    np.maximum.at(best, classes, scores)
    for index in plan.counts:
        own, most = scores[classes == index], plan.rules[index].max_count
        best[index] = np.sort(own)[-1 - most] if len(own) > most else 0.0
    return best


def decide(plan: Plan, found: Found, height: int, width: int) -> Verdict:
    """Decide about one image.

    Args:
        plan: with a threshold for every class that counts.
        found: boxes in pixels of the image, at least those with scores from `Plan.lowest` on.
        height, width: of the image in pixels.

    Raises:
        UserError: the plan lacks thresholds.
    """
    if not plan.complete:
        raise UserError("decision plan: expected a threshold for every class, got a plan without; choose them with val.py --decide")
    if fault := _fault(plan, found, height, width):
        return undefined(fault)
    if not len(found.scores):
        return Verdict(Code.OK, NOTHING)
    found = _plain(found)
    for code, limits in ((Code.NG, plan.thresholds), (Code.REVIEW, plan.review_limits))[: 1 + plan.has_review]:
        rows = (found.scores >= limits.take(found.classes)).nonzero()[0]
        if len(rows) and len(rows := _counting(plan, found, rows, height, width)):
            best = _best(plan, found, rows)
            if reached := (best >= limits).nonzero()[0].tolist():
                return _against(plan, code, limits, reached, best, found, rows)
    best = _best(plan, found, _clearest(plan, found, height, width))
    nearest = int(np.where(best > 0, best - plan.review_limits, -np.inf).argmax())
    if not best[nearest]:
        return Verdict(Code.OK, NOTHING)
    words = f"{plan.shown_names[nearest]} {best[nearest]:.4g} < {plan.review_limits[nearest]:.4g}"
    return Verdict(Code.OK, words, float(best[nearest]), class_index=nearest)


def _clearest(plan: Plan, found: Found, height: int, width: int) -> np.ndarray:
    """The boxes that count of an image in which none reaches its limit; may leave out all that are farther below it than one that counts."""
    if plan.has_regions and not plan.counts and len(found.scores) > FEW:
        margins = found.scores - plan.review_limits.take(found.classes)  # -inf for classes that do not count
        margins[margins >= 0] = -np.inf  # these were asked for, and do not count
        few = (margins >= max(np.partition(margins, -FEW)[-FEW], LEAST)).nonzero()[0]
        if len(rows := _counting(plan, found, few, height, width)):
            return rows
    return _counting(plan, found, _of_counting_classes(plan, found), height, width)


def _against(plan: Plan, code: Code, limits: np.ndarray, reached: list[int], best: np.ndarray, found: Found,
             rows: np.ndarray) -> Verdict:  # fmt: skip
    """The verdict on an image in which the classes `reached` are at their limits by boxes of `rows`: the most severe class, then the
    clearest, is named.
    """
    first = min(reached, key=lambda c: (plan.ranks[c], limits[c] - best[c]))
    name, score, limit = plan.shown_names[first], float(best[first]), float(limits[first])
    words = f"{name} {score:.4g} >= {limit:.4g}"
    if not plan.counts:  # then each of these boxes is of a class that is reached
        return Verdict(code, words, score, rows, first)
    classes = found.classes[rows]
    if most := plan.rules[first].max_count:
        words = f"{int((classes == first).sum())} {name} >= {limit:.4g}, at most {most} allowed"
    return Verdict(code, words, score, rows[np.isin(classes, reached)], first)


def _fault(plan: Plan, found: Found, height: int, width: int) -> str:
    """Why an image cannot be decided about; nothing where it can."""
    regions = plan.regions
    if regions.unit == PIXELS and (width, height) != (regions.width, regions.height):
        return f"image of {width} x {height} pixels, the plan's regions are for {regions.width} x {regions.height}"
    if not (_finite(found.scores) and _finite(found.boxes_xyxy)):
        return "scores or boxes that are no numbers"
    return ""


def _finite(values: np.ndarray) -> bool:
    """Whether all are numbers; a sum of squares that is one tells it in a fifth of the time."""
    return isfinite(np.vdot(values, values)) or bool(np.isfinite(values).all())
