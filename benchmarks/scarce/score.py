"""Escapes at an overkill: how many defective images pass when few good ones are rejected."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from engine.validation.box_files import load_boxes


def image_scores(detections: str | Path) -> tuple[np.ndarray, np.ndarray]:
    """Return, of a file of `val.py --detections`, each image's highest score (n,), 0 without boxes, and whether it has a defect."""
    _, truths, found = load_boxes(detections)
    scores = np.array([image.scores.max() if len(image.scores) else 0.0 for image in found])
    return scores, np.array([len(image.classes) > 0 for image in truths])


def escape_rate(scores: np.ndarray, defective: np.ndarray, overkill: float = 0.05) -> float:
    """Return the share of defective images that score no more than all but a share `overkill` of the good ones.

    The threshold is the score that at most `overkill` of the good images exceed; an image is rejected above it.

    Args:
        scores: (n,) highest score of each image.
        defective: (n,) bool; some are, and some are not.
    """
    good = np.sort(scores[~defective])[::-1]
    threshold = good[int(overkill * len(good))]
    return float((scores[defective] <= threshold).mean())
