"""Masked generative distillation (MGD; Yang et al., ECCV 2022)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from distill.adapters import ALWAYS
from distill.base import METHODS, Spec, Step, Term
from distill.cells import mean_square
from distill.features import FeatureDistiller
from distill.options import positive, ratio

EVALUATION_SEED = 0


class Generator(nn.Sequential):
    """`G`: 3x3 conv, ReLU, 3x3 conv, which restores the hidden cells from their neighbours. Keeps the shape."""

    def __init__(self, channels: int, between: int) -> None:
        super().__init__(
            nn.Conv2d(channels, between, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(between, channels, 3, padding=1),
        )


def random_mask(features: Tensor, hidden: float, fixed: bool = False) -> Tensor:
    """(B, 1, H, W): 0 at a share `hidden` of the cells, in expectation, 1 elsewhere; one mask for all channels.

    Drawn for each image from torch's generator; `fixed`: the same for every image and at every call.
    """
    batch, _, height, width = features.shape
    if fixed:
        random = torch.Generator().manual_seed(EVALUATION_SEED)
        drawn = torch.rand(1, 1, height, width, generator=random).to(features.device).expand(batch, -1, -1, -1)
    else:
        drawn = torch.rand(batch, 1, height, width, device=features.device)
    return (drawn >= hidden).to(features.dtype)


@METHODS.register("mgd")
class MaskedGenerativeDistiller(FeatureDistiller):
    """Hide part of the student's neck and have a small generator restore the teacher's features from the rest.

    In training every image has a mask of its own; in evaluation all share a fixed one, so that validation losses can be
    compared from epoch to epoch.

    Differs from the paper: the square error is averaged over C * H * W, not summed, so that the gain does not depend on
    the image's size or the teacher's width. The paper's weight (2e-5 for one-stage detectors) is a gain of
    2e-5 * C * H * W here.

    Args:
        mask: share of cells that are hidden, lambda (paper: 0.65 for one-stage detectors, 0.45 for two-stage).
        width: channels between the generator's convs over the teacher's (paper: 1); time and parameters go with it.
        gain: base gain of the loss.
        mix: as of `FeatureDistiller` (published code: unequal).
    """

    method = "mgd"
    label_free = True
    terms = (Term("mgd_loss", "mgd"),)

    def __init__(
        self, student: Spec, teacher: Spec, mask: float = 0.65, width: float = 1.0, gain: float = 1.0,
        mix: str = ALWAYS,
    ) -> None:  # fmt: skip
        super().__init__(student, teacher, gain, mix)
        self.mask = ratio("mgd", "mask", mask, 0.65)
        positive("mgd", "width", width, 1)
        channels = {n: teacher.levels[n].channels for n in self.pairs}
        self.generators = nn.ModuleDict({n: Generator(c, max(round(width * c), 1)) for n, c in channels.items()})

    def compare(self, level: str, teacher: Tensor, student: Tensor, step: Step) -> Tensor:
        seen = student * random_mask(student, self.mask, fixed=not self.training)
        return mean_square(self.generators[level](seen), teacher)

    def describe(self) -> str:
        return f"masked generation, {self.mask:.0%} of the cells hidden; {super().describe()}"
