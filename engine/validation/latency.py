"""How long a model takes for one image, as in use."""

from __future__ import annotations

import statistics
import time
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from data.images import read_pixels
from engine.backend import Backend

from ultralytics.data.augment import LetterBox
from ultralytics.utils.nms import non_max_suppression

TIMED_IMAGES, WARM_UP, TIME_BUDGET_S = 30, 5, 20.0
DEPLOYED_CONF = 0.25  # speed is measured at the threshold of detect.py, not at the near-zero one that AP needs


def time_single_images(
    source: nn.Module | str,
    files: list[str],
    imgsz: int | list[int],
    device: torch.device,
    iou: float,
    precision: str = "fp32",
) -> dict[str, Any]:
    """Time the model on one image at a time, as in use: batch 1, score threshold 0.25, images already in memory.

    Returns:
        Medians in milliseconds: ``preprocess_ms`` (letterbox, to tensor), ``inference_ms``, ``postprocess_ms`` (NMS);
        ``fps`` = 1000 / median(inference + NMS), ``images`` timed, ``imgsz`` (height, width).
    """
    source = deepcopy(source) if isinstance(source, nn.Module) else source  # the backend fuses it in place
    backend = Backend(source, device, precision, verbose=False)
    size = [imgsz, imgsz] if isinstance(imgsz, int) else list(imgsz)
    letterbox = LetterBox(size, auto=False, stride=backend.stride)
    pictures = [read_pixels(Path(file)) for file in files[:TIMED_IMAGES]]
    times, started = [], time.perf_counter()
    for number in range(WARM_UP + TIMED_IMAGES):
        if number > WARM_UP and time.perf_counter() - started > TIME_BUDGET_S:
            break
        times.append(_time_one(backend, letterbox, pictures[number % len(pictures)], device, iou))
    before, inference, after = zip(*times[WARM_UP:], strict=True)
    return {
        "preprocess_ms": statistics.median(before),
        "inference_ms": statistics.median(inference),
        "postprocess_ms": statistics.median(after),
        "fps": 1000 / statistics.median(i + a for i, a in zip(inference, after, strict=True)),
        "images": len(inference),
        "imgsz": size,
    }


@torch.inference_mode()
def _time_one(
    backend: Backend, letterbox: LetterBox, picture: np.ndarray, device: torch.device, iou: float
) -> tuple[float, float, float]:
    """Milliseconds of letterboxing, of the forward pass and of NMS for one image (H, W, 3)."""

    def now() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() * 1e3

    start = now()
    pixels = np.ascontiguousarray(letterbox(image=picture)[..., ::-1].transpose(2, 0, 1))  # BGR, HWC -> RGB, CHW
    image = torch.from_numpy(pixels).to(device)[None]
    image = (image.half() if backend.fp16 else image.float()) / 255
    ready = now()
    output = backend(image)
    predicted = now()
    non_max_suppression(output, DEPLOYED_CONF, iou, end2end=backend.end2end)
    return ready - start, predicted - ready, now() - predicted
