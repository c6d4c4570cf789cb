"""Where ``--weights`` are and whether they can be run here. Imports nothing slow: a wrong path is reported at once."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from cfg.errors import UserError

OPENVINO_ENDING = "_openvino_model"
RUNTIMES = {".onnx": "onnxruntime", "openvino": "openvino"}  # form of the weights -> Python package that runs it


def locate_weights(weights: str | Path, option: str = "--weights") -> Path:
    """Return the file or OpenVINO folder behind ``--weights``, or the `option` that named it.

    Raises:
        UserError: missing, of an unknown kind, or the package that runs it is not installed.
    """
    if not isinstance(weights, (str, Path)):
        raise UserError(f"{option}: expected a path, got {weights!r}")
    path = Path(weights)
    if path.suffix == ".xml":
        path = path.parent
    if not path.exists():
        raise UserError(f"{option} {weights}: expected a model file, but nothing is there; check the path")
    if path.is_dir():
        if not any(path.glob("*.xml")) or OPENVINO_ENDING not in path.name:
            raise UserError(f"{option} {weights}: expected an OpenVINO folder NAME{OPENVINO_ENDING} with an .xml file "
                            "in it; export one with export.py --format openvino")
        require(RUNTIMES["openvino"], f"{option} {weights}")
    elif path.suffix not in (".pt", ".onnx", ".torchscript"):
        raise UserError(f"{option} {weights}: expected .pt, .onnx, .torchscript or an OpenVINO folder, got "
                        f"'{path.suffix or path.name}'; export to one of these with export.py")
    elif path.suffix in RUNTIMES:
        require(RUNTIMES[path.suffix], f"{option} {weights}")
    return path


def require(package: str, reason: str) -> None:
    """Raise `UserError` with the pip line when a package is not installed; nothing is ever installed by Tandem."""
    if importlib.util.find_spec(package) is None:
        raise UserError(f"{reason}: expected the package {package} to be installed; pip install {package}")
