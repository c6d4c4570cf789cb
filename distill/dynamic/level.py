"""A dynamic teacher's features on one pyramid level, from the student's map and the label embeddings."""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn

from distill.dynamic.appearance import AppearanceEncoder
from distill.dynamic.interaction import Interaction, paint
from distill.dynamic.objects import Objects
from distill.dynamic.place import PLACE, places


class LevelTeacher(nn.Module):
    """Appearance of the objects, interaction with the labels, and the way back to a map (LGD; SDD FTI-FDet, Fig. 2).

    Args:
        channels: C of the student's map, and of the result.
        label_channels: of the label embeddings.
        kernel: of the convs on the painted map. With 1 a cell inside a box cannot know where in it it lies, unless something
            else mixes cells afterwards.
        place: whether each cell also gets where it lies in its box (`distill.dynamic.place`).
    """

    def __init__(self, channels: int, label_channels: int, kernel: int = 1, place: bool = False) -> None:
        super().__init__()
        conv = partial(nn.Conv2d, channels, channels, kernel, padding=kernel // 2)
        self.look = AppearanceEncoder(channels)
        self.interact = Interaction(channels, label_channels)
        self.place = nn.Sequential(nn.Conv2d(PLACE, channels, 1), nn.ReLU(), nn.Conv2d(channels, channels, 1)) if place else None
        self.project = nn.Sequential(conv(), nn.ReLU())
        steps = [(conv(), nn.GroupNorm(1, channels), nn.ReLU()) for _ in range(3)]
        self.refine = nn.Sequential(*[layer for step in steps for layer in step][:-1])

    def forward(self, features: Tensor, labels: Tensor, objects: Objects) -> Tensor:
        """(B, C, H, W), (B, M, L) -> (B, C, H, W). Gives no gradient to the student's features."""
        rows, columns = objects.masks((features.shape[2], features.shape[3]))
        appearance = self.look(features.detach(), rows, columns)
        together = self.interact(appearance, labels, objects.valid)
        painted = paint(together, rows, columns)
        if self.place is not None:
            painted = painted + self.place(places(objects, rows, columns))
        return self.refine(self.project(painted))
