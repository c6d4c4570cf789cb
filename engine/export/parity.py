"""An exported model beside PyTorch on real images: the largest difference, and the limit it must keep.

In float32 the limits hold for every anchor point of the raw output, also those no one would ever see as a detection: an
error in what scores low on these images scores high on others. Only for a box longer than the input itself the limit
grows in proportion to its length, because float32 is relative and such a box is cut at the edge of the image anyway.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cfg.errors import UserError
from data.decode import Unreadable
from data.files import find_images
from data.images import read_pixels

from ultralytics.data.augment import LetterBox
from ultralytics.utils import ASSETS
from ultralytics.utils.metrics import box_iou
from ultralytics.utils.nms import non_max_suppression

MOST_IMAGES = 4
VISIBLE_SCORE = 1e-3  # anchors above it are also reported by themselves: they can become detections
SAME_OBJECT_IOU = 0.9


@dataclass(frozen=True)
class Limit:
    """Largest difference that is accepted.

    Attributes:
        pixels: of any box coordinate (centre, width or height), in pixels of the input.
        score: of any class score.
        visible_only: apply both to anchors that score above `VISIBLE_SCORE` on either side only.
    """

    pixels: float
    score: float
    visible_only: bool = False


FLOAT32 = Limit(0.01, 1e-3)


def half_limit(size: list[int]) -> Limit:
    """Return the limit of a float16 export: 1 % of the longer side, 0.02 in score, for anchors above `VISIBLE_SCORE`.

    float16 has 11 significant bits: a coordinate near 1,000 px is known to 0.5 px before any calculation. YOLOv5n at
    640 px differs by up to 3.6 px (anchors above score 0.001) and 0.003 in score.
    """
    return Limit(0.01 * max(size), 0.02, visible_only=True)


@dataclass(frozen=True)
class Difference:
    """Largest differences over all anchors and over the visible ones, and how many anchors were compared.

    `scaled_pixels` is what the limit is held against: `pixels`, where a box longer than the input counts in proportion.
    """

    pixels: float
    scaled_pixels: float
    score: float
    visible_pixels: float
    visible_score: float
    anchors: int
    visible: int

    def within(self, limit: Limit) -> bool:
        """True when the limit is kept. NaN keeps none."""
        chosen = (self.visible_pixels, self.visible_score) if limit.visible_only else (self.scaled_pixels, self.score)
        return chosen[0] <= limit.pixels and chosen[1] <= limit.score

    def text(self, nms: bool) -> str:
        """Return what export.py prints of it."""
        what = "detections" if nms else "anchors"
        text = f"box {self.pixels:.2g} px, score {self.score:.2g} over {self.anchors} {what}"
        return text if nms else f"{text} ({self.visible} above score {VISIBLE_SCORE:g}: {self.visible_pixels:.2g} px)"


def check_images(folder: str | None) -> list[np.ndarray]:
    """Return (H, W, 3) BGR images to compare on: two of the ultralytics package, or up to four of a folder.

    Raises:
        UserError: the folder holds fewer than two readable images.
    """
    root = Path(folder) if folder else ASSETS
    if not root.is_dir():
        raise UserError(f"--check-images {folder}: expected a folder with images, but nothing is there; check the path")
    images: list[np.ndarray] = []
    for path in find_images(root):
        if len(images) < MOST_IMAGES:
            try:
                images.append(read_pixels(path))
            except Unreadable:
                continue
    if len(images) < 2:
        raise UserError(f"--check-images {folder or root}: expected at least 2 readable images, got {len(images)}")
    return images


def check_sizes(size: list[int], stride: int, dynamic: bool) -> list[list[int]]:
    """Return the (height, width) to compare at: the export size; of a dynamic export also non-square and small ones."""
    if not dynamic:
        return [size]
    height, width = size
    flat = [max(stride, height // (2 * stride) * stride), width]
    return [size, flat, [height + stride, width], [2 * stride, 3 * stride], [stride, stride]]


def batches(images: list[np.ndarray], size: list[int], batch: int) -> Iterator[Tensor]:
    """Yield (batch, 3, H, W) RGB inputs from 0 to 1, letterboxed to `size`, until every image was in one."""
    letterbox = LetterBox(tuple(size), auto=False)
    arrays = [np.ascontiguousarray(letterbox(image=image)[..., ::-1].transpose(2, 0, 1)) for image in images]
    for start in range(0, len(arrays), batch):
        chosen = [arrays[(start + i) % len(arrays)] for i in range(batch)]
        yield torch.from_numpy(np.stack(chosen)).float() / 255


def raw_difference(reference: Tensor, exported: Tensor, side: int) -> Difference:
    """Compare two raw outputs (B, 4 + nc, N): boxes xywh in pixels, class scores; `side` is the input's longer one.

    Raises:
        UserError: the shapes differ.
    """
    if reference.shape != exported.shape:
        shapes = f"expected an output of shape {tuple(reference.shape)}, got {tuple(exported.shape)}"
        raise UserError(f"exported model: {shapes}; report it with the model YAML")
    boxes, scores = (reference.float() - exported.float()).abs().split([4, reference.shape[1] - 4], dim=1)
    best = torch.maximum(reference[:, 4:].amax(1), exported[:, 4:].float().amax(1))  # (B, N)
    visible = ~(best <= VISIBLE_SCORE)  # NaN counts as visible
    boxes, scores = boxes.amax(1), scores.amax(1)
    longer = (reference[:, 2:4].amax(1) / side).clamp(min=1)  # (B, N), how many times longer than the input
    return Difference(
        pixels=float(boxes.max()),
        scaled_pixels=float((boxes / longer).max()),
        score=float(scores.max()),
        visible_pixels=float(boxes[visible].max()) if visible.any() else 0.0,
        visible_score=float(scores[visible].max()) if visible.any() else 0.0,
        anchors=visible.numel(),
        visible=int(visible.sum()),
    )


def nms_difference(
    reference: Tensor, exported: Tensor, conf: float, iou: float, max_det: int, limit: Limit
) -> Difference:
    """Compare detections: the raw reference output after ultralytics' own NMS, and an export with NMS inside.

    Each reference detection is matched with the exported one of its class that overlaps it most. A detection without a
    partner counts as infinitely far away, unless its score is within the limit of the threshold `conf`.

    Args:
        reference: raw (B, 4 + nc, N), boxes xywh.
        exported: (B, max_det, 6): x1, y1, x2, y2, score, class; rows of zeros are empty.
        conf, iou, max_det: as exported.
        limit: whose score decides what is too close to the threshold to be told.
    """
    expected = non_max_suppression(reference.clone(), conf, iou, max_det=max_det)
    pairs = [_match(one, other[other[:, 4] > 0].float()) for one, other in zip(expected, exported, strict=True)]
    matched = torch.cat([pair[0] for pair in pairs])  # (n, 2, 6)
    alone = torch.cat([pair[1] for pair in pairs])  # (m,)
    difference = (matched[:, 0] - matched[:, 1]).abs()
    lost = bool((alone > conf + limit.score).any())
    pixels = float("inf") if lost else float(difference[:, :4].max()) if len(difference) else 0.0
    score = float(difference[:, 4].max()) if len(difference) else 0.0
    return Difference(pixels, pixels, score, pixels, score, len(matched) + len(alone), len(matched))


def _match(one: Tensor, other: Tensor) -> tuple[Tensor, Tensor]:
    """Pair detections (n, 6) and (m, 6) by class and overlap; return (pairs, 2, 6) and the scores of the rest."""
    overlap = box_iou(one[:, :4], other[:, :4]) * (one[:, None, 5] == other[None, :, 5])
    pairs, free = [], set(range(len(other)))
    alone = []
    for i in range(len(one)):
        best = max(free, key=lambda j: float(overlap[i, j]), default=None)
        if best is None or overlap[i, best] < SAME_OBJECT_IOU:
            alone.append(one[i, 4])
        else:
            free.remove(best)
            pairs.append(torch.stack([one[i], other[best]]))
    alone += [other[j, 4] for j in free]
    matched = torch.stack(pairs) if pairs else one.new_zeros(0, 2, 6)
    return matched, torch.stack(alone) if alone else one.new_zeros(0)
