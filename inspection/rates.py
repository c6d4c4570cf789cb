"""Escapes and overkills of a labelled set under a plan: counts with intervals, by class, and as curves over the threshold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from inspection.binomial import interval
from inspection.boxes import iou
from inspection.evidence import Evidence, Image
from inspection.plan import Plan
from inspection.promise import expit, joint, logit
from inspection.rules import Code, Verdict, decide

MEETS = 0.1  # IoU from which a box is at the place of a label: a piece of a long scratch is, a box around the part is not
POINTS = 200  # most points of a curve
BINS = 20
WORST_FIRST = (Code.NG, Code.REVIEW, Code.UNDEFINED, Code.OK)


@dataclass(frozen=True)
class Outcomes:
    """What a plan decides about a set.

    `verdicts` of each image; `codes` (U,) of each unit, the worst of its images; `placed` (U,) whether a box that decided meets
    a label of the unit.
    """

    verdicts: tuple[Verdict, ...]
    codes: np.ndarray
    placed: np.ndarray


def judge(plan: Plan, evidence: Evidence) -> Outcomes:
    """Decide about every image and unit of a set. Raises `UserError` where the plan lacks thresholds."""
    verdicts = tuple(decide(plan, image.found, image.height, image.width) for image in evidence.images)
    ranks = np.full(len(evidence.names), len(WORST_FIRST) - 1)
    placed = np.zeros(len(evidence.names), dtype=bool)
    for unit, image, verdict in zip(evidence.of, evidence.images, verdicts, strict=True):
        ranks[unit] = min(ranks[unit], WORST_FIRST.index(verdict.code))
        placed[unit] |= meets(image, verdict)
    return Outcomes(verdicts, np.array([WORST_FIRST[rank] for rank in ranks], dtype=int), placed)


def meets(image: Image, verdict: Verdict) -> bool:
    """Whether a box that decided lies at the place of a label, of whatever class."""
    boxes = image.found.boxes_xyxy[verdict.boxes]
    return bool(len(boxes) and len(image.labels.boxes_xyxy)) and bool(iou(boxes, image.labels.boxes_xyxy).max() >= MEETS)


def rates(plan: Plan, evidence: Evidence, outcomes: Outcomes, confidence: float = 0.95) -> dict[str, Any]:
    """Rates of a set under a plan, each with its two-sided Clopper-Pearson interval.

    Returns:
        ``escape`` (NG units that pass as OK), ``overkill`` (OK units that are rejected), ``review_ng``, ``review_ok`` (left to a
        person), ``flagged`` (NG units that do not pass) and ``flagged_at_the_right_place``, each {count, of, rate, interval};
        ``undefined``; ``per_class``: {name, escape (of the units with a defect of the class), overkill (rejected by the class)}.
    """
    ng, codes = evidence.ng, outcomes.codes

    def rate(of: np.ndarray, happened: np.ndarray) -> dict[str, Any]:
        return share(int((of & happened).sum()), int(of.sum()), confidence)

    by = _deciders(evidence, outcomes)
    passed, rejected = codes == Code.OK, codes == Code.NG
    per_class = [
        {"class": c, "name": plan.names[c], "escape": rate(evidence.defects[:, c], passed), "overkill": rate(~ng, rejected & (by == c))}
        for c in np.flatnonzero(plan.counting).tolist()
    ]
    return {
        "unit": evidence.unit, "units": len(codes), "images": len(evidence.images), "confidence": confidence,
        "escape": rate(ng, passed), "overkill": rate(~ng, rejected),
        "review_ng": rate(ng, codes == Code.REVIEW), "review_ok": rate(~ng, codes == Code.REVIEW),
        "flagged": rate(ng, ~passed), "flagged_at_the_right_place": rate(ng, ~passed & outcomes.placed),
        "undefined": int((codes == Code.UNDEFINED).sum()), "per_class": per_class,
    }  # fmt: skip


def share(count: int, of: int, confidence: float) -> dict[str, Any]:
    """A rate with its interval; None for both where there is nothing to count among."""
    bounds = list(interval(count, of, confidence)) if of else None
    return {"count": count, "of": of, "rate": count / of if of else None, "interval": bounds}


def _deciders(evidence: Evidence, outcomes: Outcomes) -> np.ndarray:
    """The class (U,) that decided about each unit, in its first image with the unit's verdict; -1 for none."""
    by = np.full(len(outcomes.codes), -1)
    for unit, verdict in zip(evidence.of[::-1], outcomes.verdicts[::-1], strict=True):
        if verdict.code == outcomes.codes[unit]:
            by[unit] = verdict.class_index
    return by


