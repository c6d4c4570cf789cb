"""What an exported model says about itself: read from its metadata, before any runtime is loaded."""

from __future__ import annotations

import ast
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from cfg import UserError, read_yaml
from inspection.protobuf import METADATA, entry, fields

DEFAULT_SIZE, DEFAULT_STRIDE = 640, 32  # where a file of others does not say


@dataclass(frozen=True)
class Exported:
    """An export and the input that it expects.

    Attributes:
        path: an .onnx file or an OpenVINO folder.
        names: class names by index; empty where the file does not say.
        stride: the model's largest, in pixels.
        size: (height, width) that it was exported with; the only one it takes unless `dynamic`.
        batch: images at once; the only number it takes unless `dynamic`.
        dynamic: takes any number of images and any multiple of the stride.
        suppressed: its output is boxes after non-maximum suppression, (B, N, 6), not scores of all places.
    """

    path: Path
    names: dict[int, str]
    stride: int
    size: tuple[int, int]
    batch: int
    dynamic: bool
    suppressed: bool

    @property
    def name(self) -> str:
        """The model's name: that of the file."""
        return self.path.stem.removesuffix("_openvino_model")


def read_exported(path: Path) -> Exported:
    """Read an export's metadata.

    Args:
        path: an .onnx file or an OpenVINO folder.

    Raises:
        UserError: not such a file, damaged, or a model for another task than detection.
    """
    if not path.is_dir() and path.suffix != ".onnx":
        raise UserError(f"--weights {path}: expected an exported model, .onnx or an OpenVINO folder, got '{path.suffix or path.name}', which needs "
                        f"PyTorch; export it: python export.py --weights {path} --format onnx")  # fmt: skip
    try:
        found = {key: _literal(value) for key, value in (_openvino(path) if path.is_dir() else _onnx(path)).items()}
        return _exported(path, found)
    except UserError:
        raise
    except (OSError, ValueError, TypeError, ET.ParseError, yaml.YAMLError, AttributeError) as error:
        raise UserError(f"--weights {path}: expected a model exported by export.py, got a damaged file ({error}); export it again") from None


def _exported(path: Path, found: Mapping[str, Any]) -> Exported:
    if found.get("task") not in (None, "detect"):
        raise UserError(f"--weights {path}: expected a detection model, got one for '{found['task']}'; give another file")
    args = found.get("args") or {}
    size = found.get("imgsz") or [DEFAULT_SIZE]
    size = [size] if isinstance(size, int) else list(size)
    return Exported(
        path=path,
        names={int(index): str(name) for index, name in (found.get("names") or {}).items()},
        stride=int(found.get("stride") or DEFAULT_STRIDE),
        size=(int(size[0]), int(size[-1])),
        batch=int(found.get("batch") or 1),
        dynamic=bool(args.get("dynamic", False)),
        suppressed=bool(found.get("end2end", False) or args.get("nms", False)),
    )


def _onnx(path: Path) -> dict[str, str]:
    data = memoryview(path.read_bytes())
    return dict(entry(value) for number, _, value in fields(data) if number == METADATA)


def _openvino(path: Path) -> dict[str, Any]:
    file = path / "metadata.yaml"
    return read_yaml(file) if file.is_file() else {}


def _literal(value: Any) -> Any:
    """ONNX keeps text only: numbers, lists and mappings are turned back."""
    try:
        return ast.literal_eval(value) if isinstance(value, str) else value
    except (ValueError, SyntaxError):
        return value
