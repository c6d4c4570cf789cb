"""Adaptive training sample selection (Zhang et al. 2020, "Bridging the gap", algorithm 1)."""

from __future__ import annotations

import torch
from torch import Tensor

from models.losses.iou import box_iou_pairs
from models.points import PointAssignment, PointGrid

PAIRS_AT_ONCE = 2**23  # bounds the memory of many boxes on many points (32 MB of float32)


@torch.no_grad()
def assign_atss(
    boxes_xyxy: Tensor, image: Tensor, images: int, grid: PointGrid, top: int = 9, anchor_scale: float = 8.0
) -> PointAssignment:
    """Choose for each box the points that answer for it, by the statistics of its own overlaps.

    Candidates are the `top` points of each level nearest to the box's centre. Each stands for a square of
    `anchor_scale` strides around it; those whose IoU with the box reaches mean + standard deviation of all its
    candidates, and that lie inside the box, answer for it. A point chosen by several boxes takes the one of the largest
    IoU (of equal ones the first). A box with no point inside, smaller than a cell say, goes unanswered.

    Differs from the authors' code: points are the middles of the cells, not their upper left corners.

    Args:
        boxes_xyxy: (N, 4) in input pixels, of all images.
        image: (N,) image of each box.
        images: B.
        grid: the A points.
    """
    points, total = len(grid), len(boxes_xyxy)
    image = image.to(boxes_xyxy.device).long().reshape(-1)
    candidate = nearest_points(boxes_xyxy, grid, top)
    iou = box_iou_pairs(squares(grid, anchor_scale)[candidate], boxes_xyxy[:, None])
    chosen = (iou >= threshold(iou)[:, None]) & _inside(grid.xy[candidate], boxes_xyxy[:, None])
    slot, value = (image[:, None] * points + candidate)[chosen], iou[chosen]
    box = torch.arange(total, device=boxes_xyxy.device)[:, None].expand_as(candidate)[chosen]
    best = value.new_full((images * points,), -1.0).scatter_reduce(0, slot, value, "amax")
    wins = value == best[slot]
    first = box.new_full((images * points,), total).scatter_reduce(0, slot[wins], box[wins], "amin")
    target = torch.where(first < total, first, -1).view(images, points)
    return from_target(target, boxes_xyxy)


def from_target(target: Tensor, boxes_xyxy: Tensor) -> PointAssignment:
    """The assignment in which point a of image b answers for box `target[b, a]`, -1 for none."""
    positive = target >= 0
    assigned = boxes_xyxy.new_zeros(*target.shape, 4)
    assigned[positive] = boxes_xyxy[target[positive]]
    return PointAssignment(target, assigned)


def squares(grid: PointGrid, anchor_scale: float) -> Tensor:
    """(A, 4) x1, y1, x2, y2: the square of `anchor_scale` strides around each point."""
    half = (grid.stride * anchor_scale / 2)[:, None]
    return torch.cat((grid.xy - half, grid.xy + half), 1)


def nearest_points(boxes_xyxy: Tensor, grid: PointGrid, top: int) -> Tensor:
    """(N, K) indices of the `top` points of each level (all of a smaller level) nearest to each box's centre."""
    centres = (boxes_xyxy[:, :2] + boxes_xyxy[:, 2:]) / 2
    found, start = [], 0
    for count in grid.counts:
        points = grid.xy[start : start + count]
        parts = centres.split(max(1, PAIRS_AT_ONCE // count))
        nearest = [_squared_distance(c, points).topk(min(top, count), 1, largest=False)[1] for c in parts]
        found.append(torch.cat(nearest) + start)
        start += count
    return torch.cat(found, 1)


def threshold(iou: Tensor) -> Tensor:
    """(N,) mean + standard deviation of the candidates' IoU (N, K), at most the largest of them.

    Differs from the paper: no upper limit there. In a pyramid of two levels, the squares of all candidates of a small
    box may hold it whole; its IoU are then two values, 9 times each, whose mean + deviation is above both.
    """
    mean = iou.mean(1, keepdim=True)
    variance = (iou - mean).square().sum(1) / max(iou.shape[1] - 1, 1)
    return torch.minimum(mean[:, 0] + variance.sqrt(), iou.amax(1))


def _squared_distance(centres: Tensor, points: Tensor) -> Tensor:
    """(N, A) by differences: the expanded form that `cdist` may use loses digits, and differently for each N."""
    return (centres[:, None] - points[None]).square().sum(-1)


def _inside(points_xy: Tensor, boxes_xyxy: Tensor) -> Tensor:
    """Whether points (..., 2) lie strictly inside boxes (..., 4)."""
    return ((points_xy > boxes_xyxy[..., :2]) & (points_xy < boxes_xyxy[..., 2:])).all(-1)
