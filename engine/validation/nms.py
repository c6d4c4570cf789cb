"""Non-maximum suppression whose result does not depend on the machine's speed."""

from __future__ import annotations

from typing import Any

import torch
from ultralytics.utils.nms import non_max_suppression

CANDIDATES = (2048, 8192, 30000)  # boxes considered, best scores first; the last is ultralytics' own limit


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
    preds = preds[0] if isinstance(preds, (list, tuple)) else preds
    if end2end or preds.shape[-1] == 6:
        return non_max_suppression(preds, conf, iou, max_det=max_det, end2end=end2end)
    return [_one_image(preds[i : i + 1], conf, iou, agnostic, max_det) for i in range(len(preds))]


def _one_image(preds: torch.Tensor, conf: float, iou: float, agnostic: bool, max_det: int) -> torch.Tensor:
    """(1, 4 + nc, N) -> (n, 6)."""
    candidates = int((preds[:, 4:] > conf).sum())
    for limit in CANDIDATES:
        kept = non_max_suppression(preds, conf, iou, agnostic=agnostic, multi_label=True, max_det=max_det, max_nms=limit)[0]
        if len(kept) >= max_det or candidates <= limit:
            break
    return kept
