"""Score-weighted L2 of features: the distillation that ultralytics has built in (`distill_model`), for comparison."""

from __future__ import annotations

from torch import Tensor, nn

from distill.adapters import resized
from distill.base import METHODS, Level, Spec, Step, Term
from distill.features import FeatureDistiller
from distill.outputs import cell_scores, check_cells
from models.losses.host import score_weighted_l2


class Projector(nn.Sequential):
    """ultralytics' projector: 1x1 conv to the teacher's channels, ReLU, 1x1 conv; resized when the grids differ."""

    def __init__(self, student: Level, teacher: Level) -> None:
        super().__init__(
            nn.Conv2d(student.channels, teacher.channels, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(teacher.channels, teacher.channels, 1),
        )

    def forward(self, features: Tensor, target: Tensor) -> Tensor:  # type: ignore[override] # as an adapter is called
        for layer in self:
            features = layer(features)
        return resized(features, target)


@METHODS.register("score_l2")
class ScoreDistiller(FeatureDistiller):
    """Pull the student's neck towards the teacher's, each cell weighted by the teacher's highest class score there.

    The loss is ultralytics' own function, for each image, averaged.

    Differs from ultralytics: there it is called on the batch, where an image counts by the sum of its scores. Levels
    are paired by stride, ultralytics' by position. Of an end-to-end teacher's two branches the one-to-many scores alone
    count, ultralytics takes the mean of both. An anchor head's score is that of its best anchor, class times
    objectness; ultralytics has no such heads.

    Args:
        gain: base gain of the loss (`dis` in ultralytics, 6 by default).
    """

    method = "score_l2"
    label_free = True
    reads_head = True
    terms = (Term("score_l2_loss", "score_l2"),)

    def __init__(self, student: Spec, teacher: Spec, gain: float = 1.0) -> None:
        super().__init__(student, teacher, gain)
        check_cells("score_l2", teacher)

    def adapter(self, student: Level, teacher: Level) -> nn.Module:
        return Projector(student, teacher)

    def compare(self, level: str, teacher: Tensor, student: Tensor, step: Step) -> Tensor:
        return score_weighted_l2(student, teacher, cell_scores(step.teacher, level).flatten(2)).mean()

    def describe(self) -> str:
        return f"features where the teacher scores high; {super().describe()}"
