"""Gradients of the losses at the parameters of the student's backbone and neck (its trunk), and their inner products."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from models.detector import DetectionModel

# Of the losses, whose gradients at half-precision features would underflow without the first, or overflow with it.
SCALES = (1024.0, 1.0, 1 / 1024)


def trunk(student: DetectionModel) -> list[nn.Parameter]:
    """Trained parameters of backbone and neck: what the detection loss and every distillation loss share.

    Those of the head where all others are frozen.
    """
    found = [p for layer in student.model[:-1] for p in layer.parameters() if p.requires_grad]
    return found or [p for p in student.model[-1].parameters() if p.requires_grad]


@dataclass(frozen=True)
class GradientProducts:
    """Gradients of the detection loss and of n distillation terms in one step, by their inner products.

    Attributes:
        products: (1 + n, 1 + n), detection first.
    """

    products: Tensor

    @property
    def known(self) -> bool:
        """Whether they can be used: without boxes detection may have no gradient, and a gradient may be NaN."""
        return bool(self.products.isfinite().all()) and bool(self.products[0, 0] > 0)

    @property
    def detection(self) -> Tensor:
        """0-d length of the detection loss's gradient."""
        return self.products[0, 0].sqrt()

    def lengths(self, factors: Tensor) -> Tensor:
        """(m,) lengths of the gradients of m weighted sums of the terms; factors (m, n)."""
        return (factors @ self.products[1:, 1:] @ factors.T).diagonal().clamp(min=0).sqrt()

    def cosines(self, factors: Tensor) -> Tensor:
        """(m,) cosines of the gradients of such sums with the detection loss's; 0 for a sum without a gradient."""
        along = factors @ self.products[1:, 0] / self.detection
        lengths = self.lengths(factors)
        return torch.where(lengths > 0, along / lengths.clamp(min=torch.finfo(along.dtype).tiny), 0.0).clamp(-1, 1)


def measure_gradients(detection: Tensor, terms: Sequence[Tensor], parameters: Sequence[Tensor], half: bool = False) -> GradientProducts:
    """`GradientProducts` of 0-d losses at `parameters`: the mean over the processes of a distributed run, so equal in all.

    Costs one backward pass per loss. The graph is kept for the step's own.
    """
    products = gradient_products([detection, *terms], parameters, half)
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(products)
        products /= dist.get_world_size()
    return GradientProducts(products)


def gradient_products(losses: Sequence[Tensor], parameters: Sequence[Tensor], half: bool = False) -> Tensor:
    """Inner products (n, n), float32, of the gradients of n 0-d losses at `parameters`, all of them together.

    The gradient of any weighted sum of the losses has the squared length `w^T G w`: its diagonal alone gives the
    length of each. A loss without a gradient there counts as a zero vector. Not finite where a gradient is not,
    whatever its scale.

    Args:
        half: the forward pass ran in float16, so that gradients on their way need a scale.
    """
    rows = torch.empty(len(losses), sum(p.numel() for p in parameters), device=losses[0].device)
    for scale in SCALES if half else (1.0,):
        for row, loss in zip(rows, losses):
            row.copy_(_gradient(loss * scale, parameters))
        rows /= scale
        if rows.isfinite().all():
            break
    with torch.autocast(rows.device.type, enabled=False):  # it would turn the product into half precision
        return rows @ rows.T


def _gradient(loss: Tensor, parameters: Sequence[Tensor]) -> Tensor:
    """Gradient of a loss at all parameters in a row, 0 where it does not depend on one, or none reaches it (`StopGradient`)."""
    if not loss.requires_grad or not parameters:
        return loss.new_zeros(sum(p.numel() for p in parameters), dtype=torch.float32)
    found = torch.autograd.grad(loss, list(parameters), retain_graph=True, allow_unused=True)
    parts = [torch.zeros_like(p) if g is None else g for p, g in zip(parameters, found)]
    return torch.cat([part.flatten().float() for part in parts])


class StopGradient:
    """Within this context, no gradient reaches these layers: their outputs are detached.

    So frozen layers cost no backward pass, and the optimiser, without a gradient, does not change their parameters.
    BatchNorm still updates its statistics: those of an untrained backbone would otherwise be of no image.
    """

    def __init__(self, layers: Iterable[nn.Module]) -> None:
        self.layers = list(layers)

    def __enter__(self) -> None:
        self.hooks = [layer.register_forward_hook(self._cut) for layer in self.layers]

    def __exit__(self, *error: object) -> None:
        for hook in self.hooks:
            hook.remove()

    @staticmethod
    def _cut(layer: nn.Module, given: tuple[object, ...], output: Tensor | Sequence[Tensor]) -> Tensor | list[Tensor]:
        return output.detach() if isinstance(output, Tensor) else [x.detach() for x in output]
