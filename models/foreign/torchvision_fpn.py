"""torchvision's Faster R-CNN, RetinaNet and FCOS as teachers: their backbone and feature pyramid network."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torchvision.models import detection, list_models
from torchvision.models.detection.fcos import FCOS
from torchvision.models.detection.generalized_rcnn import GeneralizedRCNN
from torchvision.models.detection.retinanet import RetinaNet

from cfg import UserError, nearest
from models.foreign.base import FeaturePyramid

DOWNLOADS = ("weights", "weights_backbone", "pretrained", "pretrained_backbone")
PARTS = ("self", "weights", "progress", "backbone", "transform", "rpn", "_heads", "_generator", "head", "_predictor",
         "_pool", "matcher")  # fmt: skip  (endings of arguments that are no numbers)
COUNTER = "num_batches_tracked"  # BatchNorm has it; the frozen BatchNorm of a model fine-tuned in torchvision has not
CLASS_SCORES = ("roi_heads.box_predictor.cls_score.bias", "head.classification_head.cls_logits.bias")


class TorchvisionPyramid(FeaturePyramid):
    """Backbone and pyramid of a torchvision detector, at the student's own image size.

    torchvision resizes images before its backbone (800 px by default). Here they are only normalised: with other
    grids, the two pyramids could not be compared cell by cell.

    Args:
        model: a detector whose `backbone` gives maps finest first, and whose `transform` has mean and deviation.
        names: class names by index, without the background.
    """

    headless = "torchvision's heads predict for regions or anchors of their own, which the student has not"
    image_mean: Tensor
    image_std: Tensor

    def __init__(self, model: nn.Module, names: dict[int, str]) -> None:
        super().__init__(names)
        self.backbone = model.get_submodule("backbone")
        for name in ("image_mean", "image_std"):
            given = getattr(model.transform, name)
            try:
                values = torch.tensor(given, dtype=torch.float32).view(1, 3, 1, 1)
            except (TypeError, ValueError, RuntimeError):
                raise UserError(f"options: expected {name} to be three numbers, got {given!r}; correct it") from None
            self.register_buffer(name, values, persistent=False)
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
    known = _options_of(getattr(detection, name))
    for option in kept:
        if option not in known:  # torchvision would swallow it: its transform takes any arguments
            hint = f"{nearest(option, known)} (known: {', '.join(known)})"
            raise UserError(f"options: {name} has no option '{option}'{hint}")
    count = kept.setdefault("num_classes", classes + 1)
    if count not in (classes, classes + 1):
        raise UserError(
            f"options: expected num_classes {classes + 1} ({classes} names and the background) or {classes}, "
            f"got {count!r}"
        )
    try:
        return getattr(detection, name)(weights=None, weights_backbone=None, **kept).eval()
    except Exception as error:  # options from a file: whatever they cause is a fault of that file
        detail = " ".join(str(error).split())
        raise UserError(f"options: torchvision's {name} refuses them ({detail}); correct them") from None


def _options_of(builder: Callable[..., nn.Module]) -> list[str]:
    """Arguments of a builder and of the detector classes behind it that a YAML may give."""
    signatures = [inspect.signature(builder)]
    classes = getattr(signatures[0].return_annotation, "__mro__", ())
    signatures += [inspect.signature(c.__init__) for c in classes if issubclass(c, GeneralizedRCNN | RetinaNet | FCOS)]
    named = [p.name for s in signatures for p in s.parameters.values() if p.kind is not p.VAR_KEYWORD]
    return list(dict.fromkeys(name for name in named if not name.endswith(PARTS)))


def fill(model: nn.Module, state: Mapping[str, Tensor], label: str) -> None:
    """Copy backbone and pyramid of a detector's state dict into another, in place; heads are not needed here.

    Args:
        model: a detector of `build`.
        state: the whole detector's tensors.
        label: what messages call them.

    Raises:
        UserError: the file was trained with another number of classes, or is another model's; says how many tensors
            do not fit of how many.
    """
    state = {k.removeprefix("module."): v for k, v in state.items()}  # as DistributedDataParallel saves them
    classes, trained = _classes(model, model.state_dict()), _classes(model, state)
    if trained is not None and classes != trained:
        raise UserError(
            f"{label} was trained with {trained} classes, the background counted, and 'names' gives {classes}; "
            "list the classes it was trained on"
        )
    backbone = model.get_submodule("backbone")
    own = {f"backbone.{name}": tensor for name, tensor in backbone.state_dict().items()}
    given = {name: tensor for name, tensor in state.items() if name.startswith("backbone.")}
    needed = [name for name in own if not name.endswith(COUNTER)]
    wrong = [name for name in needed if name not in given or given[name].shape != own[name].shape]
    wrong += [name for name in given if name not in own]
    if wrong:
        fitting = sum(name not in wrong for name in needed)
        raise UserError(
            f"{label}: {fitting} of the {len(needed)} tensors of its backbone and pyramid fit, {len(wrong)} do not "
            f"(first: {wrong[0]}); expected the state_dict of the builder under 'torchvision:'"
        )
    floats = {k.removeprefix("backbone."): v.float() if v.is_floating_point() else v for k, v in given.items()}
    backbone.load_state_dict(floats, strict=False)  # counters of BatchNorm may be absent


def set_epsilon(model: nn.Module, epsilon: float) -> None:
    """Set the constant under the root of every BatchNorm, in place.

    torchvision sets it to 0 in the detectors it loads its own COCO weights into, and a state dict does not say so. 0 becomes the
    smallest positive number, which changes no variance but 0 itself: torch 2.11 refuses 0.
    """
    epsilon = max(float(epsilon), torch.finfo(torch.float32).tiny)
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.eps = epsilon


def _classes(model: nn.Module, state: Mapping[str, Tensor]) -> int | None:
    """Number of classes, the background counted, that the state dict of such a model scores; None without scores."""
    anchors = getattr(getattr(getattr(model, "head", None), "classification_head", None), "num_anchors", 1)
    found = [state[name] for name in CLASS_SCORES if name in state]
    return len(found[0]) // anchors if found and found[0].ndim == 1 else None
