"""LGD, label-guided self-distillation: a teacher made of labels and the student's features (P. Zhang et al. 2022)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from distill.base import METHODS, Distiller, Spec, Step, Term, float32
from distill.cells import centred, channels_last
from distill.dynamic.labels import LabelEncoder
from distill.dynamic.level import LevelTeacher
from distill.dynamic.objects import pack_objects
from distill.options import flag, not_negative, ratio
from distill.schedule import FAINTEST

LABEL_CHANNELS = 256
LATEST = 0.02  # weight of a step in the running means of the two detection losses


def standardised(x: Tensor) -> Tensor:
    """Instance norm without parameters: each image's channel has mean 0 and variance 1 over positions. (B, C, H, W)."""
    rest, _, variance = centred(x)
    return rest / (variance + 1e-5).sqrt()


def in_a_row(x: Tensor) -> Tensor:
    """(B, C, H, W) -> (B, H * W * C): the distances do not depend on the order, and this one needs no copy."""
    return channels_last(x).flatten(1)


def student_adaptor(channels: int) -> nn.Sequential:
    """`f_adapt` of SDD FTI-FDet, eq. 6: three 1x1 convs with ReLU between. Standardising takes the last bias out."""
    between = [nn.Conv2d(channels, channels, 1), nn.ReLU(), nn.Conv2d(channels, channels, 1), nn.ReLU()]
    return nn.Sequential(*between, nn.Conv2d(channels, channels, 1, bias=False))


@METHODS.register("lgd")
class LGDDistiller(Distiller):
    """A dynamic teacher trained beside the student through the student's own head, and thrown away afterwards.

    Its features come from the labels and from the student's detached features (label encoder, appearance encoder,
    interaction). They learn by the detection loss that the student's head has on them, `lgd_teacher_loss`, and the student's
    features follow them: `lgd_loss`, mean square difference when standardised.

    Differs from the paper: boxes' overlaps are averaged (`distill.dynamic`); the student follows as far as the teacher is ahead
    (`ahead`): one that finds no more than its student has nothing to teach; the teacher's loss does not train the
    head (`trains_head`), which has to serve the student's features alone in the end; and the teacher gets each cell's place in
    its box (`place`).

    Args:
        gain: lambda, of the term that trains the student.
        virtual: whether each image has a virtual object that covers it.
        start: fraction of training before which nothing is distilled (the teacher learns from the beginning).
        freeze_until: fraction of training up to which no parameter of the student's backbone moves; a run whose student
            starts from random weights sets it to 0 (`engine.training.build`): there is no reason to keep random features.
        ahead: multiply the gradient ratio by the teacher's lead, `1 - L_det(T) / L_det(S)` by running means. While it has
            none, hardly more than the student's adaptor learns. False: the whole ratio always, as in the paper.
        trains_head: whether the teacher's detection loss trains the student's head too, as in the paper.
        place: give the teacher each cell's place in its box too (`distill.dynamic.place`). The paper does not: what it paints is the same
            all over a box, and a head must learn from it how far the edges are.
    """

    uses_teacher = False
    name = "lgd"
    kernel = 3  # of the convs on the teacher's maps
    errors: Tensor
    seen: Tensor
    terms = (Term("lgd_loss", "lgd"), Term("lgd_teacher_loss", "lgd_teacher", own=True))

    def __init__(
        self,
        student: Spec,
        teacher: Spec | None,
        gain: float = 1.0,
        virtual: bool = True,
        start: float = 1 / 6,
        freeze_until: float = 1 / 9,
        ahead: bool = True,
        trains_head: bool = False,
        place: bool = True,
    ) -> None:
        super().__init__(student, None)
        self.gain, self.virtual = not_negative(self.name, "gain", gain), flag(self.name, "virtual", virtual)
        self.start = ratio(self.name, "start", start, 1 / 6)
        self.freeze_until = ratio(self.name, "freeze_until", freeze_until, 1 / 9)
        self.ahead, self.trains_head = flag(self.name, "ahead", ahead), flag(self.name, "trains_head", trains_head)
        self.register_buffer("errors", torch.zeros(2))  # running means of the detection loss: the teacher's, the student's
        self.register_buffer("seen", torch.zeros(()))  # steps in them
        self.nc, self.sizes = student.nc, dict(student.levels)
        self.labels = LabelEncoder(student.nc, LABEL_CHANNELS)
        place = flag(self.name, "place", place)
        teacher_of = partial(LevelTeacher, label_channels=LABEL_CHANNELS, kernel=self.kernel, place=place)
        self.levels = nn.ModuleDict({n: teacher_of(size.channels) for n, size in self.sizes.items()})
        self.adapt = nn.ModuleDict({n: student_adaptor(size.channels) for n, size in self.sizes.items()})

    def teach(self, batch: Mapping[str, Any], feats: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The dynamic teacher's features, level -> (B, C, H, W), from a batch's labels and the student's features."""
        objects = pack_objects(batch, self.nc, next(iter(feats.values())).device, self.virtual)
        labels = self.labels(objects)
        return {name: self.arranged(name, self.levels[name](x, labels, objects)) for name, x in feats.items()}

    def arranged(self, name: str, features: Tensor) -> Tensor:
        """What is done to a level's features (B, C, H, W) at last: nothing."""
        return features

    def difference(self, teacher: Tensor, student: Tensor) -> Tensor:
        """How far the student is from the teacher, 0-d; both (B, D), all standardised features of an image in a row."""
        return (teacher - student).square().mean()

    def losses(self, step: Step) -> dict[str, Tensor]:
        """The student's distance to the teacher (0 before `start`) and the detection loss on the teacher's features."""
        feats = float32(step.student)
        taught = self.teach(step.batch, feats)
        own = torch.stack(list(step.task_loss(step.head(list(taught.values()), self.trains_head)).values())).sum()
        self._compare(own, torch.stack(list(step.detection.values())).sum())
        distance = own.new_zeros(())
        if step.progress >= self.start:
            distance = self._distance(taught, feats)
        return {f"{self.name}_loss": distance * self.gain, f"{self.name}_teacher_loss": own}

    def trust(self) -> dict[str, float]:
        """The teacher's lead: the part of the student's detection loss that it does not have. 1: as the paper, always."""
        if not self.ahead or not self.seen:
            return {}
        own, student = self.errors.tolist()
        return {self.name: min(max(1 - own / student, FAINTEST), 1.0) if student > 0 else FAINTEST}

    @torch.no_grad()
    def _compare(self, teacher: Tensor, student: Tensor) -> None:
        """Note the detection losses of a training step, 0-d each; of all processes, so that they give the teacher the same trust."""
        if self.training:
            losses = torch.stack((teacher, student))
            if dist.is_available() and dist.is_initialized():
                dist.all_reduce(losses)
                losses /= dist.get_world_size()
            self.seen += 1
            self.errors += (losses - self.errors) * (1 / self.seen).clamp(min=LATEST)

    def _distance(self, taught: dict[str, Tensor], feats: dict[str, Tensor]) -> Tensor:
        rows = [torch.cat([in_a_row(standardised(x)) for x in maps], 1) for maps in self._sides(taught, feats)]
        return self.difference(*rows)

    def _sides(self, taught: dict[str, Tensor], feats: dict[str, Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        """Detached teacher features and adapted student features by level."""
        return [x.detach() for x in taught.values()], [self.adapt[name](feats[name]) for name in taught]

    def describe(self) -> str:
        return f"dynamic teacher from labels, distilled from {self.start:.0%} of training on; {super().describe()}"
