"""Localisation knowledge: the teacher's distributions of a box's sides as the student's soft targets.

The idea of LD (Zheng et al. 2022), which HSD FTI-FDet takes over.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from cfg import UserError
from distill.base import Distiller, Spec, Step, View
from distill.options import not_negative, positive
from distill.outputs import grids
from models.losses.gfl import image_mean
from models.points import PointGrid


def side_divergence(teacher: Tensor, student: Tensor, temperature: float) -> Tensor:
    """`T^2 KL(softmax(z_T / T) || softmax(z_S / T))`, mean over the four sides: logits (M, 4, R) -> (M,).

    Differs from the authors' code (LD, HSD FTI-FDet): the R bins are summed, as the divergence has it, not averaged.
    """
    log_teacher, log_student = ((x / temperature).log_softmax(-1) for x in (teacher, student))
    return temperature**2 * (log_teacher.exp() * (log_teacher - log_student)).sum(-1).mean(-1)


def level_logits(view: View, names: Sequence[str], part: str) -> Tensor:
    """Raw logits `part` ("boxes" or "scores") of the named levels, on the view's own grids: (B, channels, P).

    P = sum of H * W of these levels, in the order of `names`; a teacher's map of a padded image is cut.
    """
    if part == "boxes":
        view.box_bins()  # refuses heads without distributions
    sizes = grids(view)
    parts = dict(zip(sizes, view.raw[part].split([h * w for h, w in sizes.values()], 2)))
    cut = []
    for name in names:
        height, width = view.feats[name].shape[2:]
        cut.append(parts[name].unflatten(2, sizes[name])[..., :height, :width].flatten(2))
    return torch.cat(cut, 2)


def level_points(view: View, names: Sequence[str]) -> Tensor:
    """(P,) positions of the named levels' points among all points of the view."""
    parts, start = {}, 0
    for name, (height, width) in grids(view).items():
        parts[name] = torch.arange(start, start + height * width, device=view.raw["boxes"].device)
        start += height * width
    return torch.cat([parts[name] for name in names])


def point_grid(view: View) -> PointGrid:
    """All points of a view's predictions, in input pixels."""
    return PointGrid.of(list(grids(view).values()), view.spec.strides, view.raw["boxes"].device)


class LocalisationDistiller(Distiller):
    """Base of the methods that compare box distributions: a subclass gives `method` and its losses.

    Args:
        temperature: T, divides both sides' logits.
        gain: base gain of all terms.

    Raises:
        UserError: a side without box distributions, or two of different numbers of bins.
    """

    reads_head = True
    method: ClassVar[str]  # as registered
    usual_temperature: ClassVar[float]  # the paper's

    def __init__(self, student: Spec, teacher: Spec, temperature: float, gain: float = 1.0) -> None:
        super().__init__(student, teacher)
        self.temperature = positive(self.method, "temperature", temperature, self.usual_temperature)
        self.gain = not_negative(self.method, "gain", gain)
        check_bins(self.method, student, teacher)
        self.bins = student.bins

    def at_positives(self, step: Step) -> Tensor:
        """0-d divergence where points answer for a box, weighted by the student's class score; mean over images."""
        assignment, points = step.assignment, level_points(step.student, self.pairs)
        image, point = (assignment.target[:, points] >= 0).nonzero(as_tuple=True)
        scores = level_logits(step.student, self.pairs, "scores").detach()
        weight = scores[image, :, point].float().sigmoid().amax(1)
        return image_mean(self.divergence(step, image, point), weight, image, step.size)

    def divergence(self, step: Step, image: Tensor, point: Tensor) -> Tensor:
        """(M,) divergence at points of the paired levels, given by image and position among these points, (M,) each."""
        sides = [level_logits(v, self.pairs, "boxes")[image, :, point] for v in (step.teacher, step.student)]
        teacher, student = (x.float().unflatten(1, (4, self.bins)) for x in sides)
        return side_divergence(teacher.detach(), student, self.temperature)

    def describe(self) -> str:
        levels = ", ".join(self.pairs)
        return f"box distributions of {self.bins} bins per side at temperature {self.temperature:g}; levels {levels}"


def check_bins(method: str, student: Spec, teacher: Spec) -> None:
    """Raise `UserError` when a side has no box distributions, or the two have different numbers of bins."""
    for spec in (student, teacher):
        if spec.bins is None:
            raise UserError(
                f"{method}: expected box distributions, the head of {spec.label} predicts boxes as plain numbers; use "
                "models with GFLDetect (hsd-*.yaml) or YOLOv8's and YOLO11's Detect, or a feature method (cwd, mgd, "
                "fgd, attention)"
            )
    if student.bins != teacher.bins:
        raise UserError(
            f"{method}: expected box distributions of one number of bins per side, {student.label} has {student.bins}, "
            f"{teacher.label} {teacher.bins}; set the bins of one in its YAML (`bins` of hsd-*.yaml, reg_max of Detect)"
        )
