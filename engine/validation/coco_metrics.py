"""COCO average precision and recall of boxes held in memory (Lin et al. 2014; definitions of the COCO detection task).

AP50-95 averages IoU thresholds 0.50, 0.55 ... 0.95; AR@k is the recall at the k most confident detections per image and
class, averaged over the same thresholds; small, medium and large are areas below 32^2, up to 96^2, and above, in
original pixels.

Differs from COCO where an image has more than 100 objects of a class: AP then counts as many detections as that
(`detection_limit`). With COCO's 100, a detector that finds all of 1,600 objects would score 0.07.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from inspection.rules import Found

COCO_LIMIT = 100  # detections per image and class that count for AP
RECALL_AT = (1, 10, COCO_LIMIT)
AREAS = ("all", "small", "medium", "large")
IOU50, IOU75 = 0, 5


@dataclass(frozen=True)
class Boxes:
    """Boxes of one image, in original image pixels.

    `boxes_xyxy` (N, 4), `classes` (N,) indices, `scores` (N,) for detections, None for ground truth.
    """

    boxes_xyxy: np.ndarray
    classes: np.ndarray
    scores: np.ndarray | None = None

    @property
    def confidence(self) -> np.ndarray:
        """Scores (N,); ground truth is sure, score 1."""
        return np.ones(len(self.classes)) if self.scores is None else self.scores


def as_found(boxes: Boxes) -> Found:
    """Boxes as decisions take them."""
    return Found(boxes.boxes_xyxy.reshape(-1, 4), boxes.confidence, boxes.classes.reshape(-1).astype(int))


def fullest(truths: Sequence[Boxes]) -> tuple[int, int]:
    """The most boxes that an image has, and the most of one class."""
    counts = [np.bincount(np.asarray(image.classes, dtype=int)) for image in truths if len(image.classes)]
    return max((int(c.sum()) for c in counts), default=0), max((int(c.max()) for c in counts), default=0)


def detection_limit(truths: Sequence[Boxes]) -> int:
    """Detections per image and class that count for AP: COCO's 100, or as many as an image has boxes of a class."""
    return max(COCO_LIMIT, fullest(truths)[1])


def coco_metrics(truths: Sequence[Boxes], detections: Sequence[Boxes], classes: int) -> dict[str, Any]:
    """Return COCO metrics of `detections` against `truths` (one entry per image, same order).

    A value is None where it is not defined: no ground truth of that class or size.

    Returns:
        ``mAP50 mAP50-95 AP75 AP_small AP_medium AP_large AR1 AR10 AR100 AR_max`` (AR_max: at `detection_limit`) and
        ``per_class``: for each class index a dict of ``AP50 AP50-95 AP75 AR100 AR_max``.
    """
    limits = sorted({*RECALL_AT, detection_limit(truths)})
    precision, recall = _evaluate(_dataset(truths, classes), _results(detections), limits)
    recall_at = {f"AR{k}": limits.index(k) for k in RECALL_AT} | {"AR_max": len(limits) - 1}
    result: dict[str, Any] = {
        "mAP50": _mean(precision[IOU50, :, :, 0, -1]),
        "mAP50-95": _mean(precision[:, :, :, 0, -1]),
        "AP75": _mean(precision[IOU75, :, :, 0, -1]),
    }
    result |= {f"AP_{name}": _mean(precision[:, :, :, a, -1]) for a, name in enumerate(AREAS) if a}
    result |= {name: _mean(recall[:, :, 0, m]) for name, m in recall_at.items()}
    result["per_class"] = [
        {
            "AP50": _mean(precision[IOU50, :, c, 0, -1]),
            "AP50-95": _mean(precision[:, :, c, 0, -1]),
            "AP75": _mean(precision[IOU75, :, c, 0, -1]),
            **{name: _mean(recall[:, c, 0, recall_at[name]]) for name in ("AR100", "AR_max")},
        }
        for c in range(classes)
    ]
    return result


def _mean(values: np.ndarray) -> float | None:
    """Mean over the entries that are defined (COCO marks the others -1), None when none is."""
    defined = values[values > -1]
    return float(defined.mean()) if defined.size else None


def _dataset(truths: Sequence[Boxes], classes: int) -> dict[str, Any]:
    annotations = [
        {"image_id": i, "category_id": int(c), "bbox": box, "area": box[2] * box[3], "iscrowd": 0}
        for i, image in enumerate(truths)
        for box, c in zip(_xywh(image), image.classes, strict=True)
    ]
    # Ids start at 1: the evaluators take id 0 for "matched nothing".
    numbered = [{"id": n} | annotation for n, annotation in enumerate(annotations, start=1)]
    return {
        "info": {},
        "images": [{"id": i} for i in range(len(truths))],
        "categories": [{"id": c} for c in range(classes)],
        "annotations": numbered,
    }


def _results(detections: Sequence[Boxes]) -> list[dict[str, Any]]:
    return [
        {"image_id": i, "category_id": int(c), "bbox": box, "score": float(score)}
        for i, image in enumerate(detections)
        for box, c, score in zip(_xywh(image), image.classes, image.confidence, strict=True)
    ]


def _xywh(image: Boxes) -> list[list[float]]:
    boxes = np.asarray(image.boxes_xyxy, dtype=float).reshape(-1, 4)
    rows: list[list[float]] = np.concatenate([boxes[:, :2], boxes[:, 2:] - boxes[:, :2]], axis=1).tolist()
    return rows


def _evaluate(
    dataset: dict[str, Any], results: list[dict[str, Any]], limits: list[int]
) -> tuple[np.ndarray, np.ndarray]:
    """Return precision (IoUs, recall points, classes, areas, limits) and recall (IoUs, classes, areas, limits)."""
    try:
        from faster_coco_eval import COCO
        from faster_coco_eval import COCOeval_faster as Evaluation
    except ImportError:
        from pycocotools.coco import COCO
        from pycocotools.cocoeval import COCOeval as Evaluation

    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
        truth = COCO()
        truth.dataset = dataset
        truth.createIndex()
        found = COCO()
        found.dataset = dataset | {"annotations": [_as_annotation(n, r) for n, r in enumerate(results, start=1)]}
        found.createIndex()
        evaluation = Evaluation(truth, found, iouType="bbox")
        evaluation.params.maxDets = limits
        evaluation.evaluate()
        evaluation.accumulate()
    return np.asarray(evaluation.eval["precision"]), np.asarray(evaluation.eval["recall"])


def _as_annotation(number: int, result: dict[str, Any]) -> dict[str, Any]:
    return {"id": number, "area": result["bbox"][2] * result["bbox"][3], "iscrowd": 0} | result
