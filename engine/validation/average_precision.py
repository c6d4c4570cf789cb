"""COCO average precision on resampled images, from matches computed once.

The bootstrap draws the images of the data set with replacement; an image drawn twice counts twice, its boxes and its
detections. A thousand such data sets are scored without matching again: which detection hits which box depends on its
image alone, and only the order of all detections by score joins the images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from engine.validation.coco_metrics import Boxes, detection_limit
from inspection.boxes import iou

IOUS = np.linspace(0.5, 0.95, 10)
RECALLS = np.linspace(0.0, 1.0, 101)
CHUNK = 100  # resamples at a time


@dataclass(frozen=True)
class ClassMatches:
    """The detections of one class, most confident first, as far as they hit a box at any threshold (M of them).

    `truths` (I,) boxes per image; `images` (M,) the image of each; `hits` (M, 10) whether it hits, by IoU threshold;
    `ahead` (M, I) how many detections of each image are as far up the list as this one or further, itself included.
    """

    truths: np.ndarray
    images: np.ndarray
    hits: np.ndarray
    ahead: np.ndarray


def match(truths: Sequence[Boxes], found: Sequence[Boxes], classes: int) -> list[ClassMatches]:
    """Match the detections of each image to its boxes as COCO does; one entry per class that has a box.

    Args:
        truths, found: ground truth and detections per image, same order.
    """
    limit = detection_limit(truths)
    there = [c for c in range(classes) if any((t.classes == c).any() for t in truths)]
    return [_match_class(truths, found, c, limit) for c in there]


def _match_class(truths: Sequence[Boxes], found: Sequence[Boxes], chosen: int, limit: int) -> ClassMatches:
    scores, hits, counts = [], [], []
    for truth, detections in zip(truths, found, strict=True):
        boxes_xyxy = truth.boxes_xyxy[truth.classes == chosen].astype(float)
        of_class = np.flatnonzero(detections.classes == chosen)
        order = of_class[np.argsort(-detections.confidence[of_class], kind="stable")][:limit]
        scores.append(detections.confidence[order])
        hits.append(_match_image(boxes_xyxy, detections.boxes_xyxy[order].astype(float)))
        counts.append(len(boxes_xyxy))
    image = np.repeat(np.arange(len(truths)), [len(s) for s in scores])
    order = np.argsort(-np.concatenate(scores), kind="stable")
    image, hit = image[order], np.concatenate(hits)[order]
    useful = np.flatnonzero(hit.any(1))
    ahead = np.zeros((len(useful), len(truths)), dtype=np.float32)
    last = int(useful[-1]) + 1 if len(useful) else 0
    np.add.at(ahead, (np.searchsorted(useful, np.arange(last)), image[:last]), 1)
    return ClassMatches(np.array(counts), image[useful], hit[useful], ahead.cumsum(0, dtype=np.float32))


def _match_image(boxes_xyxy: np.ndarray, found_xyxy: np.ndarray) -> np.ndarray:
    """Which detections (D, most confident first) hit a box, (D, 10): each takes the best box still free."""
    hits = np.zeros((len(found_xyxy), len(IOUS)), dtype=bool)
    if not len(boxes_xyxy) or not len(found_xyxy):
        return hits
    overlap = iou(found_xyxy, boxes_xyxy)
    taken = np.zeros((len(IOUS), len(boxes_xyxy)), dtype=bool)
    for number in np.flatnonzero(overlap.max(1) >= IOUS[0]):
        free = np.where(taken, -1.0, overlap[number])
        best = free.shape[1] - 1 - free[:, ::-1].argmax(1)  # the last of equals, as COCO's loop
        hits[number] = free.max(1) >= IOUS
        taken[hits[number], best[hits[number]]] = True
    return hits


def average_precision(matches: Sequence[ClassMatches], weights: np.ndarray) -> np.ndarray:
    """AP by IoU threshold, mean over the classes that have a box, for each resampled data set.

    Args:
        matches: what `match` found.
        weights: (R, I) how often each image is in each of R data sets.

    Returns:
        (R, 10); nan where no box is left.
    """
    parts = [_weighted(matches, chunk) for chunk in np.array_split(weights, -(-len(weights) // CHUNK))]
    return np.concatenate(parts)


def _weighted(matches: Sequence[ClassMatches], weights: np.ndarray) -> np.ndarray:
    total, defined = np.zeros((len(weights), len(IOUS))), np.zeros((len(weights), 1))
    for one in matches:
        boxes = weights @ one.truths
        there = boxes > 0
        total[there] += _class_ap(one, weights[there], boxes[there])
        defined[there] += 1
    with np.errstate(invalid="ignore"):
        return total / defined


def _class_ap(one: ClassMatches, weights: np.ndarray, boxes: np.ndarray) -> np.ndarray:
    """AP (R, 10) of one class: mean precision at 101 recalls, each the best at that recall or a higher one.

    Precision is best right after a hit, and recall changes there only, so that the detections between need only be
    counted.
    """
    copies = weights[:, one.images]
    detections = np.maximum(weights.astype(np.float32) @ one.ahead.T, 1.0)
    result = np.zeros((len(weights), len(IOUS)))
    for column in range(len(IOUS)):
        chosen = one.hits[:, column]
        true = copies[:, chosen].cumsum(1)
        precision = np.maximum.accumulate((true / detections[:, chosen])[:, ::-1], axis=1)[:, ::-1]
        reached = np.searchsorted(RECALLS, true / boxes[:, None], side="right")
        result[:, column] = (np.diff(reached, axis=1, prepend=0) * precision).sum(1) / len(RECALLS)
    return result


def resamples(images: int, count: int, seed: int = 0, of: np.ndarray | None = None) -> np.ndarray:
    """Draw `count` data sets of as many images as there are, with replacement: (count, images) numbers of copies.

    Args:
        of: (images,) the unit, such as a part, of each image; whole units are drawn then, with all their images.
    """
    units = images if of is None else int(of.max()) + 1
    copies = np.random.default_rng(seed).multinomial(units, np.full(units, 1 / units), size=count)
    return copies if of is None else copies[:, of]
