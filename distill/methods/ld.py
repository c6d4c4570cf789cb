"""Localisation distillation with the valuable localisation region (LD; Zheng et al., CVPR 2022)."""

from __future__ import annotations

import torch
from torch import Tensor

from distill.base import METHODS, Spec, Step, Term
from distill.localisation import LocalisationDistiller, level_points, point_grid
from distill.options import not_negative, ratio
from models.atss import PAIRS_AT_ONCE, nearest_points, squares, threshold
from models.losses.gfl import image_mean
from models.losses.iou import box_iou_pairs, diou
from models.points import PointGrid, pixel_boxes


@torch.no_grad()
def valuable_region(
    boxes_xyxy: Tensor, image: Tensor, images: int, grid: PointGrid, gamma: float, top: int = 9
) -> Tensor:
    """(B, A) bool: points near a box though not near enough to answer for it (algorithm 1): `gamma a <= DIoU <= a`.

    A point stands for the square of 8 strides around it; `a` is the box's positive threshold in ATSS, the mean +
    standard deviation of its candidates' IoU. The region is the same whatever assigner the student's loss has.

    Args:
        boxes_xyxy: (N, 4) in input pixels, of all images.
        image: (N,) image of each box.
        images: B.
        grid: the A points.
    """
    anchors = squares(grid, 8.0)
    region = torch.zeros(images, len(grid), dtype=torch.bool, device=boxes_xyxy.device)
    image = image.to(boxes_xyxy.device).long().reshape(-1)
    for part in torch.arange(len(boxes_xyxy), device=boxes_xyxy.device).split(max(1, PAIRS_AT_ONCE // len(grid))):
        boxes = boxes_xyxy[part]
        candidates = anchors[nearest_points(boxes, grid, top)]
        limit = threshold(box_iou_pairs(candidates, boxes[:, None]))[:, None]
        overlap = diou(anchors[None], boxes[:, None])
        inside = (overlap >= gamma * limit) & (overlap <= limit) & (limit > 0)
        row, point = inside.nonzero(as_tuple=True)
        region[image[part][row], point] = True
    return region


@METHODS.register("ld")
class LDDistiller(LocalisationDistiller):
    """Box distributions at the points that answer for a box, and in the valuable region around them.

    Differs from the authors' code: the region's term is a mean over each image's region; there it is a sum over the
    batch divided by 16.

    Args:
        temperature: T (paper: 10).
        gamma: lower end of the region, a share of the positive threshold (paper: 0.25).
        region: weight of the region's term beside that of the main one.
        gain: base gain of both.
    """

    method, usual_temperature = "ld", 10.0
    terms = (Term("ld_loss", "ld"), Term("ld_region_loss", "ld"))

    def __init__(
        self,
        student: Spec,
        teacher: Spec,
        temperature: float = 10.0,
        gamma: float = 0.25,
        region: float = 1.0,
        gain: float = 1.0,
    ) -> None:
        super().__init__(student, teacher, temperature, gain)
        self.gamma = ratio("ld", "gamma", gamma, 0.25)
        self.region = not_negative("ld", "region", region)

    def losses(self, step: Step) -> dict[str, Tensor]:
        """`ld_loss` and `ld_region_loss`, gain included."""
        near = self.region * self.in_region(step)
        return {"ld_loss": self.gain * self.at_positives(step), "ld_region_loss": self.gain * near}

    def in_region(self, step: Step) -> Tensor:
        """0-d divergence in the valuable region less the points that answer for a box; mean of the images' means."""
        target, points = step.assignment.target, level_points(step.student, self.pairs)
        boxes_xyxy = pixel_boxes(step.batch, target.device)
        region = valuable_region(boxes_xyxy, step.batch["batch_idx"], step.size, point_grid(step.student), self.gamma)
        image, point = (region & (target < 0))[:, points].nonzero(as_tuple=True)
        values = self.divergence(step, image, point)
        return image_mean(values, torch.ones_like(values), image, step.size)
