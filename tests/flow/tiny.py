"""A detector small enough for tests, with scores spread wide enough that it finds something in noise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

import models.environment  # noqa: F401  (must run before ultralytics is imported)
from engine.checkpoint import save_student
from ultralytics.nn.tasks import DetectionModel

NAMES = {0: "scratch", 1: "pit", 2: "patch"}
SIZE = 64
STOCK: dict[str, Any] = {
    "nc": 3,
    "backbone": [[-1, 1, "Conv", [width, 3, 2]] for width in (8, 16, 16, 32)],
    "head": [[[2, 3], 1, "Detect", ["nc"]]],
}


def stock_detector() -> DetectionModel:
    """A stock ultralytics detector with strides 8 and 16 and random weights, always the same."""
    torch.manual_seed(0)
    detector = DetectionModel(STOCK, nc=3, verbose=False)
    detector.names = NAMES
    detector.train()
    for _ in range(20):  # BatchNorm statistics of noise images, so that the features vary from place to place
        detector(torch.rand(8, 3, SIZE, SIZE))
    for branch in detector.model[-1].cv3:
        torch.nn.init.normal_(branch[-1].weight, std=0.3)
        torch.nn.init.constant_(branch[-1].bias, -1.0)
    return detector.eval()


def save_tiny(path: Path) -> Path:
    """Save the stock detector as best.pt of a training at `SIZE` pixels."""
    save_student(path, stock_detector(), {"train_args": {"imgsz": SIZE, "data": "/secret/place/steel.yaml"}})
    return path


def write_image(path: Path, seed: int, height: int = SIZE, width: int = SIZE) -> Path:
    """Write a noise image; the file's extension chooses the format."""
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed).integers(0, 256, (height // 4, width // 4, 3), dtype=np.uint8)
    image = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_NEAREST)
    path.write_bytes(cv2.imencode(path.suffix, image)[1].tobytes())
    return path
