"""HSD FTI-FDet: heterogeneous self-distillation of localisation (Zhang et al. 2023, arXiv 2307.00701)."""

from __future__ import annotations

from torch import Tensor

from distill.base import METHODS, Spec, Step, Term
from distill.localisation import LocalisationDistiller


@METHODS.register("hsd")
class HSDDistiller(LocalisationDistiller):
    """Box distributions of a plain teacher into those of a lighter student, where the student answers for a box.

    "Heterogeneous": the two may differ in everything but the number of bins, and share at least one stride.

    Args:
        temperature: T (paper: 15).
        gain: base gain of the loss.
    """

    method, usual_temperature = "hsd", 15.0
    terms = (Term("hsd_loss", "hsd"),)

    def __init__(self, student: Spec, teacher: Spec, temperature: float = 15.0, gain: float = 1.0) -> None:
        super().__init__(student, teacher, temperature, gain)

    def losses(self, step: Step) -> dict[str, Tensor]:
        """`hsd_loss`, gain included."""
        return {"hsd_loss": self.gain * self.at_positives(step)}
