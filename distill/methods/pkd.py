"""Distillation by Pearson correlation (PKD; Cao et al., NeurIPS 2022)."""

from __future__ import annotations

from torch import Tensor

from distill.base import METHODS, Step, Term
from distill.cells import centred, mean_square
from distill.features import FeatureDistiller

# Added to the variance, for channels that are the same everywhere: above the rounding of float32 there, and far below
# the variance of real features (deviations of 1e-3 are common).
EPSILON = 1e-10


def standardised(features: Tensor) -> Tensor:
    """Mean 0 and variance 1 over the H * W cells of each image and channel; (B, C, H, W) -> (B, C, H, W)."""
    rest, _, variance = centred(features)
    return rest / (variance + EPSILON).sqrt()


@METHODS.register("pkd")
class PearsonDistiller(FeatureDistiller):
    """Make each channel of the student's neck vary as the teacher's does, whatever its mean and scale.

    Half the mean square difference of standardised features is 1 minus Pearson's r.

    Differs from the paper: features are standardised over the cells of each image, not over the whole batch, so that no
    image's loss depends on its neighbours.

    Args:
        gain: base gain of the loss.
        mix: as of `FeatureDistiller` (published code: unequal).
    """

    method = "pkd"
    label_free = True
    bias = False
    terms = (Term("pkd_loss", "pkd"),)

    def compare(self, level: str, teacher: Tensor, student: Tensor, step: Step) -> Tensor:
        return mean_square(standardised(student), standardised(teacher)) / 2

    def describe(self) -> str:
        return f"Pearson correlation of channels; {super().describe()}"
