"""Weights in any form that can be run: our .pt, or an exported ONNX, TorchScript or OpenVINO model."""

from __future__ import annotations

import ast
import math
from pathlib import Path
from typing import Any

import torch
from torch import nn

import models.environment  # noqa: F401  (must run before ultralytics is imported)
from cfg.errors import UserError, is_whole
from engine.backend import Backend
from engine.checkpoint import check_head, load_detector

from ultralytics.nn.backends.base import BaseBackend
from ultralytics.utils import torch_utils as host_torch

DEFAULT_SIZE = 640
LARGEST_SIDE = 2**15  # pixels: an input size beyond it is a mistake, and no memory holds it


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
    size = _exported_size(path, backend)
    _try(path, backend, size)
    return backend, size


def _exported_size(path: Path, backend: Backend) -> list[int]:
    """The input size that an exported model names, or else has. Raises `UserError` where what it names cannot be."""
    for name in ("stride", "batch"):
        value = getattr(backend, name)
        if not is_whole(value):
            raise UserError(f"{path}: expected its {name} to be a whole number above 0, got {value!r}; export it again with export.py")
    shape = backend.session.get_inputs()[0].shape if backend.format == "onnx" else []  # texts where any length will do
    fixed = [side for side in shape[2:] if isinstance(side, int)]
    if len(shape) == 4 and isinstance(shape[0], int) and not backend.dynamic and shape[0] != backend.batch:
        raise UserError(f"{path}: its description says {backend.batch} images at once, its input takes {shape[0]}; export it again with export.py")
    named = getattr(backend, "imgsz", None)
    if named is not None and not (sides := sides_of(named)):
        raise UserError(f"{path}: expected its imgsz to be one or two numbers of pixels, got {named!r}; export it again with export.py")
    return sides if named is not None else fixed if len(fixed) == 2 else [DEFAULT_SIZE]


def _try(path: Path, backend: Backend, size: list[int]) -> None:
    """Run an exported model once, on a blank image. Raises `UserError` where it cannot, or gives something else than a detector's boxes."""
    stride = int(backend.stride)
    height, width = (math.ceil(side / stride) * stride if backend.dynamic else side for side in (size[0], size[-1]))
    blank = torch.zeros(1, 3, height, width, dtype=torch.half if backend.fp16 else torch.float, device=backend.device)
    try:
        found = backend(blank)
    except Exception as error:  # each runtime raises its own classes
        detail = " ".join(str(error).split())[:200]
        raise UserError(f"{path}: cannot run on an image of {height} x {width} pixels ({type(error).__name__}: {detail}); "
                        "export it again with export.py") from None  # fmt: skip
    boxes = found[0] if isinstance(found, (list, tuple)) else found
    # Without metadata nobody says how many classes there are: fewer values than places.
    classes = len(backend.names) if backend.metadata or boxes.ndim != 3 else min(boxes.shape[1], boxes.shape[2]) - 4
    if boxes.ndim == 3 and len(boxes) == 1 and (boxes.shape[1] == 4 + classes > 4 or _are_final(boxes, classes)):
        return
    raise UserError(
        f"{path}: expected a detector of {classes} classes, which gives (1, {4 + classes}, places), or (1, places, 6) after suppression, got "
        f"{tuple(boxes.shape)}; export it with export.py"
    )


def _are_final(boxes: torch.Tensor, classes: int) -> bool:
    """Whether an output (1, N, 6) holds boxes after suppression: its last column is the class."""
    last = boxes[..., -1]
    return boxes.shape[2] == 6 and bool(((last == last.round()) & (last >= 0) & (last < classes)).all())


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
    sides = sides_of(value)
    if value is not None and not sides:
        print(f"the weights say that they were trained at imgsz {value!r}, which is no size: {DEFAULT_SIZE} is used")
    return sides or [DEFAULT_SIZE]


def sides_of(value: Any) -> list[int]:
    """One or two sides in pixels as a list; empty for anything that is no size."""
    sides = list(value) if isinstance(value, (list, tuple)) else [value]
    fit = 1 <= len(sides) <= 2 and all(is_whole(side) and side <= LARGEST_SIDE for side in sides)
    return [int(side) for side in sides] if fit else []


def fit_size(asked: list[int], stride: int) -> list[int]:
    """Return (height, width) from one or two sides, rounded up to multiples of the stride, which is then printed."""
    size = [asked[0], asked[-1]]
    rounded = [math.ceil(side / stride) * stride for side in size]
    if rounded != size:
        print(f"--imgsz {size}: not a multiple of the model's largest stride {stride}, using {rounded}")
    return rounded
