"""The proof that follows an export: the exported model beside PyTorch, at several sizes, on real images."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cfg.errors import UserError
from engine.export.parity import (
    FLOAT32,
    Difference,
    Limit,
    batches,
    check_sizes,
    half_limit,
    nms_difference,
    raw_difference,
)
from engine.weights import open_backend

from ultralytics.nn.autobackend import AutoBackend
from ultralytics.nn.tasks import DetectionModel
from ultralytics.utils import LOGGER


@dataclass
class ExportOptions:
    """The options of an export; the fields are export.py's arguments."""

    weights: str
    format: str = "onnx"
    imgsz: list[int] | None = None
    batch: int = 1
    opset: int | None = None
    dynamic: bool = False
    simplify: bool = True
    half: bool = False
    nms: bool = False
    conf: float = 0.25
    iou: float = 0.45
    max_det: int = 300
    device: str = "cpu"
    out: str | None = None
    check_images: str | None = None
    check: bool = True
    int8: bool = False
    data: str | None = None
    calibration_images: int = 300
    max_loss: float | None = 0.5


@contextmanager
def warnings_only() -> Iterator[None]:
    """Keep ultralytics' warnings; drop its hints, which name the draft, and its errors, which we tell ourselves."""

    def is_warning(record: logging.LogRecord) -> bool:
        return record.levelno == logging.WARNING

    LOGGER.addFilter(is_warning)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.jit")
            warnings.filterwarnings("ignore", category=DeprecationWarning, module="torch")
            yield
    finally:
        LOGGER.removeFilter(is_warning)


def check(
    detector: DetectionModel,
    made: Path,
    images: list[np.ndarray],
    size: list[int],
    options: ExportOptions,
    device: torch.device,
) -> None:
    """Run the exported model beside PyTorch on every image and size, as detect.py and val.py run it; print the differences.

    Raises:
        UserError: a difference is above the limit.
    """
    limit = half_limit(size) if options.half else FLOAT32
    with warnings_only():
        reference = AutoBackend(deepcopy(detector), device=device, verbose=False, end2end=False)
        exported, _ = open_backend(made, device, "half" if options.half and device.type != "cpu" else "fp32")
    stride = int(detector.stride.max())
    # The boxes of an export with NMS inside are bound to its own batch; a dynamic raw one takes any.
    batch = options.batch if options.nms or not options.dynamic else max(2, options.batch)
    worst: list[str] = []
    compared = 0
    for height, width in check_sizes(size, stride, options.dynamic):
        for inputs in batches(images, [height, width], batch):
            difference = _compare(reference, exported, inputs.to(device), options, limit)
            print(f"  {made.name} beside PyTorch at {len(inputs)}x{height}x{width}: {difference.text(options.nms)}")
            compared += difference.anchors
            if not difference.within(limit):
                worst.append(f"{difference.pixels:.3g} px and {difference.score:.3g} in score at {height}x{width}")
    if worst:
        raise UserError(
            f"{made.name}: expected boxes within {limit.pixels:g} px and scores within {limit.score:g} of PyTorch, "
            f"got {worst[0]}; the export was removed, report it with the model YAML"
        )
    if not compared:
        print(
            f"  warning: no detection above --conf {options.conf} in these images: only emptiness was compared; "
            "give --check-images with defects, or a lower --conf"
        )


@torch.inference_mode()
def _compare(
    reference: AutoBackend, exported: AutoBackend, inputs: Tensor, options: ExportOptions, limit: Limit
) -> Difference:
    expected, got = (_first(model(inputs)).float().cpu() for model in (reference, exported))
    if options.nms:
        return nms_difference(expected, got, options.conf, options.iou, options.max_det, limit)
    return raw_difference(expected, got, max(inputs.shape[2:]))


def _first(output: Any) -> Tensor:
    first: Tensor = output[0] if isinstance(output, (list, tuple)) else output
    return first
