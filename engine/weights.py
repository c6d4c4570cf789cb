"""Weights in any form that can be run: our .pt, or an exported ONNX, TorchScript or OpenVINO model."""

from __future__ import annotations

import ast
import math
from pathlib import Path
from typing import Any

import torch
from torch import nn

import models.environment  # noqa: F401  (must run before ultralytics is imported)
from cfg.errors import UserError
from engine.backend import Backend
from engine.checkpoint import check_head, load_detector

from ultralytics.nn.backends.base import BaseBackend
from ultralytics.utils import torch_utils as host_torch

DEFAULT_SIZE = 640


def read_metadata(path: str | Path) -> dict[str, Any]:
    """Return what export.py stored in an exported model (`engine.export.exporter.metadata`), in plain Python types.

    ONNX keeps text only, TorchScript makes text of whole-number keys: both are turned back. Empty for a model that
    others exported.
    """
    found = {key: _literal(value) for key, value in BaseBackend.read_metadata(str(path)).items()}
    if isinstance(found.get("names"), dict):
        found["names"] = {int(index): name for index, name in found["names"].items()}
    return found


def _literal(value: Any) -> Any:
    try:
        return ast.literal_eval(value) if isinstance(value, str) else value
    except (ValueError, SyntaxError):
        return value


def pick_device(device: str) -> torch.device:
    """Return the device for ``--device``: ``cpu``, ``0``, or the first GPU when empty. `UserError` when absent.

    Torch keeps its threads, also where ultralytics picks a device again, as its exporter does: left alone it takes one fewer than there
    are cores, half of them on a small machine.
    """
    try:
        host_torch.NUM_THREADS = torch.get_num_threads()
        picked: torch.device = host_torch.select_device(device, verbose=False)
    except (ValueError, AssertionError, RuntimeError) as error:
        detail = " ".join(str(error).split())
        raise UserError(f"--device {device}: expected cpu or the number of a GPU here ({detail[:200]})") from None
    return picked


def open_backend(path: Path, device: torch.device, precision: str = "fp32") -> tuple[Backend, list[int]]:
    """Load weights of any form for inference.

    Args:
        path: as `locate_weights` returned it.
        device: where it runs.
        precision: of `Backend`.

    Returns:
        The model, fused, and the input size (height, width) or (side,) that it was trained or exported with.

    Raises:
        UserError: not readable as what its name says, or no detector.
    """
    if path.suffix == ".pt":
        detector, content = load_detector(path, device)
        check_head(path, content)
        size = trained_size(detector)
        return Backend(detector, device, precision, verbose=False), size
    try:
        backend = Backend(str(path), device, precision, verbose=False)
    except UserError:
        raise
    except Exception as error:  # each runtime raises its own classes for a file that it cannot read
        detail = " ".join(str(error).split())
        raise UserError(f"{path}: cannot be loaded ({type(error).__name__}: {detail[:200]}); export it again") from None
    if backend.task not in (None, "detect"):
        raise UserError(f"{path}: expected a detection model, got one for '{backend.task}'")
    size = getattr(backend, "imgsz", None) or [DEFAULT_SIZE]
    return backend, [int(side) for side in size]


def tell_precision(asked: str, got: str) -> None:
    """Say so when a model computes in float32 (`Backend.computes_in`) though 16 bits were requested (`Backend`)."""
    if asked != "fp32" and got == "fp32":
        flag = "--half" if asked == "half" else f"--precision {asked}"
        print(f"{flag}: not possible with these weights on this device, running in float32 (16 bits take a GPU and --half, "
              "or an OpenVINO model and a processor with AMX or AVX-512 BF16)")  # fmt: skip


def trained_size(detector: nn.Module) -> list[int]:
    """Return the input size that a detector was trained with: (side,) or (height, width)."""
    args = getattr(detector, "args", None)
    value = args.get("imgsz") if isinstance(args, dict) else getattr(args, "imgsz", None)
    sizes = [value] if isinstance(value, int) else list(value or [DEFAULT_SIZE])
    return [int(side) for side in sizes]


def fit_size(asked: list[int], stride: int) -> list[int]:
    """Return (height, width) from one or two sides, rounded up to multiples of the stride, which is then printed."""
    size = [asked[0], asked[-1]]
    rounded = [math.ceil(side / stride) * stride for side in size]
    if rounded != size:
        print(f"--imgsz {size}: not a multiple of the model's largest stride {stride}, using {rounded}")
    return rounded
