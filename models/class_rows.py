"""Class outputs of a detector's head, by class: which rows they are, and how they are copied to another order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from models.detector import DetectionModel
from models.heads.base import Head

BRANCHES = ("cv3", "one2one_cv3")  # class branches of ultralytics' Detect, each with a sequence of layers per level


def class_rows(detector: DetectionModel, nc: int | None = None) -> dict[str, Tensor]:
    """Which rows of which tensors score which class: name in the state dict -> (rows,), the class of each, -1 for none.

    Args:
        detector: ours or a stock one.
        nc: number of classes, for the rows of the same detector with other classes.
    """
    last = len(detector.model) - 1
    head = detector.model[last]
    nc = nc or head.nc
    rows = head.class_rows(nc) if isinstance(head, Head) else _stock_rows(head, nc)
    return {f"model.{last}.{name}": of_class for name, of_class in rows.items()}


def _stock_rows(head: nn.Module, nc: int) -> dict[str, Tensor]:
    """The last convolution of every class branch has a row per class."""
    names = [
        f"{branch}.{level}.{len(layers) - 1}.{kind}"
        for branch in BRANCHES
        for level, layers in enumerate(getattr(head, branch, None) or ())
        for kind in ("weight", "bias")
    ]
    return dict.fromkeys(names, torch.arange(nc))


@torch.no_grad()
def take_classes(
    target: Tensor, tensor: Tensor, own: Tensor, theirs: Tensor, source: Sequence[int | None]
) -> bool:
    """Copy rows of `tensor` into `target` by class, in place; False when there is none to copy, or they do not fit.

    Args:
        target, tensor: parameters (rows, ...) of two heads.
        own, theirs: the class of each of their rows (`class_rows`); rows of none are copied as they are.
        source: for each class of `target` the one of `tensor`; None leaves its rows as they were.
    """
    if tensor.shape != (len(theirs), *target.shape[1:]):
        return False
    pairs = [(-1, -1), *((mine, other) for mine, other in enumerate(source) if other is not None)]
    for mine, other in pairs:
        target[own == mine] = tensor[theirs == other].to(target.dtype)
    return any(bool((own == mine).any()) for mine, _ in pairs)


def reorder_classes(detector: DetectionModel, source: Sequence[int], names: Mapping[int, str]) -> None:
    """Renumber a detector's classes in place: class i becomes what `source[i]` was, and `names` its class names."""
    state = detector.state_dict()
    for name, of_class in class_rows(detector).items():
        take_classes(state[name], state[name].clone(), of_class, of_class, source)
    detector.names = dict(names)
