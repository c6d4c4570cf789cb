"""Numbers of a report's charts: Pareto, density over the part, control charts, histograms of scores."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from inspection.report.content import Seen
from inspection.rules import Code

SUBGROUPS, LEAST = 25, 20  # points of a control chart at most, pictures of a point at least
CELLS = 28  # of the density map along its longer side
BINS = 25  # of a histogram


@dataclass(frozen=True)
class ControlChart:
    """A p- or u-chart (Shewhart; Montgomery, Introduction to Statistical Quality Control, chapter 7), each (m,).

    Attributes:
        values: rate of each subgroup of pictures in their order.
        low, high: centre - and + 3 standard deviations.
        ends: number of the last picture of each subgroup.
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


def pareto(seen: Sequence[Seen], classes: int) -> list[tuple[int, int, float]]:
    """(class, defects, cumulative share) of the classes that occur, most frequent first."""
    counts = np.zeros(classes, dtype=int)
    for picture in seen:
        counts += np.bincount(picture.found.classes[picture.defects].astype(int), minlength=classes)[:classes]
    order = [int(index) for index in np.argsort(-counts, kind="stable") if counts[index]]
    cumulative = np.cumsum(counts[order]) / max(counts.sum(), 1)
    return [(index, int(counts[index]), float(share)) for index, share in zip(order, cumulative, strict=True)]


def density(seen: Sequence[Seen]) -> np.ndarray:
    """Defects over the part, (rows, columns): in each cell the sum of the shares of boxes that lie there.

    Pictures of all sizes are laid over each other; the cells are square in one of the median shape.
    """
    ratio = float(np.median([picture.height / picture.width for picture in seen])) if seen else 1.0
    columns = CELLS if ratio <= 1 else max(1, round(CELLS / ratio))
    rows = max(1, round(CELLS * ratio)) if ratio <= 1 else CELLS
    total = np.zeros((rows, columns))
    for picture in seen:
        for x1, y1, x2, y2 in picture.found.boxes_xyxy[picture.defects]:
            across = _shares(x1 / picture.width, x2 / picture.width, columns)
            down = _shares(y1 / picture.height, y2 / picture.height, rows)
            total += down[:, None] * across[None]
    return total


def _shares(start: float, end: float, cells: int) -> np.ndarray:
    """Which share of an interval in 0..1 lies in each of equal cells."""
    edges = np.linspace(0, 1, cells + 1)
    inside = (np.minimum(edges[1:], end) - np.maximum(edges[:-1], start)).clip(0)
    return inside / inside.sum() if inside.sum() else inside


def p_chart(seen: Sequence[Seen]) -> ControlChart | None:
    """Share of rejected pictures in subgroups, limits p +- 3 sqrt(p (1 - p) / n_i); None for fewer than two subgroups."""
    return _control(np.array([picture.rejected for picture in seen], dtype=float), lambda p, n: np.sqrt(p * (1 - p) / n), 1.0)


def u_chart(seen: Sequence[Seen]) -> ControlChart | None:
    """Defects per picture in subgroups, limits u +- 3 sqrt(u / n_i); None for fewer than two subgroups."""
    return _control(np.array([len(picture.defects) for picture in seen], dtype=float), lambda u, n: np.sqrt(u / n))


def _control(counts: np.ndarray, deviation: Callable[[float, np.ndarray], np.ndarray],
             most: float = np.inf) -> ControlChart | None:  # fmt: skip
    groups = min(SUBGROUPS, len(counts) // LEAST)
    if groups < 2:
        return None
    parts = np.array_split(counts, groups)
    sizes = np.array([len(part) for part in parts])
    centre = float(counts.mean())
    reach = 3 * deviation(centre, sizes)
    values = np.array([part.mean() for part in parts])
    return ControlChart(values, (centre - reach).clip(0), (centre + reach).clip(max=most), np.cumsum(sizes), centre)


def histograms(seen: Sequence[Seen]) -> dict[str, np.ndarray]:
    """Counts (BINS,) over scores 0 to 1 of OK and NG pictures: by label where there are labels, else by verdict."""
    by_label = any(picture.labelled_ng is not None for picture in seen)
    scores: dict[str, list[float]] = {"OK": [], "NG": []}
    for picture in seen:
        if picture.verdict is not None and picture.verdict.code == Code.UNDEFINED:
            continue
        ng = picture.labelled_ng if by_label else picture.rejected
        scores["NG" if ng else "OK"].append(picture.score)
    return {name: np.histogram(values, BINS, (0, 1))[0] for name, values in scores.items()}
