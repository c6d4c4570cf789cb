"""The common shape of feature methods: one loss between teacher and adapted student at each paired level, summed."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from distill.adapters import ALWAYS, UNEQUAL, Adapter
from distill.base import Distiller, Level, Spec, Step, float32
from distill.options import choice, not_negative


class FeatureDistiller(Distiller):
    """Base of methods with one feature loss: a subclass gives `method`, `terms` and `compare`.

    Channels are mixed by a 1x1 conv (`Adapter`), grids resized where they differ.

    Args:
        gain: base gain of the loss.
        mix: `always`, or `unequal`: where the numbers of channels differ.
    """

    method: ClassVar[str]  # as registered; the loss is `<method>_loss`
    bias: ClassVar[bool] = True  # of the adapters; no use to a loss that a constant added to a channel leaves as it is

    def __init__(self, student: Spec, teacher: Spec, gain: float = 1.0, mix: str = ALWAYS) -> None:
        super().__init__(student, teacher)
        self.gain = not_negative(self.method, "gain", gain)
        self.mix = choice(self.method, "mix", mix, (ALWAYS, UNEQUAL))
        levels = {n: (student.levels[n], teacher.levels[n]) for n in self.pairs}
        self.adapters = nn.ModuleDict({n: self.adapter(*pair) for n, pair in levels.items()})

    def adapter(self, student: Level, teacher: Level) -> nn.Module:
        """What brings a level of the student, (B, C_S, H_S, W_S), to the teacher's (B, C_T, H, W)."""
        return Adapter(student, teacher, self.bias, self.mix)

    def compare(self, level: str, teacher: Tensor, student: Tensor, step: Step) -> Tensor:
        """0-d loss of one level, a mean over images; both (B, C_T, H, W) float32."""
        raise NotImplementedError

    def losses(self, step: Step) -> dict[str, Tensor]:
        """`<method>_loss`, gain included, summed over levels."""
        teacher, student = float32(step.teacher), float32(step.student)
        levels = []
        for name in self.pairs:
            levels.append(self.compare(name, teacher[name], self.adapters[name](student[name], teacher[name]), step))
        return {f"{self.method}_loss": self.gain * torch.stack(levels).sum()}
