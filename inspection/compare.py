"""Two models on the same units: exact McNemar on their verdicts, resampled differences, and tests of equivalence.

McNemar, "Note on the sampling error of the difference between correlated proportions", Psychometrika 12 (1947); Schuirmann, "A
comparison of the two one-sided tests procedure", J. Pharmacokinetics and Biopharmaceutics 15 (1987). "Not significant" is not
"equal": only the second says how much can have been lost.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import stats

LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """A confidence interval."""

    low: float
    high: float


@dataclass(frozen=True)
class McNemar:
    """What changes from A to B.

    `harmful`, `beneficial`: indices of the units that A has right and B wrong, and the other way round; `p_value`: two-sided, of as
    uneven a split of them if neither model were better.
    """

    harmful: tuple[int, ...]
    beneficial: tuple[int, ...]
    p_value: float


@dataclass(frozen=True)
class Equivalence:
    """Whether B is as good as A, but for a margin.

    Attributes:
        p_loss: of the test against "B loses more than the margin"; below 0.05 it does not.
        p_gain: the same for "B gains more".
        interval: 90 %, of the difference B - A; within the margin just when both p-values are below 0.05.
    """

    margin: float
    p_loss: float
    p_gain: float
    interval: Interval

    @property
    def loses_at_most(self) -> bool:
        """Whether it is shown that B loses at most the margin (non-inferiority, one-sided, 5 %)."""
        return self.p_loss < 0.05

    @property
    def equal(self) -> bool:
        """Whether it is shown that they differ by at most the margin (TOST, 5 %)."""
        return max(self.p_loss, self.p_gain) < 0.05


def mcnemar(right_a: np.ndarray, right_b: np.ndarray) -> McNemar:
    """Compare which units (U,) two models have right, by the exact binomial test of the units on which they differ."""
    harmful, beneficial = np.flatnonzero(right_a & ~right_b), np.flatnonzero(~right_a & right_b)
    flips = len(harmful) + len(beneficial)
    p_value = float(stats.binomtest(len(harmful), flips).pvalue) if flips else 1.0
    return McNemar(tuple(harmful.tolist()), tuple(beneficial.tolist()), p_value)


def percentile(resampled: np.ndarray, level: float = LEVEL) -> Interval:
    """Interval of a bootstrap: the middle of the resampled values (R,), undefined ones left out."""
    low, high = np.nanpercentile(resampled, [50 * (1 - level), 50 * (1 + level)])
    return Interval(float(low), float(high))


def equivalence(resampled: np.ndarray, margin: float) -> Equivalence:
    """Two one-sided tests on resampled differences B - A (R,), undefined ones left out, against a loss or gain of `margin`."""
    values = resampled[~np.isnan(resampled)]
    tail_loss, tail_gain = ((int(beyond.sum()) + 1) / (len(values) + 1) for beyond in (values <= -margin, values >= margin))
    return Equivalence(margin, tail_loss, tail_gain, percentile(values, 0.9))
