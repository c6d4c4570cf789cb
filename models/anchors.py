"""Anchor sizes from a training set's boxes: k-means, optional genetic refinement, and how well anchors cover boxes."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from cfg.errors import UserError

Sizes = NDArray[np.float64]  # (..., 2) widths and heights, or what is reckoned from them

SMALLEST = 2.0  # pixels; boxes with both sides below are noise at training size
MOST_BOXES = 10_000  # k-means looks at no more than this many
RESTARTS = 10


def best_possible_recall(wh: ArrayLike, anchor_wh: ArrayLike, ratio: float = 4.0) -> tuple[float, float]:
    """How well anchors cover boxes under YOLOv5's matching rule.

    Args:
        wh: (N, 2) box sizes in pixels at training size.
        anchor_wh: (..., 2) anchor sizes in pixels.
        ratio: the matching threshold of `models.assign`.

    Returns:
        The share of boxes that match some anchor, and the mean number of anchors a box matches.

    Raises:
        UserError: there is no box.
    """
    fit = _side_quotients(_checked(wh), np.asarray(anchor_wh, dtype=np.float64).reshape(-1, 2)) > 1 / ratio
    return float(fit.any(1).mean()), float(fit.sum(1).mean())


def kmeans_anchors(wh: ArrayLike, n: int, seed: int = 0, generations: int = 0, ratio: float = 4.0) -> Sizes:
    """Return `n` anchor sizes (n, 2), sorted by area, found by k-means on the box sizes `wh` (N, 2), both in pixels.

    Sizes are divided by their standard deviation first. With fewer distinct sizes than anchors the rest are these
    sizes halved and doubled, then quartered ... With `generations` the anchors are refined for the matching rule with
    threshold `ratio`.

    Raises:
        UserError: there is no box.
    """
    wh, rng = _checked(wh), np.random.default_rng(seed)
    usable = wh[(wh >= SMALLEST).any(1)]
    usable = usable if len(usable) else wh
    if len(usable) > MOST_BOXES:
        usable = usable[rng.choice(len(usable), MOST_BOXES, replace=False)]
    distinct = np.unique(usable, axis=0)
    anchors = _fill(distinct if len(distinct) <= n else _cluster(usable, n, rng), n)
    if generations:
        anchors = _refine(anchors, usable, generations, ratio, rng)
    return anchors[np.argsort(anchors.prod(1), kind="stable")]


def fit_anchors(
    wh: ArrayLike, strides: Sequence[float], per_level: int, seed: int = 0, generations: int = 0, ratio: float = 4.0
) -> Sizes:
    """Anchors (levels, per_level, 2) for boxes `wh` (N, 2), both in pixels; the smallest on the smallest stride.

    Levels of one stride, as two towers have, get the same anchors. `seed`, `generations` and `ratio` are those of `kmeans_anchors`.
    """
    distinct, level = np.unique(np.asarray(strides, dtype=float), return_inverse=True)
    return kmeans_anchors(wh, len(distinct) * per_level, seed, generations, ratio).reshape(-1, per_level, 2)[level]


def _checked(wh: ArrayLike) -> Sizes:
    """Box sizes (N, 2) as float64, without empty or non-finite ones."""
    wh = np.asarray(wh, dtype=np.float64).reshape(-1, 2)
    wh = wh[np.isfinite(wh).all(1) & (wh > 0).all(1)]
    if not len(wh):
        raise UserError("labels: expected at least one box to fit anchors to, got none; label some objects")
    return wh


def _side_quotients(wh: Sizes, anchor_wh: Sizes) -> Sizes:
    """(N, A) the worse of the two sides' quotients, shorter over longer, of each box and anchor; 1 = equal sizes."""
    quotient = wh[:, None] / anchor_wh[None]
    worse: Sizes = np.minimum(quotient, 1 / quotient).min(2)
    return worse


def _cluster(wh: Sizes, n: int, rng: np.random.Generator) -> Sizes:
    """Centres (<= n, 2) of the best of several k-means runs on sizes divided by their standard deviation."""
    from scipy.cluster.vq import kmeans, vq  # late: few runs fit anchors, and all would wait half a second for it

    spread: Sizes = wh.std(0)
    spread[spread == 0] = 1.0
    points = wh / spread
    # Starts of our own: scipy's random ones depend on its version.
    runs = (kmeans(points, _spread_starts(points, n, rng))[0] for _ in range(RESTARTS))
    best: Sizes = min(runs, key=lambda centres: vq(points, centres)[1].mean()) * spread
    return best


def _spread_starts(points: Sizes, n: int, rng: np.random.Generator) -> Sizes:
    """`n` distinct points (n, 2), drawn by squared distance to those before (Arthur and Vassilvitskii 2007)."""
    starts: Sizes = points[rng.integers(len(points))][None]
    for _ in range(n - 1):
        distance = ((points[:, None] - starts[None]) ** 2).sum(2).min(1)
        starts = np.vstack((starts, points[rng.choice(len(points), p=distance / distance.sum())]))
    return starts


def _fill(anchors: Sizes, n: int) -> Sizes:
    """Bring anchors (<= n, 2) to `n` with their halves, doubles, quarters, ... in turn."""
    factors = [1.0] + [f for power in range(1, n + 1) for f in (0.5**power, 2.0**power)]
    return np.concatenate([anchors * f for f in factors[: -(-n // len(anchors))]])[:n]


def _refine(
    anchors: Sizes, wh: Sizes, generations: int, ratio: float, rng: np.random.Generator
) -> Sizes:
    """Keep random changes of the anchors that raise their fitness (YOLOv5's genetic refinement)."""
    best = _fitness(anchors, wh, ratio)
    for _ in range(generations):
        change = 1 + (rng.random(anchors.shape) < 0.9) * rng.random() * 0.1 * rng.standard_normal(anchors.shape)
        candidate = np.maximum(anchors * change.clip(0.3, 3.0), SMALLEST)
        fitness = _fitness(candidate, wh, ratio)
        if fitness > best:
            anchors, best = candidate, fitness
    return anchors


def _fitness(anchors: Sizes, wh: Sizes, ratio: float) -> float:
    """Mean over boxes of the best anchor's side quotient, 0 for boxes that no anchor matches."""
    best = _side_quotients(wh, anchors).max(1)
    return float((best * (best > 1 / ratio)).mean())
