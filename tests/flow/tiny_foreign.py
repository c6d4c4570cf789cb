"""Small detectors of other programs, for tests of teachers: an RT-DETR and a Faster R-CNN."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torchvision.models import detection
from torchvision.models.detection.backbone_utils import BackboneWithFPN

from models.foreign import torchvision_fpn

NAMES = {0: "dark", 1: "bright"}
RTDETR_YAML = """nc: 2
backbone:
  - [-1, 1, HGStem, [8, 8]]
  - [-1, 1, DWConv, [16, 3, 2, 1, False]]
  - [-1, 1, DWConv, [16, 3, 2, 1, False]]
head:
  - [-1, 1, AIFI, [32, 4]]
  - [[1, 3], 1, RTDETRDecoder, [nc, 16, 10, 2, 4, 1, 32]]
"""


class TinyBody(nn.Module):
    """Two convolutions with BatchNorm: maps at strides 4 and 8, under the names torchvision's extractor gives."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 8, 3, 4, 1), nn.BatchNorm2d(8), nn.ReLU())
        self.second = nn.Sequential(nn.Conv2d(8, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU())

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(x))


def fasterrcnn_tiny(weights=None, weights_backbone=None, num_classes=91, **options):
    """A Faster R-CNN of torchvision's own classes with strides 4, 8 and 16."""
    assert weights is None and weights_backbone is None
    backbone = BackboneWithFPN(TinyBody(), {"first": "0", "second": "1"}, [8, 16], 12)
    return detection.FasterRCNN(backbone, num_classes, **options)


fasterrcnn_tiny.__annotations__["return"] = detection.FasterRCNN  # as torchvision's own say what they build


def add_to_torchvision(patch: pytest.MonkeyPatch) -> None:
    """Let torchvision have `fasterrcnn_tiny` among its detectors."""
    known = torchvision_fpn.builders()
    patch.setattr(detection, "fasterrcnn_tiny", fasterrcnn_tiny, raising=False)
    patch.setattr(torchvision_fpn, "builders", lambda: [*known, "fasterrcnn_tiny"])


def trained(classes: int = 3) -> nn.Module:
    """A tiny Faster R-CNN, `classes` with the background, whose BatchNorm statistics are not those it starts with."""
    torch.manual_seed(0)
    model = fasterrcnn_tiny(num_classes=classes)
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.running_mean.uniform_(-0.5, 0.5)
            layer.running_var.uniform_(1e-5, 2)
    return model.eval()


def described(folder: Path, text: str = "weights: w.pt\nnames: [dark, bright]\n", state: Any = None) -> Path:
    """The YAML of a tiny Faster R-CNN as teacher; `state` is saved as its weights `w.pt`."""
    if state is not None:
        torch.save(state, folder / "w.pt")
    path = folder / "t.yaml"
    path.write_text(f"torchvision: fasterrcnn_tiny\n{text}")
    return path
