"""Detection loss of heads with box distributions: fault classification, distribution and regression (HSD FTI-FDet).

The three are generalised focal loss (Li et al. 2020) under other names: FC = quality focal loss against the box's IoU,
FD = distribution focal loss, FR = GIoU loss.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cfg.errors import UserError, is_number, nearest
from models.atss import assign_atss
from models.losses.iou import box_iou_pairs, giou
from models.losses.precision import at_least_float32
from models.losses.qfocal import quality_focal
from models.points import PointAssignment, PointGrid, decode_distances, encode_distances, pixel_boxes

GAINS = {"box": 2.0, "cls": 1.0, "dfl": 0.25}  # FR, FC, FD: as in GFL
MARGIN = 0.1  # a distance target stays this far below the last bin, so that it always has a bin on its right (GFL)
EPS = 1e-9


class BinsHead(Protocol):
    """What the loss reads of a head."""

    reg_max: int  # R bins per side
    pixels_per_cell: tuple[float, ...]  # the levels' strides


class GFLLoss(nn.Module):
    """FR, FC and FD losses with ATSS assignment, independent of the batch size.

    Differs from the paper (and GFL): every term is normalised by what *one image* has, then averaged over images; GFL
    divides by the sums of the whole batch, so that an image's weight depends on its neighbours. And the box terms are a
    weighted mean; GFL's lower limit of 1 on the sum of the weights, made for whole batches, would switch them off for
    young scores.

    Args:
        head: whose predictions it judges.
        top: ATSS' candidates per level.
        anchor_scale: side in strides of the square a point stands for in ATSS.
        beta: exponent of the quality focal loss (GFL: 2).
        gains: overrides of `GAINS`.
    """

    head: BinsHead

    def __init__(
        self,
        head: BinsHead,
        top: int = 9,
        anchor_scale: float = 8.0,
        beta: float = 2.0,
        gains: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(top, int) or isinstance(top, bool) or top < 1:
            raise UserError(f"top: expected a number of candidates of at least 1, got {top!r}; ATSS has 9")
        if not is_number(anchor_scale) or anchor_scale <= 0:
            raise UserError(f"anchor_scale: expected a number above 0, got {anchor_scale!r}; ATSS has 8")
        if not is_number(beta) or (beta < 1 and beta != 0):
            raise UserError(f"beta: expected 0 or at least 1, got {beta!r}; GFL has 2")
        object.__setattr__(self, "head", head)  # not a submodule: the model must not have the head's tensors twice
        self.top, self.anchor_scale, self.beta = top, anchor_scale, beta
        self.gains = GAINS | _checked_gains(gains or {})

    def forward(
        self, raw: Mapping[str, Tensor], batch: Mapping[str, Tensor], assignment: PointAssignment | None = None
    ) -> dict[str, Tensor]:
        """Losses of a batch, gains included: 0-d float32 `box_loss`, `cls_loss`, `dfl_loss`, each a mean over images.

        Args:
            raw: `boxes` (B, 4 * R, A) and `scores` (B, K, A) logits, `feats` (B, C, H, W) per level for the grids.
            batch: `img` (B, 3, H, W); `batch_idx` (N,), `cls` (N, 1), `bboxes` (N, 4) xywh, 0..1 of the image.
            assignment: what `assign` gives for the two; None: it is made here.
        """
        with torch.autocast(raw["boxes"].device.type, enabled=False):
            boxes, scores = at_least_float32(raw["boxes"]), at_least_float32(raw["scores"])
            assignment = self.assign(raw, batch) if assignment is None else assignment
            grid, (image, point) = self.grid(raw), assignment.positives()
            target_xyxy, stride, xy = assignment.boxes_xyxy[image, point], grid.stride[point][:, None], grid.xy[point]
            bins = boxes[image, :, point].view(-1, 4, self.head.reg_max)
            pred_xyxy = decode_distances(expected_bin(bins) * stride, xy)
            weight = scores.detach().sigmoid().amax(1)[image, point]
            distances = encode_distances(target_xyxy, xy) / stride
            quality = box_iou_pairs(pred_xyxy.detach(), target_xyxy).clamp(0, 1)
            classes = batch["cls"].to(scores.device).reshape(-1).long()[assignment.target[image, point]]
            terms = {
                "box_loss": image_mean(1 - giou(pred_xyxy, target_xyxy), weight, image, len(boxes)),
                "cls_loss": self._classification(scores, image, point, classes, quality),
                "dfl_loss": image_mean(distribution_focal(bins, distances).mean(1), weight, image, len(boxes)),
            }
            return {name: term * self.gains[name.removesuffix("_loss")] for name, term in terms.items()}

    @torch.no_grad()
    def assign(self, raw: Mapping[str, Tensor], batch: Mapping[str, Tensor]) -> PointAssignment:
        """ATSS on the batch's boxes; only the shapes of `raw["feats"]` matter."""
        boxes = pixel_boxes(batch, raw["boxes"].device)
        return assign_atss(boxes, batch["batch_idx"], len(batch["img"]), self.grid(raw), self.top, self.anchor_scale)

    def grid(self, raw: Mapping[str, Tensor]) -> PointGrid:
        """The points of the head's predictions."""
        shapes = [tuple(f.shape[-2:]) for f in raw["feats"]]
        return PointGrid.of(shapes, self.head.pixels_per_cell, raw["boxes"].device)

    def _classification(self, scores: Tensor, image: Tensor, point: Tensor, classes: Tensor, quality: Tensor) -> Tensor:
        """FC: quality focal loss of all points and classes, per positive of the image; targets are the IoU."""
        target = torch.zeros_like(scores)
        target[image, classes, point] = quality.to(target.dtype)
        # GFL's loss has no class balance: twice the balanced one with both sides at a half.
        errors = 2 * quality_focal(scores, target, 0.5, self.beta)
        positives = torch.bincount(image, minlength=len(scores)).clamp(min=1)
        return (errors.sum((1, 2)) / positives).mean()


