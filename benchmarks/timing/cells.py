"""What inference is timed in: runtimes, precisions, and which of their pairs there are on this machine."""

from __future__ import annotations

import importlib.util
import itertools
from collections.abc import Iterable
from dataclasses import dataclass

from cfg import UserError, nearest

RUNTIMES = ("torch", "compile", "onnx", "openvino", "tensorrt")
PRECISIONS = ("fp32", "bf16", "fp16", "int8")
PACKAGES = {"onnx": "onnxruntime", "openvino": "openvino", "tensorrt": "tensorrt"}
FULL = "fp32"


@dataclass(frozen=True)
class Cell:
    """One thing that is timed: a model in a runtime, at a precision, `batch` images at a time."""

    model: str
    runtime: str
    precision: str
    batch: int

    def of(self, model: str) -> Cell:
        """The same cell of another model."""
        return Cell(model, self.runtime, self.precision, self.batch)

    def in_full(self) -> Cell:
        """The same cell in float32."""
        return Cell(self.model, self.runtime, FULL, self.batch)


def grid(models: Iterable[str], runtimes: list[str], precisions: list[str], batches: list[int]) -> list[Cell]:
    """All cells, models next to each other: models that are compared are timed in close succession."""
    return [Cell(m, r, p, b) for b, r, p, m in itertools.product(batches, runtimes, precisions, models)]


def chosen(text: str, known: tuple[str, ...], flag: str) -> list[str]:
    """The names in a list with commas, each once. Raises `UserError` for an unknown one."""
    names = list(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    for name in names or [text]:
        if name not in known:
            raise UserError(f"--{flag} {name}: expected some of {', '.join(known)}{nearest(name, known)}")
    return names


def why_not(runtime: str, precision: str, device: str, data: str | None) -> str | None:
    """What is missing for a runtime at a precision on ``cpu`` or ``cuda:N``, with what would help; None: nothing."""
    package = PACKAGES.get(runtime)
    if runtime == "tensorrt" and device == "cpu":
        return "TensorRT runs on NVIDIA GPUs; use --device 0 on a machine with one"
    if package and importlib.util.find_spec(package) is None:
        return f"needs the package {package}: pip install {package}"
    if runtime == "openvino" and device != "cpu":
        return "OpenVINO is timed on the CPU; use --device cpu"
    if runtime == "onnx" and device != "cpu" and not _onnx_has_cuda():
        return "this ONNX Runtime has no CUDA: pip install onnxruntime-gpu instead of onnxruntime"
    return _no_precision(runtime, precision, device, data)


def _no_precision(runtime: str, precision: str, device: str, data: str | None) -> str | None:
    if precision == "int8":
        if runtime in ("torch", "compile"):
            return "PyTorch runs no INT8 model of export.py's; see the rows of onnx and openvino"
        return None if data else "needs images to calibrate on: use --data DATA.yaml"
    if precision == "fp16":
        return "float16 on a CPU saves space and no time; use bf16" if device == "cpu" else None
    if precision == "bf16":
        if runtime == "onnx":
            return "ONNX Runtime has no bfloat16 convolutions; see the rows of openvino (CPU) or tensorrt fp16 (GPU)"
        if runtime == "tensorrt":
            return "exported for TensorRT in fp16, not bf16; use --precisions fp16"
        return no_bfloat16(device)
    return None


def no_bfloat16(device: str) -> str | None:
    """Why bfloat16 is not timed on a device, None where it is."""
    import torch

    from engine.precision import has_fast_bfloat16

    if device != "cpu":
        fast = torch.cuda.get_device_capability(torch.device(device)) >= (8, 0)
        return None if fast else "this GPU has no bfloat16; use --precisions fp16"
    return None if has_fast_bfloat16() else "this processor has no bfloat16 arithmetic (AMX or AVX-512 BF16)"


def _onnx_has_cuda() -> bool:
    import onnxruntime

    return "CUDAExecutionProvider" in onnxruntime.get_available_providers()
