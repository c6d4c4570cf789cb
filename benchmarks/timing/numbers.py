"""Numbers of a benchmark: medians with quartiles, ratios within rounds, and slopes."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

LINEAR = 1.15  # a log-log slope above it is growth faster than linear


@dataclass(frozen=True)
class Summary:
    """A median with the quartiles around it, of `count` values."""

    median: float
    low: float
    high: float
    count: int

    def plain(self) -> dict[str, Any]:
        """As results.json has it."""
        return asdict(self)


def summary(values: Sequence[float]) -> Summary | None:
    """Median and quartiles (linear between ranks); None of nothing."""
    if not values:
        return None
    low, high = np.percentile(values, [25, 75])
    return Summary(float(statistics.median(values)), float(low), float(high), len(values))


def ratios(values: Mapping[int, float], reference: Mapping[int, float]) -> list[float]:
    """Values / reference by round, where both were measured.

    What disturbs a machine for a while disturbs neighbours in a round alike, and falls out of their ratio. The median
    of these ratios, unlike the ratio of two medians, never compares a quiet moment with a noisy one.
    """
    return [values[number] / reference[number] for number in values if reference.get(number)]


def slopes(sizes: Sequence[float], costs: Sequence[float]) -> list[float]:
    """Slope of log(cost) over log(size) between neighbours: 1 is linear, 2 square, 0 no growth."""
    pairs = zip(zip(sizes, costs), zip(sizes[1:], costs[1:]))
    return [math.log(c2 / c1) / math.log(s2 / s1) for (s1, c1), (s2, c2) in pairs]


def bends(sizes: Sequence[float], costs: Sequence[float], limit: float = LINEAR) -> float | None:
    """The size from which on cost grows faster than linearly (slope above `limit`), None where it never does.

    The first of the steep neighbours; a single steep pair with flat ones after it counts too.
    """
    steep = [size for size, slope in zip(sizes, slopes(sizes, costs)) if slope > limit]
    return steep[0] if steep else None
