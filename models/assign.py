"""Which predictions of an anchor head answer for which ground-truth box."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

# Own cell, then the neighbours left, above, right and below, as (column, row) steps.
NEIGHBOURS = ((0, 0), (-1, 0), (0, -1), (1, 0), (0, 1))


@dataclass(frozen=True)
class LevelAssignment:
    """The M positive predictions of one pyramid level; every tensor has M rows, all but the boxes are int64."""

    image: Tensor  # index in the batch
    anchor: Tensor  # index of the level's anchor
    row: Tensor  # cell, counted from the top
    column: Tensor  # cell, counted from the left
    box_xywh: Tensor  # (M, 4) ground-truth box: centre and size in cells of this level, from the grid's corner
    cls: Tensor  # class of the box
    target: Tensor  # row of the box in the list of targets

    def __len__(self) -> int:
        return len(self.image)


def assign_anchors(
    targets: Tensor, shapes: Sequence[tuple[int, int]], anchor_wh: Tensor, strides: Tensor, ratio: float = 4.0
) -> list[LevelAssignment]:
    """Match boxes to anchors by YOLOv5's rule, at every level for itself.

    A box and an anchor match when neither side is `ratio` times as long as the other's. A matched box is answered for
    by the cell of its centre and the nearest neighbour in each direction (two in all; none outside the grid). One
    predictor may answer for several boxes, a box that fits no anchor goes unanswered.

    Differs from YOLOv5: a centre exactly between two cells is answered for by these two; YOLOv5 lists one of them
    twice.

    Args:
        targets: (N, 6) image index, class, box centre x, y and size w, h in input pixels.
        shapes: height and width of each level's grid.
        anchor_wh: (levels, anchors, 2) anchor sizes in input pixels.
        strides: (levels,) pixels per cell.
        ratio: the threshold, exclusive.

    Returns:
        One `LevelAssignment` per level.
    """
    targets = targets.float()
    levels = zip(shapes, anchor_wh.to(targets), strides.to(targets), strict=True)
    return [_assign_level(targets, shape, anchors / stride, stride, ratio) for shape, anchors, stride in levels]


def _assign_level(
    targets: Tensor, shape: tuple[int, int], anchors: Tensor, stride: Tensor, ratio: float
) -> LevelAssignment:
    """Assignment at one level; `anchors` (A, 2) in cells."""
    boxes = targets[:, 2:] / stride
    target, anchor = _fits(boxes[:, 2:], anchors, ratio).nonzero(as_tuple=True)
    centres = boxes[target, :2]
    neighbour, match = _near(centres, shape).nonzero(as_tuple=True)
    target, anchor = target[match], anchor[match]
    steps = torch.tensor(NEIGHBOURS, device=boxes.device)[neighbour]
    # A centre on or over the image's edge belongs to the last cell.
    last = torch.tensor([shape[1] - 1, shape[0] - 1], device=boxes.device)
    cells = torch.minimum((centres[match].floor().long() + steps).clamp(min=0), last)
    image, cls = targets[target, 0].long(), targets[target, 1].long()
    return LevelAssignment(image, anchor, cells[:, 1], cells[:, 0], boxes[target], cls, target)


def _fits(box_wh: Tensor, anchor_wh: Tensor, ratio: float) -> Tensor:
    """(N, A) bool: both sides of the box within `ratio` of the anchor's."""
    quotient = box_wh[:, None] / anchor_wh[None]
    return torch.maximum(quotient, 1 / quotient).amax(-1) < ratio


def _near(centres: Tensor, shape: tuple[int, int]) -> Tensor:
    """(5, M) bool: which of `NEIGHBOURS` answer for a centre (M, 2), in cells: its own, and across nearer edges."""
    size = torch.tensor([shape[1], shape[0]], dtype=centres.dtype, device=centres.device)
    part = centres % 1
    left, above = ((part < 0.5) & (centres > 1)).unbind(1)
    right, below = ((part > 0.5) & (size - centres > 1)).unbind(1)
    return torch.stack((torch.ones_like(left), left, above, right, below))