def equivalent_scores(plan: Plan, scores: np.ndarray) -> np.ndarray:
    """One score (U,) for each unit, to be compared with the lowest threshold of all classes: the score itself where all are alike."""
    own = plan.thresholds[plan.counting]
    if (own == own[0]).all():
        best: np.ndarray = scores[:, plan.counting].max(1)
        return best
    limits, common = np.where(plan.counting, plan.thresholds, 0.5), logit(own.min())
    return np.where((scores > 0).any(1), expit(joint(plan, scores, logit(limits)) + common), 0.0)


def curve(plan: Plan, evidence: Evidence, confidence: float = 0.95) -> list[dict[str, Any]]:
    """Escape and overkill rates, with intervals, were all thresholds moved together (in logits): one point for each threshold.

    Each point's ``threshold`` is that of the class with the lowest one; a REVIEW zone is left out.
    """
    scores, ng = equivalent_scores(plan, evidence.scores), evidence.ng
    candidates = np.unique(np.append(scores[scores > 0], plan.thresholds[plan.counting].min()))
    if len(candidates) > POINTS:
        candidates = candidates[np.linspace(0, len(candidates) - 1, POINTS).round().astype(int)]
    points = []
    for threshold in candidates.tolist():
        passed = scores < threshold
        escape, overkill = int((ng & passed).sum()), int((~ng & ~passed).sum())
        points.append({"threshold": threshold, "escape": share(escape, int(ng.sum()), confidence),
                       "overkill": share(overkill, int((~ng).sum()), confidence)})  # fmt: skip
    return points


def histogram(plan: Plan, evidence: Evidence) -> dict[str, list[float]]:
    """Numbers of OK and NG units by equivalent score: ``edges`` (B + 1), ``ok`` and ``ng`` (B,)."""
    scores = equivalent_scores(plan, evidence.scores)
    edges = np.linspace(0, 1, BINS + 1)
    ok, ng = (np.histogram(scores[chosen], edges)[0].tolist() for chosen in (~evidence.ng, evidence.ng))
    return {"edges": edges.tolist(), "ok": ok, "ng": ng}


def confusion(plan: Plan, images: Sequence[Image], least_iou: float = 0.5) -> np.ndarray:
    """How labels (rows) and boxes at or above the classes' limits (columns) meet, (K + 1, K + 1); the last is "none".

    The most confident box takes the label that it overlaps most, whatever its class, from an IoU of `least_iou` on.
    """
    k = len(plan.rules)
    table = np.zeros((k + 1, k + 1), dtype=int)
    for image in images:
        found, labels = image.found, image.labels
        chosen = np.flatnonzero(found.scores >= plan.review_limits[found.classes.astype(int)])
        chosen = chosen[np.argsort(-found.scores[chosen], kind="stable")]
        overlap = iou(found.boxes_xyxy[chosen], labels.boxes_xyxy)
        free = np.ones(len(labels.classes), dtype=bool)
        for row, box in enumerate(chosen):
            left = np.where(free, overlap[row], 0.0) if len(free) else np.zeros(1)
            best = int(left.argmax())
            hit = left[best] >= least_iou
            table[int(labels.classes[best]) if hit else k, int(found.classes[box])] += 1
            if hit:
                free[best] = False
        np.add.at(table[:, k], labels.classes[free].astype(int), 1)
    return table
