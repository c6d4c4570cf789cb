"""Thresholds with a promise: at most a share alpha of NG units passes as OK, at confidence 1 - delta.

Each NG unit of the calibration set has a score s_i. With k* = max{k : BinomCDF(k - 1; n, alpha) <= delta} the threshold is the
k*-th smallest score, and a unit is rejected from that score on. P(escape rate > alpha) <= delta then, exactly, for any distribution
of scores: the rate at s_(k) is at most Beta(k, n - k + 1) distributed (order statistics; ties make it smaller). The escape rate only
rises with the threshold, so that no correction is due for having chosen it (fixed-sequence testing: Angelopoulos, Bates, Candes,
Jordan, Lei, "Learn then test", 2021).

The scores of several classes become one by fixed offsets, s = max over classes of logit p_c - offset_c. Offsets must come from other
images than those that calibrate s; without them the classes share one threshold.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from cfg import UserError
from cfg.class_names import shown
from inspection.binomial import allowed_misses, units_needed, upper_limit
from inspection.evidence import Evidence
from inspection.plan import Plan

JOINT, PER_CLASS = "joint", "per-class"
STEP = 1e-6  # thresholds are written in such steps, rounded to the side that keeps the promise
EDGE = 1e-9  # scores of 0 and 1 have no logit


@dataclass(frozen=True)
class Wish:
    """What is to be promised.

    Attributes:
        max_escape, confidence: alpha and 1 - delta.
        max_overkill: beta, the largest share of OK units that are rejected; None for no such promise, and no REVIEW zone.
        method: JOINT, one scalar for all classes; or PER_CLASS, alpha for each class at delta / K.
    """

    max_escape: float
    confidence: float = 0.95
    max_overkill: float | None = None
    method: str = JOINT

    @property
    def doubt(self) -> float:
        """Delta."""
        return 1 - self.confidence


def choose(plan: Plan, evidence: Evidence, wish: Wish) -> tuple[Plan, int]:
    """The plan with thresholds that keep `wish`, and how many NG units may pass as OK for that.

    Thresholds that the plan has are taken as the classes' offsets with JOINT: only their distances in logits count.

    Raises:
        UserError: there are too few NG or OK units; says how many are needed, and what those at hand can promise.
    """
    ng, ok = evidence.scores[evidence.ng], evidence.scores[~evidence.ng]
    if not len(ok):
        raise UserError(_no_ok(len(ng), evidence.plural))
    if wish.method == PER_CLASS:
        lower, allowed = _per_class(plan, evidence, wish)
    else:
        offsets = _offsets(plan)
        reached, allowed = _from_ng(joint(plan, ng, offsets), wish, wish.doubt, evidence.plural)
        lower = expit(reached + offsets)
    lower = _down(lower)
    if wish.max_overkill is None:
        return _with(plan, lower, None), allowed
    upper = _up(expit(_from_ok(joint(plan, ok, logit(lower)), wish, wish.max_overkill, evidence.plural) + logit(lower)))
    zone = upper > lower
    return _with(plan, np.where(zone, upper, lower), np.where(zone, lower, np.nan)), allowed


def check_counts(ng: int, ok: int | None, wish: Wish, what: str) -> None:
    """Refuse what cannot be promised whatever a model finds, so that none has to look first.

    Args:
        ng: NG units, at most.
        ok: OK units, at most; None where that is not known yet.
        what: plural of the units.

    Raises:
        UserError: as `choose`.
    """
    if allowed_misses(ng, wish.max_escape, wish.doubt) < 0:
        raise UserError(_too_few(ng, 0, wish.max_escape, wish.doubt, what))
    if ok is None:
        return
    if not ok:
        raise UserError(_no_ok(ng, what))
    if wish.max_overkill is not None and allowed_misses(ok, wish.max_overkill, wish.doubt) < 0:
        raise UserError(_too_few_ok(ok, wish, wish.max_overkill, what))


def joint(plan: Plan, scores: np.ndarray, offsets: np.ndarray) -> np.ndarray:
    """Max over the classes that count of logit p_c - offset_c, (U,); -inf for units where nothing was found."""
    shifted = np.where(plan.counting & (scores > 0), logit(scores) - offsets, -np.inf)
    best: np.ndarray = shifted.max(1)
    return best


def logit(p: np.ndarray) -> np.ndarray:
    """log(p / (1 - p)), with p kept away from 0 and 1."""
    p = np.clip(p, EDGE, 1 - EDGE)
    logits: np.ndarray = np.log(p) - np.log1p(-p)
    return logits


def expit(x: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-x)), the inverse of `logit`."""
    p: np.ndarray = 1 / (1 + np.exp(-x))
    return p


def _per_class(plan: Plan, evidence: Evidence, wish: Wish) -> tuple[np.ndarray, int]:
    """A threshold (K,) for each class from the units with a defect of that class, all at confidence 1 - delta together."""
    lower, most = np.full(len(plan.rules), np.nan), 0
    for index in np.flatnonzero(plan.counting):
        scores = evidence.scores[evidence.defects[:, index], index]
        own, what = np.where(scores > 0, logit(scores), -np.inf), f"{evidence.plural} of class '{shown(plan.names[index])}'"
        reached, allowed = _from_ng(own, wish, wish.doubt / int(plan.counting.sum()), what)
        lower[index], most = expit(np.asarray(reached)), most + allowed
    return lower, most