def expected_bin(bins: Tensor) -> Tensor:
    """(..., R) logits of a distribution over 0 ... R - 1 -> (...) its mean (Li et al. 2020, eq. 4)."""
    return (bins.softmax(-1) * torch.arange(bins.shape[-1], device=bins.device, dtype=bins.dtype)).sum(-1)


def distribution_focal(bins: Tensor, distances: Tensor) -> Tensor:
    """`-((y_r - y) log S_l + (y - y_l) log S_r)` with the bins l, r around y (Li et al. 2020, eq. 6).

    Args:
        bins: (..., R) logits.
        distances: (...) y in bins; clamped into what R bins can express.
    """
    distances = distances.clamp(0, bins.shape[-1] - 1 - MARGIN)
    left = distances.long()
    share_right = distances - left
    log_probability = F.log_softmax(bins, -1)
    at_left, at_right = (log_probability.gather(-1, i[..., None])[..., 0] for i in (left, left + 1))
    return -((1 - share_right) * at_left + share_right * at_right)


def image_mean(values: Tensor, weights: Tensor, image: Tensor, images: int) -> Tensor:
    """Weighted mean of the values (M,) of each image, averaged over all images; 0 for an image without values."""
    total = values.new_zeros(images).index_add(0, image, values * weights)
    share = values.new_zeros(images).index_add(0, image, weights.to(values.dtype))
    return (total / share.clamp(min=EPS)).mean()


def _checked_gains(given: Mapping[str, float]) -> dict[str, float]:
    for name, value in given.items():
        if name not in GAINS:
            raise UserError(f"gains: expected names among {', '.join(GAINS)}, got '{name}'{nearest(name, GAINS)}")
        if not is_number(value) or value < 0:
            raise UserError(f"gains: expected {name} to be a number of at least 0, got {value!r}; correct it")
    return dict(given)
