"""Open a model in a runtime, on as many threads as asked: a function from images to predictions."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import models.environment  # noqa: F401  (before ultralytics)
from cfg import UserError
from engine.backend import onnx_options, openvino_options
from engine.checkpoint import load_detector

from ultralytics.nn.autobackend import AutoBackend

Forward = Callable[[Tensor], Any]  # (B, 3, H, W) -> (B, 4 + nc, N) or, without NMS to do, (B, n, 6); maybe in a tuple


def open_runtime(runtime: str, file: str, precision: str, device: torch.device, threads: int) -> tuple[Forward, bool]:
    """Load `file`.

    Returns:
        The forward pass, and whether its predictions need no NMS.
    """
    if runtime in ("torch", "compile"):
        return _torch(file, precision, device, compiled=runtime == "compile")
    forward = {"onnx": _onnx, "openvino": _openvino, "tensorrt": _tensorrt}[runtime](file, precision, device, threads)
    return forward, False  # NMS sees by the shape that there is nothing to do


def _torch(file: str, precision: str, device: torch.device, compiled: bool) -> tuple[Forward, bool]:
    """As detect.py runs a .pt: fused, channels_last on an x86 CPU; bfloat16 by autocast."""
    if compiled:
        need_compiler()
    detector, _ = load_detector(file, device)
    backend = AutoBackend(detector, device=device, fp16=precision == "fp16", verbose=False)
    network = torch.compile(backend.model) if compiled else backend

    def forward(images: Tensor) -> Any:
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
            return network(images)

    return forward, backend.end2end


def need_compiler() -> None:
    """Raise `UserError` where torch.compile would find no C++ compiler (its own message is a page long)."""
    name = os.environ.get("CXX", "g++")
    if shutil.which(name) is None:
        fix = "apt install g++, or set CXX to one"
        raise UserError(f"torch.compile needs a C++ compiler, and '{name}' is not there: {fix}")


def _onnx(file: str, precision: str, device: torch.device, threads: int) -> Forward:
    import onnxruntime

    on_cpu = device.type == "cpu"
    providers = ["CPUExecutionProvider"] if on_cpu else [("CUDAExecutionProvider", {"device_id": device.index or 0})]
    session = onnxruntime.InferenceSession(file, onnx_options(threads), providers=providers)
    name, outputs = session.get_inputs()[0].name, [session.get_outputs()[0].name]

    def forward(images: Tensor) -> Any:
        return torch.from_numpy(session.run(outputs, {name: images.cpu().numpy()})[0])

    return forward


def _openvino(file: str, precision: str, device: torch.device, threads: int) -> Forward:
    import openvino

    options = openvino_options("bf16" if precision == "bf16" else "fp32", threads)
    compiled = openvino.Core().compile_model(next(Path(file).glob("*.xml")), "CPU", options)

    def forward(images: Tensor) -> Any:
        return torch.from_numpy(next(iter(compiled(images.numpy()).values())))

    return forward


def _tensorrt(file: str, precision: str, device: torch.device, threads: int) -> Forward:
    backend = AutoBackend(file, device=device, fp16=precision == "fp16", verbose=False)
    return lambda images: backend(images)
