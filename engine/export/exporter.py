"""Export to ONNX, TorchScript and OpenVINO, proved against PyTorch on real images before the file appears.

An INT8 export is made from the proved float32 one (`engine.export.int8`).
"""

from __future__ import annotations

import importlib.util
import os
import tempfile
from contextlib import nullcontext
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cfg.errors import UserError, nearest
from cfg.version import VERSION
from engine.backend import sessions_of_libraries
from engine.checkpoint import check_head, load_detector
from engine.export.export_check import ExportOptions, check, warnings_only
from engine.export.int8 import Int8, check_options
from engine.export.parity import check_images
from engine.locate import OPENVINO_ENDING, locate_weights, require
from engine.weights import fit_size, pick_device, trained_size

import ultralytics
from ultralytics.engine.exporter import Exporter, export_formats
from ultralytics.nn.tasks import DetectionModel

ENDINGS = {"onnx": ".onnx", "torchscript": ".torchscript", "openvino": OPENVINO_ENDING}
PACKAGES = {"onnx": ("onnx",), "torchscript": (), "openvino": ("openvino",)}
CHECK_PACKAGES = {"onnx": ("onnxruntime",), "torchscript": (), "openvino": ()}
DRAFT = ".tandem-draft"  # stands for .pt in the exporter's paths, where it replaces the ending anywhere in the path
FOREIGN_PARTS = ("teacher", "adapter", "projector", "distill")


class DetectorExporter(Exporter):
    """ultralytics' exporter with Tandem's metadata in the file."""

    def __init__(self, overrides: dict[str, Any]) -> None:
        super().__init__(overrides=overrides)
        self.add_callback("on_export_start", complete_metadata)


def complete_metadata(exporter: Exporter) -> None:
    """Replace the exporter's self-description by ours; what AutoBackend reads back (stride, names ...) stays."""
    for name in ("docs", "version", "description", "author", "license"):
        exporter.metadata.pop(name, None)
    exporter.metadata |= metadata(exporter)


def metadata(exporter: Exporter) -> dict[str, Any]:
    """Return what an exported file says of its origin beside date, stride, task, batch, imgsz, names and channels.

    ``anchors``: per level, (width, height) in pixels of each anchor, for an anchor-based head. ``trained_on``: name of
    the training data. ``versions``: of tandem, torch, ultralytics, and for ONNX the opset.
    """
    versions = {"tandem": VERSION, "torch": str(torch.__version__), "ultralytics": ultralytics.__version__}
    if exporter.args.format == "onnx":
        versions["opset"] = exporter.args.opset
    found: dict[str, Any] = {"description": f"Tandem detector {exporter.file.stem}", "author": "Tandem"}
    found["versions"] = versions
    args = exporter.model.args
    data = (args.get("data") if isinstance(args, dict) else getattr(args, "data", None)) or ""
    found["trained_on"] = Path(str(data)).name  # a name only: the path says more about a machine than strangers need
    anchors = getattr(exporter.model.model[-1], "anchor_wh", None)
    if isinstance(anchors, Tensor):
        found["anchors"] = [[[round(v, 2) for v in pair] for pair in level] for level in anchors.float().tolist()]
    return found


def export(options: ExportOptions) -> tuple[list[Path], int]:
    """Export, compare with PyTorch, and only then put each file in its place.

    Returns:
        The exported files and folders; and how many images that INT8 was to be calibrated on could not be used.

    Raises:
        UserError: an argument or the weights are wrong, a package is missing, or the exported model differs from
            PyTorch, or in INT8 loses more accuracy than float32, by more than the limit. Then nothing of that format
            is left behind, and a file that was there before is intact; formats exported before it stay.
    """
    formats = parse_formats(options.format)
    for name in formats:
        for package in PACKAGES[name] + (CHECK_PACKAGES[name] if options.check else ()):
            require(package, f"--format {name}")
    check_options(options, formats)
    for option in unused(options):
        print(option)
    weights = locate_weights(options.weights)
    if weights.suffix != ".pt":
        raise UserError(f"--weights {weights}: expected a .pt file, got an exported model; give the .pt it came from")
    device = pick_device(options.device)
    detector, content = load_detector(weights, device)
    check_head(weights, content)
    check_student_only(detector, weights)
    size = fit_size(options.imgsz or trained_size(detector), int(detector.stride.max()))
    images = check_images(options.check_images) if options.check else []
    int8 = Int8(detector, options, size) if options.int8 else None
    targets = {name: target_path(weights, name, options.out, len(formats), options.int8) for name in formats}
    for name, target in targets.items():
        _export_one(detector, name, target, size, images, options, device, int8)
    return list(targets.values()), int8.left_out if int8 else 0


def parse_formats(text: str) -> list[str]:
    """Return the formats of a comma list. Raises `UserError` on an unknown one."""
    formats = [part.strip().lower() for part in text.split(",") if part.strip()]
    for name in formats or [text]:
        if name not in ENDINGS:
            known = ", ".join(ENDINGS)
            raise UserError(f"--format {name}: expected {known} or a comma list of them{nearest(name, ENDINGS)}")
    return list(dict.fromkeys(formats))


