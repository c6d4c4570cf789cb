"""INT8 export: calibrate on training images, quantise, and measure on validation images what that costs.

A quantised model is not the float one within 0.01 px, and need not be. So both are validated in the same runtime, and
the export fails when INT8 loses more mAP50-95 than allowed.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import nn

from cfg.errors import UserError
from data import resolve
from engine.export.calibration import Calibration, calibration_files
from engine.export.export_check import ExportOptions, warnings_only
from engine.export.quantise import quantise
from engine.locate import require
from engine.validation.evaluate import check_names, evaluate
from engine.weights import open_backend, read_metadata

FORMATS = ("onnx", "openvino")
METRICS = ("mAP50", "mAP50-95")
TIMED, WARM_UP, TIME_BUDGET_S = 30, 3, 20.0


@dataclass(frozen=True)
class Measured:
    """A float32 export and its INT8 form, side by side; each pair is (float32, INT8).

    Attributes:
        scores: mAP50 and mAP50-95, from 0 to 1.
        images: validation images they were measured on.
        megabytes: of the files, 10^6 bytes.
        milliseconds: median time of one input in this runtime on this machine, without NMS.
    """

    scores: dict[str, tuple[float, float]]
    images: int
    megabytes: tuple[float, float]
    milliseconds: tuple[float, float]

    @property
    def loss(self) -> float:
        """Points of mAP50-95 (0 to 100) that INT8 loses; below 0 when it gains."""
        before, after = self.scores["mAP50-95"]
        return 100 * (before - after)

    def text(self) -> str:
        """Return what export.py prints of it."""
        lines = [f"  {'':16}{'float32':>9}{'INT8':>9}"]
        for name, (before, after) in self.scores.items():
            row = f"{100 * before:9.2f}{100 * after:9.2f}   {100 * (after - before):+.2f} points"
            lines.append(f"  {name:16}{row} ({self.images} validation images)")
        for name, (before, after), better in (
            ("size (MB)", self.megabytes, "smaller"),
            ("one input (ms)", self.milliseconds, "as fast on this machine"),
        ):
            lines.append(f"  {name:16}{before:9.1f}{after:9.1f}   {before / after:.2f} times {better}")
        return "\n".join(lines)

    def metadata(self) -> dict[str, Any]:
        """Return what is stored of it in the file, in plain types."""
        names = ("float32", "int8")
        stored: dict[str, Any] = {}
        for name, pair in self.scores.items():
            stored[name] = dict(zip(names, (round(value, 5) for value in pair), strict=True))
            stored[name]["difference"] = round(pair[1] - pair[0], 5)
        return stored | {"validation_images": self.images}


def check_options(options: ExportOptions, formats: list[str]) -> None:
    """Raise `UserError` when arguments do not go with or without ``--int8``, or a package is missing."""
    if not options.int8:
        if options.data is not None:
            raise UserError(f"--data {options.data}: has a meaning with --int8 only (calibration and the measured "
                            "loss); add --int8, or leave it out")  # fmt: skip
        return
    if options.data is None:
        raise UserError("--int8: expected --data, got none; give the data YAML of the training, whose training images "
                        "calibrate the model and whose validation images measure its loss")  # fmt: skip
    if options.half:
        raise UserError("--int8 --half: expected one of them; leave --half out, the layers that stay float are float32")
    for name in formats:
        if name not in FORMATS:
            raise UserError(f"--int8 --format {name}: expected {' or '.join(FORMATS)}; leave {name} out")
    require("onnxruntime" if "onnx" in formats else "openvino", "--int8")
    if "openvino" in formats:
        require("nncf", "--int8 --format openvino")


class Int8:
    """Makes INT8 files of one detector's exports.

    Args:
        detector: what is exported.
        options: of export.py, with `data`.
        size: (height, width) of the input.

    Raises:
        UserError: the data set has no training or validation images, or other classes.
    """

    def __init__(self, detector: nn.Module, options: ExportOptions, size: list[int]) -> None:
        content = resolve(options.data)
        check_names(options.weights, detector.names, options.data, content["names"])
        files = calibration_files(content, options.data, options.calibration_images)
        stride = int(detector.stride.max())
        self.calibration = Calibration(files, size, options.batch, stride if options.dynamic else None)
        self.options = options

    def make(self, source: Path, folder: Path) -> Path:
        """Write the INT8 form of an export into `folder` under the same name; measure its loss, and store it there.

        Raises:
            UserError: it cannot be quantised, or loses more than ``--max-loss``.
        """
        target, files = folder / source.name, len(self.calibration.files)
        print(f"  {source.name}: calibrating INT8 on {files} training images")
        try:
            quantise(source, target, self.calibration, -(-files // self.calibration.batch))
        except UserError:
            raise
        except Exception as error:  # each library raises its own classes for what it cannot quantise
            detail = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            raise UserError(f"{source.name}: cannot be quantised ({detail}); export without --int8") from error
        facts: dict[str, Any] = {"calibrated_on": Path(self.options.data).name, "calibration_images": files}
        if self.options.check:
            measured = measure(source, target, self.calibration, self.options, folder)
            print(measured.text())
            check_loss(target.name, measured, self.options.max_loss)
            facts |= measured.metadata()
        write_metadata(target, facts)
        return target


def measure(source: Path, target: Path, inputs: Calibration, options: ExportOptions, scratch: Path) -> Measured:
    """Validate both exports on the validation part of ``--data`` and time them, one after the other at every input."""
    how = {"batch": options.batch, "device": "cpu", "plots": False, "save_dir": scratch}
    with warnings_only():
        reports = [evaluate(path, options.data, **how) for path in (source, target)]
    scores = {name: tuple((report["metrics"][name] or 0.0) for report in reports) for name in METRICS}
    sizes = tuple(report["model"]["file_mb"] for report in reports)
    return Measured(scores, reports[0]["settings"]["images"], sizes, latencies((source, target), next(iter(inputs))))


@torch.inference_mode()
def latencies(paths: tuple[Path, Path], images: np.ndarray) -> tuple[float, float]:
    """Return the median milliseconds of one pass of each model over `images` (B, 3, H, W), in turns, on the CPU."""
    with warnings_only():
        backends = [open_backend(path, torch.device("cpu"))[0] for path in paths]
    inputs = torch.from_numpy(images)
    times: list[list[float]] = [[], []]
    started = time.perf_counter()
    for turn in range(WARM_UP + TIMED):
        if turn > WARM_UP and time.perf_counter() - started > TIME_BUDGET_S:
            break
        for backend, kept in zip(backends, times, strict=True):
            start = time.perf_counter()
            backend(inputs)
            kept.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times[0][WARM_UP:]), statistics.median(times[1][WARM_UP:])


def check_loss(name: str, measured: Measured, allowed: float | None) -> None:
    """Raise `UserError` when INT8 loses more than `allowed` points of mAP50-95 (0 to 100); None allows everything."""
    if allowed is not None and not measured.loss <= allowed:  # NaN keeps no limit
        raise UserError(
            f"{name}: expected INT8 to lose at most {allowed:g} points of mAP50-95, got {measured.loss:.2f} on "
            f"{measured.images} images; the export was removed: calibrate on more --calibration-images, or accept the "
            "loss with --max-loss"
        )


def write_metadata(path: Path, facts: dict[str, Any]) -> None:
    """Add ``int8: facts`` to what an exported model says of itself, and to its arguments that it is quantised."""
    arguments = dict(read_metadata(path).get("args") or {}) | {"quantize": 8}
    if path.is_dir():
        file = path / "metadata.yaml"
        content = yaml.safe_load(file.read_text(encoding="utf-8")) | {"args": arguments, "int8": facts}
        file.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), encoding="utf-8")
        return
    import onnx

    model = onnx.load(path)
    kept = {entry.key: entry.value for entry in model.metadata_props}
    del model.metadata_props[:]
    onnx.helper.set_model_props(model, kept | {"args": str(arguments), "int8": str(facts)})
    onnx.save(model, path)
