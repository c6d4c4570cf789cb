"""How often each image of a data set is drawn, so that rare classes are seen often enough."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def draw_weights(
    classes: Sequence[np.ndarray], nc: int, repeat_threshold: float | None = None, background_share: float | None = None
) -> np.ndarray:
    """Return the relative frequency (n,) at which each image is drawn, positive.

    Repeat-factor sampling (Gupta et al. 2019, LVIS, section 4.2): a class that a share `f` of the images shows has the factor
    `max(1, sqrt(t / f))`, an image the largest factor of its classes, one without objects 1. Then images without objects are
    weighed down together where they would be more than `background_share` of the draws.

    Args:
        classes: class indices of each image's boxes, empty for an image without objects.
        nc: number of classes.
        repeat_threshold: t, above 0: classes that more than a share t of the images show are not repeated. None: no class is.
        background_share: largest share of draws of images without objects, 0 to 1. None: as they are. Ineffective where
            no image, or every image, is without objects.
    """
    weights = np.ones(len(classes))
    shown = [np.unique(np.asarray(c).astype(np.int64)) for c in classes]
    if repeat_threshold is not None:
        images = np.bincount(np.concatenate([np.zeros(0, np.int64), *shown]), minlength=nc)
        share = np.maximum(images, 1) / max(len(classes), 1)  # a class without boxes: its factor is never used
        factors = np.maximum(1.0, np.sqrt(repeat_threshold / share))
        weights = np.array([factors[c].max() if len(c) else 1.0 for c in shown])
    empty = np.array([not len(c) for c in shown], dtype=bool)
    if background_share is None or empty.all() or not empty.any():
        return weights
    allowed = weights[~empty].sum() * background_share / max(1 - background_share, 1e-9)
    weights[empty] *= min(1.0, allowed / weights[empty].sum())
    return weights


def draw(weights: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Return `count` image indices, image i `count * weights[i] / sum` times, rounded up or down by chance; in random order.

    Systematic sampling: one random offset for equal steps along the weights of the shuffled images. Plain draws with
    replacement would leave out a third of the images of an epoch.
    """
    order = rng.permutation(len(weights))
    ends = np.cumsum(weights[order])
    steps = (rng.random() + np.arange(count)) * (ends[-1] / count)
    return rng.permutation(order[np.searchsorted(ends, steps, side="right").clip(max=len(weights) - 1)])
