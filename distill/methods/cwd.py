"""Channel-wise knowledge distillation (CWD; Shu et al., ICCV 2021)."""

from __future__ import annotations

from torch import Tensor

from distill.adapters import ALWAYS
from distill.base import METHODS, Spec, Step, Term
from distill.cells import channels_last
from distill.features import FeatureDistiller
from distill.options import positive


def channel_divergence(teacher: Tensor, student: Tensor, temperature: float) -> Tensor:
    """`T^2 / C * sum_c KL(phi(F_T,c) || phi(F_S,c))`, phi the softmax of a channel / T over its H * W cells.

    teacher, student: (B, C, H, W). Returns a 0-d mean over images.
    """
    rows = (channels_last(x).flatten(1, 2) / temperature for x in (teacher, student))
    log_teacher, log_student = (x.log_softmax(1) for x in rows)
    divergence = (log_teacher.exp() * (log_teacher - log_student)).sum(1)  # (B, C)
    return temperature**2 * divergence.mean()


@METHODS.register("cwd")
class ChannelDistiller(FeatureDistiller):
    """Make each channel of the student's neck light up where the teacher's does.

    Args:
        temperature: T of the softmax (paper: 4 on features).
        gain: base gain of the loss.
        mix: as of `FeatureDistiller` (published code: unequal).
    """

    method = "cwd"
    label_free = True
    bias = False
    terms = (Term("cwd_loss", "cwd"),)

    def __init__(self, student: Spec, teacher: Spec, temperature: float = 4.0, gain: float = 1.0,
                 mix: str = ALWAYS) -> None:  # fmt: skip
        super().__init__(student, teacher, gain, mix)
        self.temperature = positive("cwd", "temperature", temperature, 4)

    def compare(self, level: str, teacher: Tensor, student: Tensor, step: Step) -> Tensor:
        return channel_divergence(teacher, student, self.temperature)

    def describe(self) -> str:
        return f"channel-wise distributions at temperature {self.temperature:g}; {super().describe()}"
