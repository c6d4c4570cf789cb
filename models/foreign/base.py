"""What a teacher of another program must show: its feature pyramid, by stride."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from cfg import UserError

PROBE = 256  # side in pixels of the blank image on which strides are measured: a multiple of all usual ones


class FeatureTap(nn.Module):
    """Replaces a head and returns the features that the head would read."""

    def forward(self, features: list[Tensor], batch: object = None) -> dict[str, list[Tensor]]:
        """Features (B, C, H, W) per level -> `{"feats": features}`; RT-DETR's head is given the `batch` too."""
        return {"feats": list(features)}


def tap(layers: nn.Sequential) -> None:
    """Replace the head, the last of an ultralytics model's `layers`, by a `FeatureTap`, in place."""
    head = layers[-1]
    shown = FeatureTap().train(head.training)
    vars(shown).update(i=head.i, f=head.f, type=head.type)
    layers[-1] = shown


class FeaturePyramid(nn.Module):
    """A detector without its head: images (B, 3, H, W), RGB 0..1 -> `{"feats": [(B, C, H / stride, W / stride), ...]}`.

    Subclasses give `pyramid(images)`, set their parts and call `measure()`.

    Attributes:
        headless: why its predictions cannot be compared with a grid head's; for messages.
        names: class names by index.
        nc: number of classes.
        stride: (levels,) image pixels per cell, finest first, after `measure()`.
    """

    headless: ClassVar[str]
    stride: Tensor

    def __init__(self, names: dict[int, str]) -> None:
        super().__init__()
        self.names, self.nc = dict(names), len(names)

    def pyramid(self, images: Tensor) -> list[Tensor]:
        """Feature maps (B, C, H, W) of all levels, finest first."""
        raise NotImplementedError

    def forward(self, images: Tensor) -> dict[str, list[Tensor]]:
        return {"feats": self.pyramid(images)}

    @torch.no_grad()
    def measure(self) -> None:
        """Find the strides on a blank image: its side over the grid's.

        Raises:
            UserError: a level's grid does not divide the image, or levels do not get coarser: they cannot be named.
        """
        was_training = self.training
        parameter = next(self.parameters())
        blank = torch.zeros(1, 3, PROBE, PROBE, device=parameter.device, dtype=parameter.dtype)
        sides = [x.shape[-1] for x in self.eval().pyramid(blank)]
        self.train(was_training)
        strides = [PROBE // side for side in sides]
        powers = all(s & (s - 1) == 0 for s in strides)
        if not powers or [s * n for s, n in zip(strides, sides)] != [PROBE] * len(sides) or strides != sorted(strides):
            raise UserError(
                f"expected levels at strides that are powers of two, finest first; a {PROBE} px image gives grids of "
                f"{sides} cells; use a detector with a feature pyramid"
            )
        self.stride = torch.tensor([float(s) for s in strides])
