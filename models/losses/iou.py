"""Overlap of boxes, pair by pair, and the box losses built on it. Boxes are x1, y1, x2, y2 in any one unit."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from models.losses.precision import at_least_float32

# relu cuts at 0 here, not clamp: where a side is exactly 0, the gradient of clamp is 1 in some versions of torch (2.11) and 0 in
# others (2.14), and over EPS it is 5e7.
EPS = 1e-7  # keeps the quotients of boxes without area finite


def _width_height(boxes_xyxy: Tensor) -> Tensor:
    """Width and height (..., 2), at least 0 (a box whose corners are swapped counts as empty)."""
    return (boxes_xyxy[..., 2:] - boxes_xyxy[..., :2]).relu()


def _overlap_union(a_xyxy: Tensor, b_xyxy: Tensor) -> tuple[Tensor, Tensor]:
    """Areas (...) of the intersection and of the union of the pairs."""
    low, high = torch.maximum(a_xyxy[..., :2], b_xyxy[..., :2]), torch.minimum(a_xyxy[..., 2:], b_xyxy[..., 2:])
    overlap = (high - low).relu().prod(-1)
    return overlap, _width_height(a_xyxy).prod(-1) + _width_height(b_xyxy).prod(-1) - overlap


def _enclosing_wh(a_xyxy: Tensor, b_xyxy: Tensor) -> Tensor:
    """Width and height (..., 2) of the smallest box around each pair."""
    return torch.maximum(a_xyxy[..., 2:], b_xyxy[..., 2:]) - torch.minimum(a_xyxy[..., :2], b_xyxy[..., :2])


def box_iou_pairs(a_xyxy: Tensor, b_xyxy: Tensor) -> Tensor:
    """Intersection over union (...) of boxes (..., 4), pair by pair; 0 for boxes without area."""
    overlap, union = _overlap_union(at_least_float32(a_xyxy), at_least_float32(b_xyxy))
    return overlap / (union + EPS)


def giou(a_xyxy: Tensor, b_xyxy: Tensor) -> Tensor:
    """Generalised IoU (...) of boxes (..., 4), pair by pair, in [-1, 1] (Rezatofighi et al. 2019, algorithm 1)."""
    a_xyxy, b_xyxy = at_least_float32(a_xyxy), at_least_float32(b_xyxy)
    overlap, union = _overlap_union(a_xyxy, b_xyxy)
    enclosing = _enclosing_wh(a_xyxy, b_xyxy).relu().prod(-1)
    return overlap / (union + EPS) - (enclosing - union) / (enclosing + EPS)


def diou(a_xyxy: Tensor, b_xyxy: Tensor) -> Tensor:
    """Distance IoU (...) of boxes (..., 4), pair by pair, in [-1, 1] (Zheng et al. 2020, eq. 7)."""
    a_xyxy, b_xyxy = at_least_float32(a_xyxy), at_least_float32(b_xyxy)
    return box_iou_pairs(a_xyxy, b_xyxy) - _centre_distance(a_xyxy, b_xyxy)


def ciou_loss(pred_xyxy: Tensor, target_xyxy: Tensor) -> Tensor:
    """`1 - CIoU = 1 - IoU + R_CIoU` (...) of boxes (..., 4), pair by pair (Zhang et al. 2022, eqs. 15-16).

    The trade-off alpha of eq. 16 is a constant for the gradient, as in its source (Zheng et al. 2020, eq. 11).
    """
    pred_xyxy, target_xyxy = at_least_float32(pred_xyxy), at_least_float32(target_xyxy)
    iou = box_iou_pairs(pred_xyxy, target_xyxy)
    distance = _centre_distance(pred_xyxy, target_xyxy)
    shape = _shape_difference(pred_xyxy, target_xyxy)
    with torch.no_grad():
        trade_off = shape / (1 - iou + shape + EPS)
    return 1 - iou + distance + trade_off * shape


def _centre_distance(a_xyxy: Tensor, b_xyxy: Tensor) -> Tensor:
    """First term of eq. 16: squared distance of the centres over the squared diagonal of the enclosing box."""
    centres = (a_xyxy[..., :2] + a_xyxy[..., 2:] - b_xyxy[..., :2] - b_xyxy[..., 2:]) / 2
    return centres.square().sum(-1) / (_enclosing_wh(a_xyxy, b_xyxy).square().sum(-1) + EPS)


def _shape_difference(a_xyxy: Tensor, b_xyxy: Tensor) -> Tensor:
    """The factor after alpha in eq. 16: `4/pi^2 (arctan w/h of the one - arctan w/h of the other)^2`, in [0, 1]."""
    (a_w, a_h), (b_w, b_h) = _width_height(a_xyxy).unbind(-1), _width_height(b_xyxy).unbind(-1)
    angle = torch.atan2(a_w, a_h.clamp(min=EPS)) - torch.atan2(b_w, b_h.clamp(min=EPS))  # atan2(0, 0) has no gradient
    return 4 / math.pi**2 * angle.square()
