"""Focal and global knowledge distillation (FGD; Yang et al., CVPR 2022)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from distill.adapters import ALWAYS, UNEQUAL, Adapter
from distill.base import METHODS, Distiller, Spec, Step, Term, float32
from distill.cells import channels_last, channels_second, mean_square, over_channels
from distill.masks import Masks, box_masks
from distill.options import choice, gains_of, not_negative, positive

GAINS = ("feature", "attention", "global")


def attention(features: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    """Spatial `A^S = H W softmax(G^S / T)` (B, 1, H, W) and channel attention `A^C = C softmax(G^C / T)` (B, C, 1, 1).

    G^S is the mean |F| over channels, G^C the mean |F| over cells; both attentions have mean 1. F: (B, C, H, W).
    """
    batch, channels, height, width = features.shape
    magnitude = channels_last(features.abs())
    spatial = (magnitude.mean(3).flatten(1) / temperature).softmax(1) * (height * width)
    channel = (magnitude.mean((1, 2)) / temperature).softmax(1) * channels
    return spatial.view(batch, 1, height, width), channel.view(batch, channels, 1, 1)


def focal_error(teacher: Tensor, student: Tensor, weight: Tensor, masks: Masks) -> tuple[Tensor, Tensor]:
    """Foreground and background sums of `M S A^S A^C (F_T - f(F_S))^2`, each a mean over images.

    teacher, student: (B, C, H, W); weight: `A^S A^C` of the teacher, of the same shape.
    """
    return masks.split(over_channels(weight * (teacher - student).square()))


class Relation(nn.Module):
    """`R` of the global loss, a GcBlock (Cao et al. 2019): each cell plus what all cells together say. Keeps the shape.

    `R(F) = F + W_v2(ReLU(LN(W_v1(sum_j softmax_j(W_k F_j) F_j))))`, with half the channels in between. It starts as `R(F) = F`:
    `W_v2` is 0, as in the published code, so that a run does not begin by comparing two random projections.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = max(channels // 2, 1)
        self.key = nn.Conv2d(channels, 1, 1, bias=False)  # a bias would cancel in the softmax
        self.transform = nn.Sequential(
            nn.Linear(channels, hidden), nn.LayerNorm(hidden), nn.ReLU(inplace=True), nn.Linear(hidden, channels)
        )
        for parameter in self.transform[-1].parameters():
            nn.init.zeros_(parameter)

    def forward(self, features: Tensor) -> Tensor:
        share = self.key(features).flatten(1).softmax(1)  # (B, H * W)
        context = (share[:, None] @ channels_last(features).flatten(1, 2)).squeeze(1)
        told: Tensor = self.transform(context)
        return features + told[:, :, None, None]


@METHODS.register("fgd")
class FocalGlobalDistiller(Distiller):
    """Distil foreground and background apart, where the teacher attends (focal), and the relation of cells (global).

    Teacher and student have a relation block of their own, as in the authors' code; both are trained.

    Differs from the paper: the global loss is a mean over C * H * W, not a sum, and the attention loss a mean (its "L1
    loss"; the authors' code sums), so that no gain depends on the image's size. Foreground and background are sums as
    published: the scale mask makes them independent of it. And boxes cover cells as in `distill.masks`; the authors'
    code widens them.

    Args:
        temperature: T of the attentions (paper: 0.5).
        foreground, background: alpha and beta within the feature loss; the paper has 2 : 1.
        gains: base gains of the three losses: feature (alpha, beta), attention (gamma), global (lambda).
        mix: as of `distill.features.FeatureDistiller` (published code: unequal).
    """

    terms = (
        Term("fgd_fg_loss", "fgd_feature"),
        Term("fgd_bg_loss", "fgd_feature"),
        Term("fgd_att_loss", "fgd_attention"),
        Term("fgd_global_loss", "fgd_global"),
    )

    def __init__(
        self,
        student: Spec,
        teacher: Spec,
        temperature: float = 0.5,
        foreground: float = 1.0,
        background: float = 0.5,
        gains: dict[str, float] | None = None,
        mix: str = ALWAYS,
    ) -> None:
        super().__init__(student, teacher)
        self.temperature = positive("fgd", "temperature", temperature, 0.5)
        self.foreground = not_negative("fgd", "foreground", foreground)
        self.background = not_negative("fgd", "background", background)
        self.gains = gains_of("fgd", gains, GAINS)
        self.mix = choice("fgd", "mix", mix, (ALWAYS, UNEQUAL))
        levels = {n: (student.levels[n], teacher.levels[n]) for n in self.pairs}
        self.adapters = nn.ModuleDict({n: Adapter(*pair, mix=self.mix) for n, pair in levels.items()})
        self.student_relation = nn.ModuleDict({n: Relation(t.channels) for n, (_, t) in levels.items()})
        self.target_relation = nn.ModuleDict({n: Relation(t.channels) for n, (_, t) in levels.items()})

    def losses(self, step: Step) -> dict[str, Tensor]:
        """`fgd_fg_loss`, `fgd_bg_loss`, `fgd_att_loss`, `fgd_global_loss`, gains included, summed over levels."""
        teacher, student = float32(step.teacher), float32(step.student)
        levels = [self._level(n, teacher[n], student[n], step) for n in self.pairs]
        fg, bg, attended, whole = (torch.stack(terms).sum() for terms in zip(*levels))
        return {
            "fgd_fg_loss": fg * self.gains["feature"] * self.foreground,
            "fgd_bg_loss": bg * self.gains["feature"] * self.background,
            "fgd_att_loss": attended * self.gains["attention"],
            "fgd_global_loss": whole * self.gains["global"],
        }

    def _level(self, name: str, teacher: Tensor, student: Tensor, step: Step) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        grid_hw = (teacher.shape[2], teacher.shape[3])
        student = self.adapters[name](student, teacher)
        (spatial, channel), (own_spatial, own_channel) = (attention(x, self.temperature) for x in (teacher, student))
        masks = box_masks(step.batch["bboxes"].to(teacher.device), step.batch["batch_idx"], step.size, grid_hw)
        weight = channels_second(channels_last(spatial) * channels_last(channel))
        fg, bg = focal_error(teacher, student, weight, masks)
        attended = (spatial - own_spatial).abs().mean() + (channel - own_channel).abs().mean()
        whole = mean_square(self.student_relation[name](student), self.target_relation[name](teacher))
        return fg, bg, attended, whole

    def describe(self) -> str:
        return f"focal and global features; {super().describe()}"
