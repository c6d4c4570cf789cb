"""Non-maximum suppression whose result does not depend on the machine's speed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from ultralytics.utils.nms import non_max_suppression

CANDIDATES = (2048, 8192, 30000)  # boxes considered, best scores first; the last is ultralytics' own limit
PER_BOX = 4  # candidates, at least, for each box that may be kept


def finished(preds: torch.Tensor, end2end: bool) -> bool:
    """Whether predictions are boxes without duplicates already, (B, n, 6): of an end-to-end head, or exported with NMS."""
    return end2end or preds.shape[-1] == 6


def capacity(preds: Any, end2end: bool) -> int:
    """The most boxes that a model can give for an image, from predictions as of `complete_nms`."""
    boxes = _boxes(preds)
    return boxes.shape[1 if finished(boxes, end2end) else 2]


def complete_nms(preds: Any, conf: float, iou: float, agnostic: bool, max_det: int, end2end: bool) -> list[torch.Tensor]:
    """Suppress every image's boxes, as ultralytics does for validation, but never stop for lack of time.

    ultralytics gives up on the rest of a batch after a time limit, which at the low score threshold of AP a slow processor
    reaches: images then count as if nothing had been found in them. Here each image is done, with few candidates first:
    suppression goes through boxes by falling score, so that once `max_det` are kept, further candidates change nothing.

    Args:
        preds: (B, 4 + nc, N) boxes xywh in pixels and scores, or a model's tuple that starts with it; end-to-end (B, n, 6).

    Returns:
        Per image (n, 6): xyxy in pixels, score, class.
    """
    boxes = _boxes(preds)
    if finished(boxes, end2end):
        return list(non_max_suppression(boxes, conf, iou, max_det=max_det, end2end=end2end))
    return [_one_image(boxes[i : i + 1], conf, iou, agnostic, max_det) for i in range(len(boxes))]


def select_classes(preds: Any, source: Sequence[int], end2end: bool) -> torch.Tensor:
    """A model's predictions as one of other classes would give them: class i is its `source[i]`, the rest is dropped.

    Args:
        preds: as of `complete_nms`.
        source: of the data's classes.
    """
    boxes = _boxes(preds)
    if not finished(boxes, end2end):
        return boxes[:, [0, 1, 2, 3, *(4 + index for index in source)]]
    boxes = boxes.clone()
    chosen = boxes[..., 5, None] == torch.tensor(source, device=boxes.device)  # (B, n, classes)
    boxes[..., 4] *= chosen.any(-1)  # no score, no detection
    boxes[..., 5] = chosen.float().argmax(-1).to(boxes.dtype)
    return boxes


def _boxes(preds: Any) -> torch.Tensor:
    """Predictions alone, of what a model gives with them."""
    boxes: torch.Tensor = preds[0] if isinstance(preds, (list, tuple)) else preds
    return boxes


def _one_image(preds: torch.Tensor, conf: float, iou: float, agnostic: bool, max_det: int) -> torch.Tensor:
    """(1, 4 + nc, N) -> (n, 6)."""
    candidates = int((preds[:, 4:] > conf).sum())
    for limit in (*CANDIDATES[:-1], max(CANDIDATES[-1], PER_BOX * max_det)):
        kept: torch.Tensor = non_max_suppression(preds, conf, iou, agnostic=agnostic, multi_label=True, max_det=max_det, max_nms=limit)[0]
        if len(kept) >= max_det or candidates <= limit:
            break
    return kept