def _offsets(plan: Plan) -> np.ndarray:
    """The classes' offsets (K,) in logits: of the thresholds that a plan starts with, 0 without any."""
    there = np.isfinite(plan.thresholds)
    if not there.any():
        return np.zeros(len(plan.rules))
    if not plan.complete:
        lacking = next(name for name, rule in zip(plan.names, plan.rules, strict=True) if rule.threshold is None)
        raise UserError(f"--decision: expected a threshold for every class or for none, got none for '{shown(lacking)}': thresholds "
                        "of a starting plan say how far the classes lie apart")  # fmt: skip
    return np.where(there, logit(np.where(there, plan.thresholds, 0.5)), 0.0)


def _from_ng(scores: np.ndarray, wish: Wish, doubt: float, what: str) -> tuple[float, int]:
    """The k*-th smallest score of NG units, and k* - 1. Raises `UserError` where there are too few of `what`."""
    n, lost = len(scores), int(np.isneginf(scores).sum())
    allowed = allowed_misses(n, wish.max_escape, doubt)
    if not n or allowed < lost:
        raise UserError(_too_few(n, lost, wish.max_escape, doubt, what))
    return float(np.sort(scores)[allowed]), allowed


def _too_few(n: int, lost: int, rate: float, doubt: float, what: str) -> str:
    """The message when `n` NG units, `lost` of them without any detection, do not show an escape rate of at most `rate`."""
    asked, sure = f"--max-escape {rate:g}", f"at {1 - doubt:.4g} confidence"
    needed, best = units_needed(rate, doubt), upper_limit(lost, n, doubt)
    if not n:
        return f"{asked}: expected at least {needed:,} NG {what} ({sure}, without a miss), got none; label some"
    more = "collect more, or accept " if best < 0.5 else "collect more"
    fix = f"{more}--max-escape {np.ceil(best * 1e4) / 1e4:g}" if best < 0.5 else more
    promised = f"{percent(best)} is the best that these can promise"
    if not lost:
        return f"{asked}: expected at least {needed:,} NG {what} ({sure}, without a miss), got {n:,}; {promised}: {fix}"
    return (f"{asked}: expected boxes in all NG {what}, but in {lost:,} of {n:,} none counts at any threshold under the plan's rules; with so many "
            f"misses "
            f"{units_needed(rate, doubt, lost):,} NG {what} are needed ({sure}), and {promised}: train further, {fix}")  # fmt: skip


def _from_ok(scores: np.ndarray, wish: Wish, rate: float, what: str) -> float:
    """The score above which at most `rate` of the OK units lie, found as in `_from_ng`. Raises `UserError`."""
    n = len(scores)
    allowed = allowed_misses(n, rate, wish.doubt)
    if not n or allowed < 0:
        raise UserError(_too_few_ok(n, wish, rate, what))
    return float(np.sort(scores)[n - 1 - allowed])


def _no_ok(ng: int, what: str) -> str:
    return (f"--decide: expected OK {what} (without labels) too, got none among {ng:,}: what a threshold costs cannot be told without; add some "
            "to the split")  # fmt: skip


def _too_few_ok(n: int, wish: Wish, rate: float, what: str) -> str:
    """The message when `n` OK units do not show an overkill rate of at most `rate`."""
    best = f"; {percent(upper_limit(0, n, wish.doubt))} is the best that these can promise" if n else ""
    return (f"--max-overkill {rate:g}: expected at least {units_needed(rate, wish.doubt):,} OK {what} (at {wish.confidence:g} confidence), got "
            f"{n:,}{best}: collect more, or leave --max-overkill out")  # fmt: skip


def percent(rate: float) -> str:
    """A rate as text: 1 %, 2.46 %."""
    return f"{100 * rate:.3g} %"


def _down(thresholds: np.ndarray) -> np.ndarray:
    """The next step below: NG units at the threshold stay rejected whatever the last bits of a logit."""
    below: np.ndarray = np.clip(np.floor(thresholds / STEP - STEP) * STEP, STEP, 1).round(6)
    return below


def _up(thresholds: np.ndarray) -> np.ndarray:
    """The next step above: OK units at the limit are not rejected."""
    above: np.ndarray = np.clip((np.floor(thresholds / STEP + STEP) + 1) * STEP, STEP, 1).round(6)
    return above


def _with(plan: Plan, thresholds: np.ndarray, review: np.ndarray | None) -> Plan:
    rules = []
    for index, rule in enumerate(plan.rules):
        if not plan.counting[index]:
            rules.append(replace(rule, threshold=None, review=None))
            continue
        limit = None if review is None or np.isnan(review[index]) else float(review[index])
        rules.append(replace(rule, threshold=float(thresholds[index]), review=limit))
    return replace(plan, rules=tuple(rules))
