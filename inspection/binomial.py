"""Exact statistics of rates: what a number of misses in a number of tries says, and how many tries a promise needs.

Clopper and Pearson, "The use of confidence or fiducial limits illustrated in the case of the binomial", Biometrika 26 (1934).
"""

from __future__ import annotations

from scipy import stats

MOST_UNITS = 10**9  # a promise that needs more is out of reach


def allowed_misses(units: int, rate: float, doubt: float) -> int:
    """The most misses among `units` with which a rate above `rate` is as unlikely as `doubt`; -1 if even none is too many.

    max{m : BinomCDF(m; units, rate) <= doubt}, that is k* - 1.
    """
    misses = int(stats.binom.ppf(doubt, units, rate)) if units else 0  # the smallest with a CDF of at least `doubt`
    return misses if units and stats.binom.cdf(misses, units, rate) <= doubt else misses - 1


def units_needed(rate: float, doubt: float, misses: int = 0) -> int:
    """The fewest units with which `misses` misses still show a rate of at most `rate`: BinomCDF(misses; n, rate) <= doubt."""
    low, high = misses, max(misses + 1, 1)
    while stats.binom.cdf(misses, high, rate) > doubt:
        if high > MOST_UNITS:
            return high
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if stats.binom.cdf(misses, middle, rate) <= doubt else (middle, high)
    return high


def upper_limit(misses: int, units: int, doubt: float) -> float:
    """The lowest rate that so few misses rule out at 1 - `doubt` (one-sided Clopper-Pearson); 1 where all were missed."""
    return 1.0 if misses >= units else float(stats.beta.ppf(1 - doubt, misses + 1, units - misses))


def interval(count: int, units: int, confidence: float) -> tuple[float, float]:
    """Two-sided Clopper-Pearson interval of a rate of which `count` in `units` were seen; (0, 1) without any."""
    if not units:
        return 0.0, 1.0
    tail = (1 - confidence) / 2
    low = 0.0 if not count else float(stats.beta.ppf(tail, count, units - count + 1))
    return low, upper_limit(count, units, tail)
