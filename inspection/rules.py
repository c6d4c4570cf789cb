"""From the boxes of an image to its verdict, by a plan: which boxes count, the score of each class, OK, NG or REVIEW."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum

import numpy as np

from cfg.class_names import shown
from cfg.errors import UserError
from inspection.plan import PIXELS, SEVERITIES, Plan
from inspection.regions import looked_at

FEW = 8  # boxes whose place is looked at first
NOTHING = "no box counts"  # the rule of an image in which nothing was found


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
        score: of the class that decided (`class_scores`); for OK the highest of all; 0 without a box that counts.
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
    keep = _large_enough(plan, found)
    if plan.has_regions:
        keep &= looked_at(plan.regions, found.boxes_xyxy, height, width)
    return keep


def _large_enough(plan: Plan, found: Found) -> np.ndarray:
    """Which boxes (N,) count by class and size."""
    classes = np.asarray(found.classes, dtype=int)
    keep: np.ndarray = plan.counting[classes]
    if plan.has_sizes:
        sides = (found.boxes_xyxy[:, 2:] - found.boxes_xyxy[:, :2]).clip(min=0) * plan.mm_per_pixel
        keep &= np.hypot(sides[:, 0], sides[:, 1]) >= plan.min_lengths[classes]
        keep &= sides[:, 0] * sides[:, 1] >= plan.min_areas[classes]
    return keep


def _deciding(plan: Plan, found: Found, height: int, width: int) -> np.ndarray:
    """As `counted`, but may leave out boxes that change no verdict: below their limits and below one that counts.

    Where a box lies is the dear question. It is asked of the boxes at their limits and of the clearest of the others, and of all
    only if none of these counts.
    """
    keep = _large_enough(plan, found)
    if not plan.has_regions:
        return keep
    rows = np.flatnonzero(keep)
    if len(rows) > FEW and not plan.counts:
        margins = found.scores[rows] - plan.review_limits[np.asarray(found.classes, dtype=int)[rows]]
        asked = rows[margins >= min(0.0, np.partition(margins, -FEW)[-FEW])]
        there = looked_at(plan.regions, found.boxes_xyxy[asked], height, width)
        if there.any():
            keep[:] = False
            keep[asked[there]] = True
            return keep
    keep &= looked_at(plan.regions, found.boxes_xyxy, height, width)
    return keep


def class_scores(plan: Plan, found: Found, height: int, width: int) -> np.ndarray:
    """The score (K,) of each class in an image: the highest of the boxes that count, 0 without one.

    With a `max_count` of m it is the (m + 1)-th highest: an image is NG from that score on. Args as `counted`.
    """
    return _best(plan, found, counted(plan, found, height, width))


def _best(plan: Plan, found: Found, keep: np.ndarray) -> np.ndarray:
    scores, classes = np.asarray(found.scores, dtype=float)[keep], np.asarray(found.classes, dtype=int)[keep]
    best = np.zeros(len(plan.rules))
    np.maximum.at(best, classes, scores)
    if plan.counts:
        there = np.bincount(classes, minlength=len(best))
        for index in plan.counts:
            most = plan.rules[index].max_count
            best[index] = np.sort(scores[classes == index])[-1 - most] if there[index] > most else 0.0
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
    keep = _deciding(plan, found, height, width)
    best = _best(plan, found, keep)
    for code, limits in ((Code.NG, plan.thresholds), (Code.REVIEW, plan.review_limits)):
        over = best >= limits
        if over.any():
            return _against(plan, code, limits, over, best, found, keep)
    nearest = int(np.argmax(np.where(plan.counting, best - plan.review_limits, -np.inf)))
    if not best[nearest]:
        return Verdict(Code.OK, NOTHING)
    words = f"{shown(plan.names[nearest])} {best[nearest]:.4g} < {plan.review_limits[nearest]:.4g}"
    return Verdict(Code.OK, words, float(best[nearest]), class_index=nearest)


def _against(plan: Plan, code: Code, limits: np.ndarray, over: np.ndarray, best: np.ndarray, found: Found,
             keep: np.ndarray) -> Verdict:  # fmt: skip
    """The verdict on an image in which the classes `over` (K,) reach their limits: the most severe, then the clearest, is named."""
    first = min(np.flatnonzero(over).tolist(), key=lambda c: (SEVERITIES.index(plan.rules[c].severity), limits[c] - best[c]))
    classes = np.asarray(found.classes, dtype=int)
    deciding = np.flatnonzero(keep & over[classes] & (found.scores >= limits[classes]))
    name, most = shown(plan.names[first]), plan.rules[first].max_count
    words = f"{name} {best[first]:.4g} >= {limits[first]:.4g}"
    if most:
        words = f"{int((classes[deciding] == first).sum())} {name} >= {limits[first]:.4g}, at most {most} allowed"
    return Verdict(code, words, float(best[first]), deciding, first)


def _fault(plan: Plan, found: Found, height: int, width: int) -> str:
    """Why an image cannot be decided about; nothing where it can."""
    regions = plan.regions
    if regions.unit == PIXELS and (width, height) != (regions.width, regions.height):
        return f"image of {width} x {height} pixels, the plan's regions are for {regions.width} x {regions.height}"
    if not np.isfinite(found.scores).all() or not np.isfinite(found.boxes_xyxy).all():
        return "scores or boxes that are no numbers"
    return ""
