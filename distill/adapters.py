"""Bring the student's features to the teacher's channels and grid."""

from __future__ import annotations

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from distill.base import Level

ALWAYS, UNEQUAL = "always", "unequal"  # when channels are mixed: always, or where their numbers differ, as published code does
RIDGE = 1e-2  # of the mean variance of the student's channels: one batch has hardly more cells than a coarse level has channels


class Adapter(nn.Module):
    """`f` of Zhang et al. 2022, eq. 5: 1x1 conv to the teacher's channels, resized when the grids differ.

    (B, C_S, H_S, W_S), (B, C_T, H_T, W_T) -> (B, C_T, H_T, W_T).

    Differs from the papers: the conv does not start from random numbers, but from the least squares of the teacher's features
    on the student's in the first batch of training. And it is there also where both have as many channels: channel k of one
    network is not channel k of another, unless both started from the same weights. A student with start weights was
    led away from what it knew by being compared channel by channel (benchmarks/learning.md).

    Args:
        student, teacher: the level of both.
        bias: of the conv; of no use to a loss that a constant added to a channel leaves as it is.
        mix: `always`, or `unequal`: no conv where the numbers of channels are equal.
    """

    solved: Tensor

    def __init__(self, student: Level, teacher: Level, bias: bool = True, mix: str = ALWAYS) -> None:
        super().__init__()
        mixes = mix == ALWAYS or student.channels != teacher.channels
        self.mix = nn.Conv2d(student.channels, teacher.channels, 1, bias=bias) if mixes else nn.Identity()
        self.register_buffer("solved", torch.tensor(not mixes))  # kept: a resumed run does not start its conv anew
        self.begun = False  # whether `solved` was looked at in training: to read a GPU's tensor at every step would wait for it

    def forward(self, features: Tensor, target: Tensor) -> Tensor:
        """Features (B, C_S, H_S, W_S) brought to the channels and grid of the target (B, C_T, H_T, W_T)."""
        if self.training and not self.begun:
            if not self.solved:
                self.solve(features.detach(), target.detach())
            self.begun = True
        return resized(self.mix(features), target)

    @torch.no_grad()
    def solve(self, features: Tensor, target: Tensor) -> None:
        """Set the conv to the ridge regression of the target on the features, over the cells of all processes.

        Both are centred in each image first: a pattern is to be met, the bias takes what is left of the means.
        """
        self.solved.fill_(True)
        features, target = resized(features.float(), target), target.float()
        inputs, outputs = (_rows(x - x.mean((2, 3), keepdim=True)) for x in (features, target))
        gram, cross = inputs.T @ inputs, inputs.T @ outputs
        shift = torch.cat([features.mean((0, 2, 3)), target.mean((0, 2, 3))])
        if dist.is_available() and dist.is_initialized():
            for part in (gram, cross, shift):
                dist.all_reduce(part)
            shift /= dist.get_world_size()
        gram, cross = gram.double().cpu(), cross.double().cpu()
        ridge = RIDGE * gram.diagonal().mean() + torch.finfo(torch.float32).tiny
        conv = dict(self.mix.named_parameters())
        weight = torch.linalg.solve(gram + ridge * torch.eye(len(gram), dtype=gram.dtype), cross).T.to(conv["weight"])
        if not weight.isfinite().all():  # features that are no numbers: the loss will say so
            return
        conv["weight"].copy_(weight[..., None, None])
        if "bias" in conv:
            conv["bias"].copy_(shift[features.shape[1] :] - weight @ shift[: features.shape[1]])


def resized(features: Tensor, target: Tensor) -> Tensor:
    """Features on the grid of the target, bilinear where it differs."""
    if features.shape[-2:] == target.shape[-2:]:
        return features
    return F.interpolate(features, size=target.shape[-2:], mode="bilinear", align_corners=False)


def _rows(features: Tensor) -> Tensor:
    """(B, C, H, W) -> (B * H * W, C)."""
    return features.permute(0, 2, 3, 1).flatten(0, 2)
