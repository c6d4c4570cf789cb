"""Numbers of a report's charts: Pareto, density over the part, control charts, histograms of scores.

Each goes through the images once and keeps none of them: there may be a million, read from a disk each time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np

from inspection.report.content import Seen
from inspection.rules import Code

SUBGROUPS, LEAST = 25, 20  # points of a control chart at most, images of a point at least
CELLS = 28  # of the density map along its longer side
BINS = 25  # of a histogram
CHUNK = 256  # images that are computed with at once


@dataclass(frozen=True)
class ControlChart:
    """A p- or u-chart (Shewhart; Montgomery, Introduction to Statistical Quality Control, chapter 7), each (m,).

    Attributes:
        values: rate of each subgroup of images in their order.
        low, high: centre - and + 3 standard deviations.
        ends: number of the last image of each subgroup.
        centre: rate of all.
    """

    values: np.ndarray
    low: np.ndarray
    high: np.ndarray
    ends: np.ndarray
    centre: float

    @property
    def outside(self) -> np.ndarray:
        """(m,) which points lie outside the limits."""
        return (self.values > self.high) | (self.values < self.low)


def pareto(seen: Collection[Seen], classes: int) -> list[tuple[int, int, float]]:
    """(class, defects, cumulative share) of the classes that occur, most frequent first."""
    counts = np.zeros(classes, dtype=int)
    for picture in seen:
        counts += np.bincount(picture.found.classes[picture.defects].astype(int), minlength=classes)[:classes]
    order = [int(index) for index in np.argsort(-counts, kind="stable") if counts[index]]
    cumulative = np.cumsum(counts[order]) / max(counts.sum(), 1)
    return [(index, int(counts[index]), float(share)) for index, share in zip(order, cumulative, strict=True)]


def density(seen: Collection[Seen]) -> np.ndarray:
    """Defects over the part, (rows, columns): in each cell the sum of the shares of boxes that lie there.

    Images of all sizes are laid over each other; the cells are square in one of the median shape.
    """
    ratio = _median(Counter(picture.height / picture.width for picture in seen))
    columns = CELLS if ratio <= 1 else max(1, round(CELLS / ratio))
    rows = max(1, round(CELLS * ratio)) if ratio <= 1 else CELLS
    total = np.zeros((rows, columns))
    for pictures in _chunks(seen, CHUNK):
        parts = [picture.found.boxes_xyxy[picture.defects] / np.tile((picture.width, picture.height), 2) for picture in pictures]
        x1, y1, x2, y2 = np.concatenate(parts).T
        total += _shares(y1, y2, rows).T @ _shares(x1, x2, columns)
    return total


def _median(counts: Counter[float]) -> float:
    """The median of values with their numbers; 1 of none."""
    ends = np.cumsum([counts[value] for value in sorted(counts)])
    if not len(ends):
        return 1.0
    middle = [sorted(counts)[int(np.searchsorted(ends, at, "right"))] for at in ((ends[-1] - 1) // 2, ends[-1] // 2)]
    return float(np.mean(middle))


def _shares(starts: np.ndarray, ends: np.ndarray, cells: int) -> np.ndarray:
    """Which share of each of n intervals in 0..1 lies in each of equal cells, (n, cells)."""
    edges = np.linspace(0, 1, cells + 1)
    inside = (np.minimum(edges[1:], ends[:, None]) - np.maximum(edges[:-1], starts[:, None])).clip(0)
    sums = inside.sum(1, keepdims=True)
    shares: np.ndarray = np.divide(inside, sums, out=np.zeros_like(inside), where=sums > 0)
    return shares


def p_chart(seen: Collection[Seen]) -> ControlChart | None:
    """Share of rejected images in subgroups, limits p +- 3 sqrt(p (1 - p) / n_i); None for fewer than two subgroups."""
    return _control((picture.rejected for picture in seen), len(seen), lambda p, n: np.sqrt(p * (1 - p) / n), 1.0)


def u_chart(seen: Collection[Seen]) -> ControlChart | None:
    """Defects per image in subgroups, limits u +- 3 sqrt(u / n_i); None for fewer than two subgroups."""
    return _control((len(picture.defects) for picture in seen), len(seen), lambda u, n: np.sqrt(u / n))


def _control(counts: Iterable[int], total: int, deviation: Callable[[float, np.ndarray], np.ndarray],
             most: float = np.inf) -> ControlChart | None:  # fmt: skip
    groups = min(SUBGROUPS, total // LEAST)
    if groups < 2:
        return None
    sizes = np.full(groups, total // groups)
    sizes[: total % groups] += 1
    counts = iter(counts)
    sums = np.array([sum(islice(counts, int(size))) for size in sizes])
    centre = float(sums.sum() / total)
    reach = 3 * deviation(centre, sizes)
    return ControlChart(sums / sizes, (centre - reach).clip(0), (centre + reach).clip(max=most), np.cumsum(sizes), centre)


def histograms(seen: Collection[Seen]) -> dict[str, np.ndarray]:
    """Counts (BINS,) over scores 0 to 1 of OK and NG images: by label where there are labels, else by verdict."""
    by_label = any(picture.labelled_ng is not None for picture in seen)
    counts = {name: np.zeros(BINS, dtype=int) for name in ("OK", "NG")}
    for pictures in _chunks(seen, CHUNK):
        known = [picture for picture in pictures if picture.verdict is None or picture.verdict.code != Code.UNDEFINED]
        ng = np.array([bool(picture.labelled_ng if by_label else picture.rejected) for picture in known], dtype=bool)
        scores = np.array([picture.score for picture in known])
        for name, chosen in (("OK", ~ng), ("NG", ng)):
            counts[name] += np.histogram(scores[chosen], BINS, (0, 1))[0]
    return counts


def _chunks(seen: Iterable[Seen], size: int) -> Iterator[list[Seen]]:
    pictures = iter(seen)
    while chunk := list(islice(pictures, size)):
        yield chunk
