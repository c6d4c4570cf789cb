"""Make what is timed: weights of a model, its size and computation, and its exports; in a worker that ends then."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

import models.environment  # noqa: F401  (before ultralytics)
from benchmarks.timing.worker import told
from cfg import UserError
from engine.checkpoint import load_detector, save_student
from engine.detectors import build_detector
from engine.export.export_check import ExportOptions
from engine.export.exporter import DetectorExporter, export
from engine.profile import profile
from engine.weights import fit_size

SEED = 0
CALIBRATION_IMAGES = 32  # speed does not depend on how good the ranges are


@dataclass(frozen=True)
class Form:
    """A file a model is run from."""

    runtime: str  # torch, onnx, openvino, tensorrt
    precision: str  # of the file: fp32, fp16, int8
    batch: int

    @property
    def label(self) -> str:
        """Its name among the facts of `Prepared`, and its folder's."""
        return "-".join((self.runtime, self.precision, str(self.batch)))


def form_of(runtime: str, precision: str, batch: int) -> Form:
    """The file behind a cell: PyTorch has one for all, and what runs in bfloat16 is stored in float32."""
    if runtime in ("torch", "compile"):
        return Form("torch", "fp32", 1)
    return Form(runtime, "fp32" if precision == "bf16" else precision, batch)


class Prepared:
    """A model's files in `folder`.

    Args:
        model: YAML (ours or ultralytics', random weights, always the same) or weights (.pt).
        folder: where the files go.
        imgsz: side of the input in pixels, rounded up to the model's stride.
        classes: names, for a YAML.
        forms: what to export: (runtime, precision, batch).
        device: ``cpu`` or ``cuda:N``, for TensorRT.
        data: data YAML for INT8.

    Attributes:
        facts: ``parameters``, ``gflops`` at ``imgsz``, ``trained``, ``files`` {form: path}, ``reasons`` {form: why
            there is none}.
    """

    def __init__(
        self, model: str, folder: str, imgsz: int, classes: list[str], forms: list[tuple[str, str, int]], device: str,
        data: str | None,
    ) -> None:  # fmt: skip
        place = Path(folder)
        place.mkdir(parents=True, exist_ok=True)
        detector = detector_of(model, classes)
        size = fit_size([imgsz], int(detector.stride.max()))
        counted = profile(detector, size[0])
        weights = place / "model.pt"
        save_student(weights, detector, {"train_args": {"imgsz": size[0]}})
        self.facts: dict[str, Any] = {
            "imgsz": size[0],
            "parameters": counted["parameters"],
            "gflops": counted["gflops"],
            "trained": Path(model).suffix == ".pt",
            "files": {},
            "reasons": {},
        }
        for form in (Form(*one) for one in forms):
            try:
                file = weights if form.runtime == "torch" else exported(weights, form, size, place, device, data)
                self.facts["files"][form.label] = str(file)
            except Exception as error:  # one export that fails is a row; the model's others go on
                self.facts["reasons"][form.label] = told(error)


def detector_of(model: str, classes: list[str]) -> nn.Module:
    """The detector of a YAML or of weights, in eval mode. Raises `UserError` as the two loaders."""
    if Path(model).suffix == ".pt":
        return load_detector(model)[0]
    torch.manual_seed(SEED)
    return build_detector(model, len(classes), dict(enumerate(classes))).eval()


def exported(weights: Path, form: Form, size: list[int], folder: Path, device: str, data: str | None) -> Path:
    """Export for timing: not compared with PyTorch, which export.py does."""
    place = folder / form.label
    if form.runtime == "tensorrt":
        return _engine(weights, form, size, place, device, data)
    options: dict[str, Any] = {"half": form.precision == "fp16"}
    if form.precision == "int8":
        options |= {"int8": True, "data": data, "calibration_images": CALIBRATION_IMAGES}
    asked = ExportOptions(
        str(weights), form.runtime, size, form.batch, out=str(place), check=False, **options
    )  # fmt: skip
    files, _ = export(asked)
    return files[0]


def _engine(weights: Path, form: Form, size: list[int], place: Path, device: str, data: str | None) -> Path:
    """A TensorRT engine, which export.py does not make: it runs only on the GPU that it was made on."""
    if form.precision == "int8":
        raise UserError("TensorRT is timed in fp32 and fp16 only; see the rows of onnx and openvino for INT8")
    place.mkdir(parents=True, exist_ok=True)
    detector, _ = load_detector(weights)
    detector.pt_path = str(place / "model.pt")
    overrides = {"mode": "export", "task": "detect", "format": "engine", "imgsz": size, "batch": form.batch}
    overrides |= {"device": device.removeprefix("cuda:")} | ({"quantize": 16} if form.precision == "fp16" else {})
    return Path(DetectorExporter(overrides=overrides)(model=detector))


def file_size_mb(path: str | Path) -> float:
    """Size of a file or folder, 10^6 bytes."""
    path = Path(path)
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file()]
    return sum(file.stat().st_size for file in files) / 1e6
