"""What distillation sees of a network: its structure before training, its outputs on a batch, and the frozen teacher."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from distill.base import Level, Spec, View, level_names
from models.blocks.attention import DualAttention
from models.detector import DetectionModel, fold, fold_norms, raw_output
from models.foreign.base import tap

LEAST_MULTIPLE = 32  # pixels: layers between the head's levels may be as coarse, as in ultralytics' own size check


def spec_of(model: DetectionModel, label: str) -> Spec:
    """Facts of a network before any image.

    Args:
        model: our detectors and ultralytics', with their head in `model[-1]`; or what `models.foreign` puts in their place,
            without one: `headless` is the reason.
        label: what messages call it.
    """
    names = level_names([int(s) for s in model.stride])
    levels = {n: Level(c, int(s)) for n, c, s in zip(names, _channels(model), model.stride)}
    if hasattr(model, "headless"):
        return Spec(label, levels, len(model.names), dict(model.names), headless=model.headless)
    head = model.model[-1]
    bins = head.reg_max if getattr(head, "reg_max", 1) > 1 else None
    anchors = getattr(head, "na", 0 if hasattr(head, "reg_max") else None)
    return Spec(label, levels, head.nc, dict(model.names), bins, anchors)


@torch.no_grad()
def _channels(model: DetectionModel) -> list[int]:
    """Channels of the feature maps the head reads, measured on a small blank image."""
    side = 2 * int(max(model.stride))
    was_training = model.training
    parameter = next(model.parameters())
    channels = getattr(model, "yaml", {}).get("channels", 3)
    image = torch.zeros(1, channels, side, side, device=parameter.device, dtype=parameter.dtype)
    feats = raw_output(model.eval()(image))["feats"]
    model.train(was_training)
    return [x.shape[1] for x in feats]


def attention_of(model: DetectionModel) -> dict[int, DualAttention]:
    """Dual attention modules of a detector by level position; none for detectors that are not ours."""
    found: dict[int, DualAttention] = model.level_attention() if hasattr(model, "level_attention") else {}
    return found


def view_of(model: DetectionModel, spec: Spec, preds: Any, unattended: Mapping[int, Tensor] | None = None) -> View:
    """A network's output on a batch as a `View`; `unattended` by level position (`watched_attention`)."""
    raw = raw_output(preds)
    names = list(spec.levels)
    attention = {names[i]: module for i, module in attention_of(model).items()}
    before = {names[i]: x for i, x in (unattended or {}).items()}
    return View(spec, dict(zip(names, raw["feats"])), raw, attention, before, preds)


@contextmanager
def watched_attention(model: DetectionModel) -> Iterator[dict[int, Tensor]]:
    """Within this context, what each level's dual attention is given, (B, C, H, W) by level position, is noted."""
    noted: dict[int, Tensor] = {}
    hooks = [
        module.register_forward_pre_hook(lambda module, given, i=i: noted.update({i: given[0]}))
        for i, module in attention_of(model).items()
    ]
    try:
        yield noted
    finally:
        for hook in hooks:
            hook.remove()


class FrozenTeacher:
    """A teacher that is used and nothing else. Not a module, so that no module that holds it registers its parameters.

    A deep copy (the EMA's) shares the teacher instead of copying it.

    Args:
        model: as of `spec_of`; it is frozen in place.
        label: what messages call it.
        trained: False for a control with random weights.
        notes: lines about it for the run's header.
    """

    def __init__(self, model: DetectionModel, label: str, trained: bool = True, notes: Sequence[str] = ()) -> None:
        self.model = model.eval().requires_grad_(False)
        self.spec = spec_of(model, label)
        self.trained, self.notes = trained, list(notes)

    def __deepcopy__(self, memo: dict[int, Any]) -> FrozenTeacher:
        return self

    def drop_head(self) -> None:
        """Leave the head out from now on: views have features only, and a step costs less."""
        if not self.spec.headless:
            tap(self.model.model)

    def fold(self) -> None:
        """Let its blocks write their functions with fewer layers, for good: it is never trained."""
        fold(self.model)
        fold_norms(self.model)
        self.model.eval().requires_grad_(False)  # replaced layers too

    @property
    def multiple(self) -> int:
        """What the sides of an image must be multiples of, in pixels."""
        return max(LEAST_MULTIPLE, *map(int, self.spec.strides))

    @torch.no_grad()
    def see(self, images: Tensor) -> View:
        """The teacher's view of images (B, 3, H, W).

        Sides that do not fit its strides are made longer by repeating the last row and column, and the maps cropped: a
        border of another colour is taken for the edge of an object, near which all features change.
        """
        height, width = images.shape[-2:]
        pad_h, pad_w = -height % self.multiple, -width % self.multiple
        padded = F.pad(images, (0, pad_w, 0, pad_h), mode="replicate") if pad_h or pad_w else images
        with watched_attention(self.model) as unattended:
            preds = self.model(padded)
        view = view_of(self.model, self.spec, preds, unattended)
        for name, level in self.spec.levels.items():
            rows, columns = -(-height // level.stride), -(-width // level.stride)
            for maps in (view.feats, view.unattended):
                if name in maps:
                    maps[name] = maps[name][..., :rows, :columns]
        return view
