"""SDD FTI-FDet, spatial-wise dynamic distillation (Y. Zhang et al. 2023): LGD with a feature adaptor and a soft KL."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from cfg import UserError
from distill.base import METHODS, Spec, Term
from distill.dynamic.adaptor import FeatureAdaptor
from distill.methods.lgd import LGDDistiller
from distill.options import positive

DIMS = (1, 2, 4, 8)  # Table VI


def softened_kl(teacher: Tensor, student: Tensor, temperature: float) -> Tensor:
    """Eq. 7: `tau^2 KL(softmax(x_T / tau) || softmax(x_S / tau))` over each image's row (B, D), mean over images.

    The paper has no tau^2; without it the gradient would shrink with the temperature (Hinton et al. 2015).
    """
    log_teacher, log_student = (teacher / temperature).log_softmax(1), (student / temperature).log_softmax(1)
    return (log_teacher.exp() * (log_teacher - log_student)).sum(1).mean() * temperature**2


@METHODS.register("sdd")
class SDDDistiller(LGDDistiller):
    """LGD plus: the teacher's maps are mixed along height, width and channels (eq. 5), the distance is a KL (eq. 7).

    The adaptor's layers belong to one grid: `prepare` builds them for the training images' size, before anything is
    optimised or loaded; until then it is that of 640 x 640 pixels. Other sizes are resized to that grid and back.

    Args:
        gain: lambda of eq. 8.
        dim: segments of the feature adaptor, 1, 2, 4 or 8 (paper: 4).
        temperature: tau of eq. 7 (paper: 15); None: LGD's mean square in its place, "-" in Table VI.
        virtual, start, freeze_until, ahead, trains_head, place: as in LGD, the authors' 3,000 and 2,000 of 18,000 steps.
    """

    name = "sdd"
    kernel = 1  # the feature adaptor mixes cells
    terms = (Term("sdd_loss", "sdd"), Term("sdd_teacher_loss", "sdd_teacher", own=True))

    def __init__(
        self,
        student: Spec,
        teacher: Spec | None,
        gain: float = 1.0,
        dim: int = 4,
        temperature: float | None = 15.0,
        virtual: bool = True,
        start: float = 1 / 6,
        freeze_until: float = 1 / 9,
        ahead: bool = True,
        trains_head: bool = False,
        place: bool = True,
    ) -> None:
        super().__init__(student, teacher, gain, virtual, start, freeze_until, ahead, trains_head, place)
        if dim not in DIMS or isinstance(dim, bool):
            raise UserError(f"sdd: expected dim to be 1, 2, 4 or 8, got {dim!r}; the paper's is 4")
        self.dim, self.temperature = dim, temperature
        if temperature is not None:
            positive(self.name, "temperature", temperature, 15)
        self.prepare(640, 640)

    def prepare(self, height: int, width: int) -> None:
        """Build the feature adaptors for images of `height` x `width` pixels."""
        grids = {n: (math.ceil(height / size.stride), math.ceil(width / size.stride)) for n, size in self.sizes.items()}
        self.register_buffer("image_hw", torch.tensor([height, width]))  # whoever loads a checkpoint prepares for it
        self.adaptors = nn.ModuleDict({n: FeatureAdaptor(self.sizes[n].channels, grids[n], self.dim) for n in grids})

    def arranged(self, name: str, features: Tensor) -> Tensor:
        mixed: Tensor = self.adaptors[name](features)
        return mixed

    def difference(self, teacher: Tensor, student: Tensor) -> Tensor:
        if self.temperature is None:
            return super().difference(teacher, student)
        return softened_kl(teacher, student, self.temperature)
