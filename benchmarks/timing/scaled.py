"""One model at many sizes: its forward pass, NMS, and training step; runs in a worker."""

from __future__ import annotations

import statistics
from typing import Any

import torch
from torch import nn

import models.environment  # noqa: F401  (before ultralytics)
from benchmarks.timing import memory
from benchmarks.timing.clock import Clock
from benchmarks.timing.inference import IOU, predictions, threshold
from benchmarks.timing.prepare import detector_of
from benchmarks.timing.steps import CLIP, LEARNING_RATE, SEED, batch_of, training_model, watch_parts
from engine.detection.suppression import use_compiled_suppression
from engine.weights import fit_size

from ultralytics.utils.nms import non_max_suppression

PER_OBJECT = 10  # candidates that NMS gets for every object
PASSES = 3


class ScaledForward:
    """Forward pass and NMS of one model at any size, float32, PyTorch. `facts` are empty."""

    def __init__(self, model: str, classes: int, device: str) -> None:
        use_compiled_suppression()  # as in detect.py
        self.device, self.facts = torch.device(device), {}
        self.clock = Clock(self.device)
        detector = detector_of(model, [str(number) for number in range(classes)])
        self.stride = int(detector.stride.max())
        self.network: nn.Module = detector.fuse(verbose=False).to(self.device, memory_format=torch.channels_last)

    @torch.inference_mode()
    def measure(self, imgsz: int, batch: int, objects: int) -> dict[str, float]:
        """Milliseconds per batch of ``forward`` and ``nms``, the side in pixels as the strides have it, memory."""
        side = fit_size([imgsz], self.stride)[0]
        images = torch.rand(batch, 3, side, side, generator=torch.Generator().manual_seed(SEED)).to(self.device)
        found = predictions(self.network(images))
        confidence = threshold(found, PER_OBJECT * objects * batch)
        memory.start(self.device)
        times = [self._once(images, confidence) for _ in range(1 + PASSES)][1:]
        forward, nms = (statistics.median(column) for column in zip(*times))
        total = {"total_ms": forward + nms, "forward_ms": forward, "nms_ms": nms}
        return total | {"side": side} | memory.peak(self.device)

    def _once(self, images: torch.Tensor, confidence: float) -> tuple[float, float]:
        start = self.clock.now()
        output = self.network(images)
        ready = self.clock.now()
        non_max_suppression(output, confidence, IOU, end2end=self.network.end2end)
        return ready - start, self.clock.now() - ready


class ScaledStep:
    """Training step of one model at any size, float32. `facts` are empty."""

    def __init__(self, model: str, classes: int, device: str) -> None:
        self.device, self.facts = torch.device(device), {}
        names = [str(number) for number in range(classes)]
        self.network = training_model(model, None, None, names, imgsz=0, measuring=False).to(self.device).train()
        self.network.to(memory_format=torch.channels_last)
        self.network.channels_last = True
        self.clock = Clock(self.device)
        watch_parts(self.network, self.clock)
        self.optimizer = torch.optim.SGD(self.network.parameters(), LEARNING_RATE, momentum=0.9)

    def measure(self, imgsz: int, batch: int, objects: int) -> dict[str, float]:
        """Milliseconds per step: ``total``, ``forward``, ``loss``, ``backward``; the side in pixels; memory."""
        side = fit_size([imgsz], int(self.network.stride.max()))[0]
        content = batch_of(batch, side, objects, self.network.nc, self.device)
        memory.start(self.device)
        self._step(content)  # makes room for this size, as the steps before it do in a training
        self.clock.restart()
        start = self.clock.now()
        self._step(content)
        total = self.clock.now() - start
        parts = {"forward": "forward", "loss": "detection loss", "backward": "backward"}
        taken = {f"{name}_ms": self.clock.parts[part] for name, part in parts.items()}
        return {"total_ms": total} | taken | {"side": side} | memory.peak(self.device)

    def _step(self, content: dict[str, Any]) -> None:
        loss, _ = self.network(content)
        with self.clock.part("backward"):
            loss.sum().backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), CLIP)
        self.optimizer.step()
        self.optimizer.zero_grad()
