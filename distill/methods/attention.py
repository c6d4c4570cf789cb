"""Attention-guided distillation of foreground and background (Zhang et al. 2022, section 3.3, eqs. 5-13)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from distill.adapters import Adapter
from distill.base import METHODS, Distiller, Spec, Step, Term, float32
from distill.cells import centred, channels_last, channels_second, mean_square, over_channels, softmax_over_cells
from distill.masks import Masks, box_masks
from distill.options import flag, gains_of, not_negative, positive

GAINS = ("feature", "attention", "global")
EPSILON = 1e-6  # added to variances


def free_attention(features: Tensor) -> Tensor:
    """`M(F)` for a teacher without dual attention: parameter-free gates, both of mean 1. (B, C, H, W) -> (B, C, H, W).

    Channels are weighted by the softmax of their mean |F| over positions, positions by the softmax of theirs over channels.
    """
    batch, channels, height, width = features.shape
    magnitude = channels_last(features.abs())
    channel = magnitude.mean((1, 2)).softmax(1).view(batch, 1, 1, channels) * channels
    spatial = magnitude.mean(3).flatten(1).softmax(1).view(batch, height, width, 1) * (height * width)
    return channels_second(channel + spatial) * features


def attention_mask(attended: Tensor, temperature: float) -> Tensor:
    """Eq. 10: softmax of `M(F) / T` over the H * W positions of each channel, times H * W so that its mean is 1."""
    positions = attended.shape[2] * attended.shape[3]
    return softmax_over_cells(attended / temperature) * positions


def masked_square_error(teacher: Tensor, student: Tensor, attention: Tensor, masks: Masks) -> tuple[Tensor, Tensor]:
    """Eq. 11: foreground and background sums of `ScaleMask * AttentionMask * |F_T - f(F_S)|^2`, each a mean over images.

    teacher, student, attention: (B, C, H, W).
    """
    return masks.split(over_channels(attention * (teacher - student).square()))


def rescaled(student: Tensor, teacher: Tensor) -> Tensor:
    """The student's features with the teacher's mean and deviation over the H * W cells of each image and channel.

    Both (B, C, H, W). A channel that is the same everywhere becomes the teacher's mean.
    """
    rest, _, variance = centred(student)
    _, target, wanted = centred(teacher)
    return rest * ((wanted + EPSILON) / (variance + EPSILON)).sqrt() + target


@METHODS.register("attention")
class AttentionDistiller(Distiller):
    """Pull the student's neck towards the teacher's where the teacher attends, foreground and background apart.

    `M` of eq. 9 is the teacher's own frozen dual attention at each level, applied to both sides; if either side's attention
    could learn, eq. 13 would be minimised by shrinking both maps to a constant. Both sides are compared where that module
    was trained to look: F_T is the map that it was given, not F + M(F), which it gave and the teacher's head reads. The
    student's side is what its head reads, brought there by `f`.

    Differs from the paper: by default the student's channels get the teacher's mean and deviation first, in each image
    (`rescale`). Without it 72 to 81 % of eq. 13's gradient is a shift of channel means, which adds up over cells: at the student's
    parameters its gradient ratio was 3.1 times that at the neck, and opposed detection (NEU-DET, YOLOv5n, after 90 steps; cosine -0.67).

    Silent in the paper, and so here: every object counts at every level, even where no anchor of the student fits it.

    Args:
        temperature: T of eq. 10 (paper: 20).
        foreground, background: weights of the two terms of eq. 11 within `L_fg`.
        rescale: compare patterns; False: magnitudes too, as in the paper.
        gains: base gains of the three losses (see cfg/distill/attention.yaml on how they were measured).
    """

    terms = (
        Term("fg_loss", "feature"), Term("bg_loss", "feature"), Term("att_loss", "attention"), Term("global_loss", "global"),
    )  # fmt: skip

    def __init__(
        self,
        student: Spec,
        teacher: Spec,
        temperature: float = 20.0,
        foreground: float = 1.0,
        background: float = 1.0,
        rescale: bool = True,
        gains: dict[str, float] | None = None,
    ) -> None:
        super().__init__(student, teacher)
        self.temperature = positive("attention", "temperature", temperature, 20)
        self.foreground = not_negative("attention", "foreground", foreground)
        self.background = not_negative("attention", "background", background)
        self.rescale = flag("attention", "rescale", rescale)
        self.gains = gains_of("attention", gains, GAINS)
        levels = {n: (student.levels[n], teacher.levels[n]) for n in self.pairs}
        self.adapters = nn.ModuleDict({n: Adapter(*pair, bias=not self.rescale) for n, pair in levels.items()})

    def losses(self, step: Step) -> dict[str, Tensor]:
        """`fg_loss`, `bg_loss` (eq. 11), `att_loss` (eq. 12), `global_loss` (eq. 13), gains included, summed over levels."""
        teacher_feats, student_feats = float32(step.teacher), float32(step.student)
        teacher_feats |= {name: x.float() for name, x in step.teacher.unattended.items()}
        levels = [self._level(n, teacher_feats[n], student_feats[n], step) for n in self.pairs]
        fg, bg, attention, whole = (torch.stack(terms).sum() for terms in zip(*levels))
        return {
            "fg_loss": fg * self.gains["feature"] * self.foreground,
            "bg_loss": bg * self.gains["feature"] * self.background,
            "att_loss": attention * self.gains["attention"],
            "global_loss": whole * self.gains["global"],
        }

    def _level(self, name: str, teacher: Tensor, student: Tensor, step: Step) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        grid_hw = (teacher.shape[2], teacher.shape[3])
        student = self.adapters[name](student, teacher)
        student = rescaled(student, teacher) if self.rescale else student
        module = step.teacher.attention.get(name)
        attend = module.attend if module is not None else free_attention
        attended_teacher, attended_student = attend(teacher), attend(student)
        mask_teacher = attention_mask(attended_teacher, self.temperature)
        mask_student = attention_mask(attended_student, self.temperature)
        masks = box_masks(step.batch["bboxes"].to(teacher.device), step.batch["batch_idx"], step.size, grid_hw)
        fg, bg = masked_square_error(teacher, student, mask_teacher, masks)
        attention = F.smooth_l1_loss(channels_last(mask_student), channels_last(mask_teacher))  # eq. 12
        whole = mean_square(attended_student, attended_teacher)  # eq. 13, per element as in eq. 5
        return fg, bg, attention, whole

    def describe(self) -> str:
        return f"attention-guided features; {super().describe()}"
