"""A detector built from a model YAML: rows, strides, named pyramid levels, loss."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn
from torch.nn.utils import fuse_conv_bn_eval

from cfg import UserError
from models.blocks.attention import DualAttention
from models.heads.base import Head
from models.parser import build, read_model

from ultralytics.nn.modules import Conv
from ultralytics.nn.tasks import DetectionModel
from ultralytics.utils.torch_utils import initialize_weights

__all__ = ["Criterion", "DetectionModel", "Detector", "fold", "fold_norms", "raw_output"]


class Criterion:
    """ultralytics' loss contract over a loss module that returns named terms.

    Called with (predictions, batch); returns (vector of terms times batch size, {name: detached term}).
    """

    def __init__(self, terms: nn.Module) -> None:
        self.terms = terms

    def __call__(self, preds: Any, batch: dict[str, Any]) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        return self.with_assignment(preds, batch)[:2]

    def with_assignment(self, preds: Any, batch: dict[str, Any]) -> tuple[torch.Tensor, dict[str, torch.Tensor], Any]:
        """The same two, and which predictions answer for which box; None for a loss that has no `assign(raw, batch)`."""
        raw = raw_output(preds)
        assign = getattr(self.terms, "assign", None)
        assignment = assign(raw, batch) if assign is not None else None
        losses = self.terms(raw, batch) if assignment is None else self.terms(raw, batch, assignment)
        vector = torch.stack(list(losses.values())) * len(batch["img"])
        return vector, {k: v.detach() for k, v in losses.items()}, assignment


def raw_output(preds: Any) -> dict[str, Any]:
    """The head's raw dict from whatever a detector returned: in training, in evaluation, or from an end-to-end head."""
    raw = preds[1] if isinstance(preds, tuple) else preds
    branch: dict[str, Any] = raw.get("one2many", raw)
    return branch


def fold(network: nn.Module) -> None:
    """Let the blocks that can `fold` write their functions with fewer layers, for good: the network is not trained after."""
    for module in list(network.modules()):
        own = getattr(module, "fold", None)
        if own is not None:
            own()


def fold_norms(network: nn.Module) -> None:
    """Put BatchNorm into the conv before it in ultralytics' blocks of both, for good, in place; the network must be in evaluation."""
    # By their `forward`: a subclass may run its layers in another way.
    layers: list[Conv] = [m for m in network.modules() if type(m).forward is Conv.forward and hasattr(m, "bn")]
    for layer in layers:
        layer.conv, layer.forward = fuse_conv_bn_eval(layer.conv, layer.bn), layer.forward_fuse
        del layer.bn


class Detector(DetectionModel):
    """A detector of ours, usable wherever ultralytics takes a detection model.

    Args:
        cfg: model YAML (name below `cfg/models/` or path) or its content as a dict.
        ch: image channels.
        nc: number of classes; overrides the YAML's.
        names: class names by index; `"0"`, `"1"` ... when absent.

    Raises:
        UserError: the YAML is wrong; names file and row.
    """

    model: Any  # nn.Sequential; torch's types know of no attribute that a row has: i, f, type, gives

    def __init__(
        self,
        cfg: str | Path | dict[str, Any] = "s-model.yaml",
        ch: int = 3,
        nc: int | None = None,
        names: dict[int, str] | None = None,
        verbose: bool = False,
    ) -> None:
        nn.Module.__init__(self)  # the base class would parse the YAML by ultralytics' own rules
        if isinstance(ch, bool) or not isinstance(ch, int) or ch < 1:
            raise UserError(f"channels: expected the number of an image's channels, got {ch!r}; leave it out for 3")
        self.yaml = read_model(cfg) | {"channels": ch}
        if nc:
            self.yaml["nc"] = nc
        self.task, self.inplace, self.args = "detect", False, SimpleNamespace()
        self.model, self.save = build(self.yaml, ch)
        self.stride = self.head.stride
        self.nc = self.head.nc
        self.names = dict(names) if names else {i: str(i) for i in range(self.nc)}
        if len(self.names) != self.nc:
            raise UserError(f"names: expected {self.nc} class names, got {len(self.names)}")
        initialize_weights(self)
        for layer in self.model:
            if hasattr(layer, "restore_norms"):
                layer.restore_norms()
        self.init_criterion()  # wrong options are a fault of the YAML, told here and not at the first step
        self.train()
        if verbose:
            self.info()

    @property
    def head(self) -> Head:
        """The last layer."""
        head: Head = self.model[-1]
        return head

    def fuse(self, verbose: bool = True, imgsz: int = 640) -> Detector:
        """Write the same function with fewer layers, for inference: blocks that can `fold`, then the library's own."""
        fold(self)
        super().fuse(verbose, imgsz)
        return self

    def level_attention(self) -> dict[int, DualAttention]:
        """Dual attention modules by position of the head's input levels; levels whose last layer has none are absent."""
        rows = (source if source >= 0 else self.head.i + source for source in self.head.f)
        layers = [self.model[self._origin(row)] for row in rows]
        found = ((i, getattr(layer, "attention", None)) for i, layer in enumerate(layers))
        return {i: module for i, module in found if module is not None and hasattr(module, "attend")}

    def _origin(self, index: int) -> int:
        """The row that makes what row `index` (from 0) gives, looking through rows that pass an input on unchanged."""
        layer = self.model[index]
        while hasattr(layer, "passes_on"):
            source = layer.f[layer.passes_on] if isinstance(layer.f, list) else layer.f
            index = source if source >= 0 else layer.i + source
            layer = self.model[index]
        return index

    def init_criterion(self) -> Criterion:
        """The head's own loss, with the options of the YAML's `loss:` section. Raises `UserError`, which names the file."""
        options = self.yaml.get("loss") or {}
        try:
            if not isinstance(options, dict):
                raise UserError(f"expected options by name, as 'beta: 1.5', got {options!r}; correct it")
            options = {str(name): value for name, value in options.items()}
            return Criterion(self.head.loss(**options))
        except UserError as error:
            raise UserError(f"{self.yaml.get('yaml_file', 'model')}: loss: {error}") from None
