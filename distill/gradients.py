"""How hard each loss pulls at the student: inner products of the gradients at its neck."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import combinations_with_replacement
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

# Of the losses, whose gradients at half-precision features would underflow without the first, or overflow with it.
SCALES = (1024.0, 1.0, 1 / 1024)


def gradient_products(losses: Sequence[Tensor], feats: Sequence[Tensor]) -> Tensor:
    """Inner products (n, n), float32, of the gradients of n 0-d losses at the neck outputs `feats`, all levels together.

    The gradient of any weighted sum of the losses has the squared length `w^T G w`: its diagonal alone gives the
    length of each. A loss without a gradient there counts as a zero vector. The graph is kept for the backward pass.
    Not finite where a gradient is not, whatever its scale.
    """
    half = any(x.dtype == torch.float16 for x in feats)
    for scale in SCALES if half else SCALES[:1]:
        gradients = [_gradient(loss * scale, feats) for loss in losses]
        if not half or all(g.isfinite().all() for level in gradients for g in level if g is not None):
            break
    products = torch.zeros(len(losses), len(losses), device=feats[0].device)
    for i, j in combinations_with_replacement(range(len(losses)), 2):
        pairs = [(a, b) for a, b in zip(gradients[i], gradients[j]) if a is not None and b is not None]
        # Element by element: autocast would turn a matrix product into half precision.
        products[i, j] = products[j, i] = sum((a.float() / scale * (b.float() / scale)).sum() for a, b in pairs)
    return products


def _gradient(loss: Tensor, feats: Sequence[Tensor]) -> list[Tensor | None]:
    """Gradient of a loss by level, None for a level it does not depend on, or that none reaches (`StopGradient`)."""
    reached = [i for i, x in enumerate(feats) if x.requires_grad]
    gradients: list[Tensor | None] = [None] * len(feats)
    if loss.requires_grad and reached:
        found = torch.autograd.grad(loss, [feats[i] for i in reached], retain_graph=True, allow_unused=True)
        for i, gradient in zip(reached, found):
            gradients[i] = gradient
    return gradients


class HeadInputs:
    """Within this context, hands a head its maps under new names: what flows back through the head alone arrives there.

    Attributes:
        outputs: the neck's maps (B, C, H, W); the finer ones may also be what coarser ones are made of. Empty where
            `watched` is False or the head was not run.
        read: the same values, for the head and for all who read its output.
    """

    def __init__(self, head: nn.Module, watched: bool) -> None:
        self.head, self.watched = head, watched
        self.outputs: list[Tensor] = []
        self.read: list[Tensor] = []

    def __enter__(self) -> HeadInputs:
        self.hook = self.head.register_forward_pre_hook(self._rename) if self.watched else None
        return self

    def __exit__(self, *error: object) -> None:
        if self.hook is not None:
            self.hook.remove()

    def _rename(self, head: nn.Module, given: tuple[Any, ...]) -> tuple[Any, ...]:
        self.outputs = list(given[0])
        self.read = [x.view_as(x) for x in self.outputs]
        return (list(self.read), *given[1:])


class StopGradient:
    """Within this context, no gradient reaches these layers: what they give is cut off from what it was made of.

    So frozen layers cost no backward pass, and an optimiser, which finds no gradient, leaves their parameters alone.
    BatchNorm goes on counting: an untrained backbone's statistics would otherwise stay those of no image.
    """

    def __init__(self, layers: Iterable[nn.Module]) -> None:
        self.layers = list(layers)

    def __enter__(self) -> None:
        self.hooks = [layer.register_forward_hook(self._cut) for layer in self.layers]

    def __exit__(self, *error: object) -> None:
        for hook in self.hooks:
            hook.remove()

    @staticmethod
    def _cut(layer: nn.Module, given: tuple[Any, ...], output: Tensor | Sequence[Tensor]) -> Tensor | list[Tensor]:
        return output.detach() if isinstance(output, Tensor) else [x.detach() for x in output]


def walked_once(loss: Tensor, feats: Sequence[Tensor], parameters: Sequence[Tensor]) -> Tensor | None:
    """A stand-in for a 0-d loss whose gradient is computed here and now, and handed out at every backward pass.

    So a loss that is measured at the neck and then minimised costs one pass through the head and not two.

    Args:
        loss: depends on what is trained through `feats` and `parameters` alone.
        feats: what the head alone reads (`HeadInputs.read`): a level's own map also feeds coarser levels.
        parameters: of the head.

    Returns:
        None where that is not to be had: half-precision maps, whose gradients need the scale that the trainer's own
        backward pass has, and maps that the loss does not depend on.
    """
    if not loss.requires_grad or any(x.dtype == torch.float16 for x in feats):
        return None
    inputs = [x for x in (*feats, *parameters) if x.requires_grad]
    gradients = torch.autograd.grad(loss, inputs, retain_graph=True, allow_unused=True)
    if any(gradient is None for x, gradient in zip(inputs, gradients) if any(x is y for y in feats)):
        return None
    known = [(x, gradient) for x, gradient in zip(inputs, gradients) if gradient is not None]
    return _Known.apply(loss.detach(), *(x for x, _ in known), *(gradient for _, gradient in known))


class _Known(torch.autograd.Function):
    """A value and the gradients it has at some tensors."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, *tensors: Tensor) -> Tensor:
        ctx.save_for_backward(*tensors[len(tensors) // 2 :])
        return value.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, outer: Tensor) -> tuple[Tensor | None, ...]:
        gradients = ctx.saved_tensors
        return None, *(outer.to(x.dtype) * x for x in gradients), *([None] * len(gradients))
