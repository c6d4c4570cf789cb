"""A start from other weights: what fits by name and shape is copied, class outputs by class on request."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

import models.environment  # noqa: F401  (before ultralytics)
from models.class_rows import class_rows, take_classes

FIRST_ROW = "model.0."  # where the names of a detector's first row begin
YOLOV5_FIRST_STRIDE = 8


@dataclass(frozen=True)
class Transfer:
    """Outcome of `transfer`: `matched` of `total` tensors were copied; `skipped` names those that found no place."""

    matched: int
    total: int
    skipped: list[str]


@dataclass(frozen=True)
class ClassSource:
    """Where class outputs come from: for each class of the model one of `known` classes of the weights, or None."""

    source: tuple[int | None, ...]
    known: int


@torch.no_grad()
def transfer(model: nn.Module, state: dict[str, Tensor], classes: ClassSource | None = None) -> Transfer:
    """Copy into `model`, in place, every tensor of `state` whose name and shape match one of the model's.

    YOLOv5 stores anchor sizes in grid cells (``....anchors``, (levels, anchors, 2)); a model that keeps them in pixels
    (``....anchor_wh``) takes them times YOLOv5's strides 8, 16, 32 ... A backbone's own weights (torchvision's, from
    ImageNet) have no row number in their names; they go to the first row. Class outputs are copied class by class
    where `classes` says from which; else as any other tensor.
    """
    own, skipped = model.state_dict(), []
    if not any(name in own for name in state) and any(f"{FIRST_ROW}{name}" in own for name in state):
        state = {f"{FIRST_ROW}{name}": tensor for name, tensor in state.items()}
    rows = (class_rows(model), class_rows(model, classes.known)) if classes else ({}, {})
    for name, tensor in state.items():
        pixels = f"{name.removesuffix('.anchors')}.anchor_wh"
        if name.endswith(".anchors") and name not in own and pixels in own:
            target, tensor = own[pixels], anchors_in_pixels(tensor)
        else:
            target = own.get(name)
        if classes and target is not None and name in rows[0]:
            taken = take_classes(target, tensor, rows[0][name], rows[1][name], classes.source)
        else:
            taken = target is not None and target.shape == tensor.shape
            if taken:
                target.copy_(tensor)
        if not taken:
            skipped.append(name)
    return Transfer(len(state) - len(skipped), len(state), skipped)


def anchors_in_pixels(anchors: Tensor) -> Tensor:
    """YOLOv5's anchors (levels, anchors, 2) in grid cells -> pixels."""
    strides = YOLOV5_FIRST_STRIDE * 2 ** torch.arange(len(anchors), device=anchors.device)
    return anchors.float() * strides.view(-1, *[1] * (anchors.ndim - 1))
