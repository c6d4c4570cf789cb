"""INT8 export: calibrate on training images, quantise, and measure on validation images what that costs.

A quantised model is not the float one within 0.01 px, and need not be. So both are validated in the same runtime, and
the export fails when INT8 loses more mAP50-95 than allowed.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from cfg.errors import UserError
from data import resolve
from engine.export.calibration import Calibration, calibration_files
from engine.export.export_check import ExportOptions
from engine.export.int8_table import Measured, measure
from engine.export.quantise import quantise
from engine.locate import require
from engine.validation.classes import match_classes
from engine.weights import read_metadata

if TYPE_CHECKING:
    from ultralytics.nn.tasks import DetectionModel

FORMATS = ("onnx", "openvino")


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

    Attributes:
        left_out: how many images that were to be calibrated on could not be used.

    Raises:
        UserError: the data set has no training or validation images, or other classes.
    """

    def __init__(self, detector: DetectionModel, options: ExportOptions, size: list[int]) -> None:
        assert options.data is not None, "--int8 is taken with --data only (check_options)"
        self.data = options.data
        content = resolve(self.data)
        match_classes(options.weights, detector.names, self.data, content["names"])
        files, self.left_out = calibration_files(content, self.data, options.calibration_images)
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
        facts: dict[str, Any] = {"calibrated_on": Path(self.data).name, "calibration_images": files}
        if self.options.check:
            measured = measure(source, target, next(iter(self.calibration)), self.data, self.options.batch, folder)
            print(measured.text())
            check_loss(target.name, measured, self.options.max_loss)
            facts |= measured.metadata()
        write_metadata(target, facts)
        return target


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