def check_student_only(detector: DetectionModel, weights: Path) -> None:
    """Raise `UserError` when the model holds tensors beside the detector's own layers: a teacher or adapters."""
    for key in detector.state_dict():
        if not key.startswith("model.") or any(part in key for part in FOREIGN_PARTS):
            raise UserError(f"{weights}: expected the student alone, got the tensor '{key}'; export best.pt of the run")


def target_path(weights: Path, name: str, out: str | None, formats: int, int8: bool = False) -> Path:
    """Return where a format's file goes: beside the weights, in the folder ``--out``, or at ``--out`` itself.

    An INT8 file is named after it (best-int8.onnx, best_int8_openvino_model) where ``--out`` does not name it.

    Raises:
        UserError: ``--out`` has another format's ending, or is one file for several formats.
    """
    stem = weights.stem + (("_int8" if name == "openvino" else "-int8") if int8 else "")
    if out is None:
        return weights.with_name(stem + ENDINGS[name])
    given = Path(out)
    matching = [known for known, ending in ENDINGS.items() if given.name.endswith(ending)]
    if not matching:
        return given / (stem + ENDINGS[name])
    if matching != [name] or formats > 1:
        raise UserError(f"--out {out}: expected a folder or a name that ends in {ENDINGS[name]}; give a folder")
    return given


def _export_one(
    detector: DetectionModel,
    name: str,
    target: Path,
    size: list[int],
    images: list[np.ndarray],
    options: ExportOptions,
    device: torch.device,
    int8: Int8 | None,
) -> None:
    """Export one format in a temporary folder beside the target, check it, and move it into place."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".export-", dir=target.parent) as folder:
            made = _convert(detector, name, Path(folder) / f"{target.stem}{DRAFT}", size, options)
            if options.check:
                check(detector, made, images, size, options, device)
            else:
                print(f"{target}: not compared with PyTorch (--no-check)")
            if int8 is not None:
                (Path(folder) / "int8").mkdir()
                made = int8.make(made, Path(folder) / "int8")
            _replace(made, target, Path(folder))
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"{target}: cannot be written ({reason}); free space or give another --out") from None
    print(f"{name}: {target}")


def _convert(detector: DetectionModel, name: str, draft: Path, size: list[int], options: ExportOptions) -> Path:
    """Run ultralytics' exporter; return the file or folder it made. Raises `UserError` with its reason on failure."""
    model = deepcopy(detector)
    if draft.stem.endswith(OPENVINO_ENDING):
        draft = draft.with_name(draft.stem.removesuffix(OPENVINO_ENDING) + DRAFT)
    model.pt_path = str(draft)
    overrides = exporter_arguments(name, size, options)
    try:
        with warnings_only(), sessions_of_libraries() if name == "onnx" else nullcontext():
            return Path(DetectorExporter(overrides=overrides)(model=model))
    except (AssertionError, AttributeError, ImportError, RuntimeError, TypeError, ValueError) as error:
        detail = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
        raise UserError(f"--format {name}: the export failed ({detail}); nothing was written") from error


def unused(options: ExportOptions) -> list[str]:
    """A line for each switch that is off, though options were given that it alone reads."""
    usual = ExportOptions(options.weights)
    groups = {"nms": ("conf", "iou", "max_det"), "int8": ("calibration_images", "max_loss"), "check": ("check_images",)}
    lines = []
    for switch, names in groups.items():
        given = [f"--{name.replace('_', '-')}" for name in names if getattr(options, name) != getattr(usual, name)]
        if given and not getattr(options, switch):
            lines.append(f"{', '.join(given)}: no effect {'with --no-check' if switch == 'check' else f'without --{switch}'}")
    return lines


def exporter_arguments(name: str, size: list[int], options: ExportOptions) -> dict[str, Any]:
    """Return the exporter's settings; options that a format does not have are left out, with a message if they were given."""
    table = export_formats()
    known = dict(zip(table["Argument"], table["Arguments"], strict=True))[name]
    overrides: dict[str, Any] = {"mode": "export", "task": "detect", "format": name, "imgsz": size}
    overrides |= {"device": options.device, "batch": options.batch, "dynamic": options.dynamic}
    if options.half:
        overrides["quantize"] = 16
    if options.nms:
        overrides |= {"nms": True, "conf": options.conf, "iou": options.iou, "max_det": options.max_det}
    if "opset" in known:
        overrides |= {"opset": options.opset or default_opset(), "simplify": options.simplify and has_onnxslim()}
    elif options.opset is not None:
        print(f"--opset {options.opset}: has no meaning for {name}")
    return overrides


def default_opset() -> int:
    """Return the ONNX opset that ultralytics takes for the installed torch and onnx."""
    import onnx

    from ultralytics.utils.export.engine import best_onnx_opset

    opset: int = best_onnx_opset(onnx)
    return opset


def has_onnxslim() -> bool:
    """True when the simplifier is installed; says so when not."""
    found = importlib.util.find_spec("onnxslim") is not None
    if not found:
        print("--simplify: onnxslim is not installed, the graph stays as torch writes it; pip install onnxslim")
    return found


def _replace(made: Path, target: Path, scratch: Path) -> None:
    """Replace an older file or folder, which stays until the new one is complete."""
    if target.is_dir():
        os.replace(target, scratch / "replaced")
    try:
        os.replace(made, target)
    except OSError:
        if (scratch / "replaced").exists():
            os.replace(scratch / "replaced", target)
        raise
