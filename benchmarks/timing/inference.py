"""Time one model in one runtime: pre-processing, the network, NMS; runs in a worker."""

from __future__ import annotations

import statistics
import time
from typing import Any

import numpy as np
import torch
from torch import Tensor

import models.environment  # noqa: F401  (before ultralytics)
from benchmarks.timing import memory
from benchmarks.timing.prepare import file_size_mb
from benchmarks.timing.runtimes import open_runtime
from engine.detection.suppression import use_compiled_suppression

from ultralytics.data.augment import LetterBox
from ultralytics.utils.nms import non_max_suppression

SEED, WARM_UP, IOU = 0, 3, 0.45
CANDIDATES = 100  # boxes per image that NMS gets: scores of random weights say nothing, so the threshold is set by this
PICTURE_HW = (0.75, 1.25)  # height and width of the images over the input's side: they are resized and padded


class InferenceTask:
    """A model loaded and warmed up.

    Args:
        runtime, precision, file: what runs what (`runtimes.open_runtime`).
        batch, imgsz: images at a time, and their side in pixels.
        device: ``cpu`` or ``cuda:N``.
        threads: CPU threads.
        passes: timed passes per turn, after one that is not.

    Attributes:
        facts: ``file_mb``, ``load_s`` (loading, warming up and compiling), ``base_mb`` (memory before the model).
    """

    def __init__(
        self, runtime: str, precision: str, file: str, batch: int, imgsz: int, device: str, threads: int, passes: int
    ) -> None:
        self.device, self.passes = torch.device(device), passes
        self.half = precision == "fp16" and runtime in ("torch", "compile")  # exported models take float32
        use_compiled_suppression()  # as in detect.py
        memory.start(self.device)
        base = memory.peak(self.device)["rss_mb"]
        started = time.perf_counter()
        self.forward, self.end2end = open_runtime(runtime, file, precision, self.device, threads)
        rng = np.random.default_rng(SEED)
        height, width = (round(imgsz * part) for part in PICTURE_HW)
        self.pictures = [rng.integers(0, 256, (height, width, 3), dtype=np.uint8) for _ in range(batch)]
        self.letterbox = LetterBox((imgsz, imgsz), auto=False)
        with torch.inference_mode():
            for _ in range(WARM_UP):
                output = self.forward(self._images())
            self.confidence = threshold(predictions(output), CANDIDATES * batch)
            self._suppress(output)
        _wait(self.device)
        self.facts = {
            "file_mb": file_size_mb(file),
            "load_s": time.perf_counter() - started,
            "base_mb": base,
        }

    @torch.inference_mode()
    def measure(self) -> dict[str, float]:
        """Milliseconds per batch, each the median of the turn's passes, and peak memory in MiB."""
        memory.start(self.device, give_back=False)
        self._once()
        times = [self._once() for _ in range(self.passes)]
        middle = [statistics.median(column) for column in zip(*times)]
        return dict(zip(("preprocess_ms", "forward_ms", "postprocess_ms"), middle)) | memory.peak(self.device)

    def _once(self) -> tuple[float, float, float]:
        start = self._now()
        images = self._images()
        ready = self._now()
        output = self.forward(images)
        predicted = self._now()
        self._suppress(output)
        return ready - start, predicted - ready, self._now() - predicted

    def _images(self) -> Tensor:
        """The images as the network takes them, (B, 3, H, W) in 0..1: letterboxed, BGR to RGB, on the device."""
        fitted = np.stack([self.letterbox(image=picture) for picture in self.pictures])
        pixels = torch.from_numpy(np.ascontiguousarray(fitted[..., ::-1].transpose(0, 3, 1, 2))).to(self.device)
        return (pixels.half() if self.half else pixels.float()) / 255

    def _suppress(self, output: Any) -> list[Tensor]:
        return non_max_suppression(output, self.confidence, IOU, end2end=self.end2end)

    def _now(self) -> float:
        _wait(self.device)
        return time.perf_counter() * 1e3


def predictions(output: Any) -> Tensor:
    """The predictions in whatever a runtime returned: (B, 4 + nc, N), or (B, n, 6) with score in column 4."""
    return output[0] if isinstance(output, (list, tuple)) else output


def threshold(found: Tensor, candidates: int) -> float:
    """The score that about so many boxes of the batch exceed; 0 where there are not as many.

    Args:
        found: (B, 4 + nc, N), or (B, n, 6) of a head that needs no NMS.
    """
    scores = found[..., 4] if found.shape[-1] == 6 else found[:, 4:].amax(1)
    ordered = scores.float().flatten().sort(descending=True).values
    return float(ordered[candidates]) if len(ordered) > candidates else 0.0


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
