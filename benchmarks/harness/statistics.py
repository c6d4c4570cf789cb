"""Is a difference more than chance? Paired t over seeds, bootstrap over images, and how much data would settle it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from scipy import stats

from inspection.compare import LEVEL, Interval

POWER = 0.8
MOST_SEEDS = 1000
HELPS, HURTS, NOT_SHOWN = "HELPS", "HURTS", "NOT SHOWN"


def paired_t(differences: Sequence[float]) -> Interval | None:
    """95 % interval of the mean of paired differences, one per seed; None for fewer than two.

    mean +- t(0.975; n - 1) * s / sqrt(n), with s the standard deviation over n - 1.
    """
    values = np.asarray(differences, dtype=float)
    if len(values) < 2:
        return None
    half = stats.t.ppf((1 + LEVEL) / 2, len(values) - 1) * values.std(ddof=1) / math.sqrt(len(values))
    return Interval(float(values.mean() - half), float(values.mean() + half))


def verdict(seeds: Interval | None, images: Interval | None) -> str:
    """HELPS or HURTS when both intervals lie on one side of 0; without an interval over seeds nothing is shown."""
    if seeds is None or images is None:
        return NOT_SHOWN
    if min(seeds.low, images.low) > 0:
        return HELPS
    return HURTS if max(seeds.high, images.high) < 0 else NOT_SHOWN


def seeds_needed(differences: Sequence[float]) -> int | None:
    """Seeds with which the paired t-test would show an effect of this size and spread in four of five experiments.

    The smallest n whose power, from the noncentral t distribution, is 0.8; `MOST_SEEDS` + 1 for more than `MOST_SEEDS`;
    None when no effect or no spread was observed.
    """
    values = np.asarray(differences, dtype=float)
    if len(values) < 2 or not values.std(ddof=1) or not values.mean():
        return None
    effect = abs(values.mean()) / values.std(ddof=1)
    n = np.arange(2, MOST_SEEDS + 1)
    power = stats.nct.sf(stats.t.ppf((1 + LEVEL) / 2, n - 1), n - 1, effect * np.sqrt(n))
    enough = np.flatnonzero(power >= POWER)
    return int(n[enough[0]]) if len(enough) else MOST_SEEDS + 1


def images_needed(effect: float, images: Interval, count: int) -> int | None:
    """Images with which the bootstrap interval would leave 0 outside, its width falling with their square root."""
    half = (images.high - images.low) / 2
    return math.ceil(count * (half / effect) ** 2) if effect else None
