"""torchvision's Faster R-CNN, RetinaNet and FCOS as teachers: their backbone and feature pyramid network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import detection, list_models

from cfg import UserError, nearest
from models.foreign.base import FeaturePyramid

DOWNLOADS = ("weights", "weights_backbone", "pretrained", "pretrained_backbone")
COUNTER = "num_batches_tracked"  # BatchNorm has it; the frozen BatchNorm of a model fine-tuned in torchvision has not
CLASS_SCORES = ("roi_heads.box_predictor.cls_score.bias", "head.classification_head.cls_logits.bias")


class TorchvisionPyramid(FeaturePyramid):
    """Backbone and pyramid of a torchvision detector, at the student's own image size.

    torchvision resizes images before its backbone (800 px by default). Here they are only normalised: with other
    grids, the two pyramids could not be compared cell by cell.

    Args:
        model: a detector whose `backbone` gives feature maps finest first, and whose `transform` has mean and deviation.
        names: class names by index, without the background.
    """

    headless = "torchvision's heads do not predict per cell of the student's grid"

    def __init__(self, model: nn.Module, names: dict[int, str]) -> None:
        super().__init__(names)
        self.backbone = model.backbone
        for name in ("image_mean", "image_std"):
            values = torch.tensor(getattr(model.transform, name), dtype=torch.float32)
            self.register_buffer(name, values.view(1, 3, 1, 1), persistent=False)
        self.measure()

    def pyramid(self, images: Tensor) -> list[Tensor]:
        return list(self.backbone((images - self.image_mean) / self.image_std).values())


def builders() -> list[str]:
    """Names of torchvision's detectors that have a feature pyramid; SSD reads unrelated layers of its backbone."""
    return [name for name in list_models(module=detection) if not name.startswith("ssd")]


def build(name: str, classes: int, options: Mapping[str, Any]) -> nn.Module:
    """A torchvision detector with random weights.

    Args:
        name: its builder in `torchvision.models.detection`.
        classes: number of classes, without the background.
        options: further arguments of the builder.

    Raises:
        UserError: an unknown builder, options that it does not take, or one that would download something.
    """
    if name not in builders():
        raise UserError(
            f"torchvision: expected one of {', '.join(builders())}, got '{name}'{nearest(str(name), builders())}"
        )
    wanted = [option for option in DOWNLOADS if options.get(option)]
    if wanted:
        raise UserError(
            f"options: {wanted[0]} would be downloaded, and Tandem downloads nothing; "
            "save the trained detector's state_dict and name the file under 'weights:'"
        )
    kept = {k: v for k, v in options.items() if k not in DOWNLOADS}
    count = kept.setdefault("num_classes", classes + 1)
    if count not in (classes, classes + 1):
        raise UserError(
            f"options: expected num_classes {classes + 1} ({classes} names and the background) or {classes}, got {count!r}"
        )
    try:
        return getattr(detection, name)(weights=None, weights_backbone=None, **kept).eval()
    except Exception as error:  # options from a file: whatever they cause is a fault of that file
        raise UserError(f"options: torchvision's {name} refuses them ({' '.join(str(error).split())}); correct them") from None


def fill(model: nn.Module, state: Mapping[str, Tensor], label: str) -> None:
    """Copy a whole state dict into a torchvision detector, in place; `label` names it in messages.

    Raises:
        UserError: the file was trained with another number of classes, or is another model's; says how many tensors
            do not fit of how many.
    """
    state = {k.removeprefix("module."): v for k, v in state.items()}  # as DistributedDataParallel saves them
    own = model.state_dict()
    classes, trained = _classes(model, own), _classes(model, state)
    if trained is not None and classes != trained:
        raise UserError(
            f"{label} was trained with {trained} classes, the background counted, and 'names' gives {classes}; "
            "list the classes it was trained on"
        )
    needed = [name for name in own if not name.endswith(COUNTER)]
    wrong = [name for name in needed if name not in state or state[name].shape != own[name].shape]
    unknown = [name for name in state if name not in own]
    if wrong or unknown:
        raise UserError(
            f"{label}: {len(needed) - len(wrong)} of the model's {len(needed)} tensors are in the file with the right shape, "
            f"{len(unknown)} tensors of the file have no place (first: {(wrong + unknown)[0]}); expected the state_dict of "
            "the builder named under 'torchvision:', with the same options"
        )
    model.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in state.items()}, strict=False)


def set_epsilon(model: nn.Module, epsilon: float) -> None:
    """Set the constant under the root of every BatchNorm, in place.

    torchvision sets it to 0 in the detectors it loads its own COCO weights into, and a state dict does not say so.
    """
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.eps = float(epsilon)


def _classes(model: nn.Module, state: Mapping[str, Tensor]) -> int | None:
    """Number of classes, the background counted, that a state dict of this kind of model scores; None if it has no scores."""
    anchors = getattr(getattr(getattr(model, "head", None), "classification_head", None), "num_anchors", 1)
    found = [state[name] for name in CLASS_SCORES if name in state]
    return len(found[0]) // anchors if found and found[0].ndim == 1 else None
