"""Build a detector by the name of its YAML: ours, or ultralytics'."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import models.environment  # noqa: F401  (before ultralytics)
from cfg import UserError, find, read_yaml
from engine.foreign import check_rows
from models.detector import Detector
from models.heads import HEADS

from ultralytics.nn import tasks
from ultralytics.nn.tasks import DetectionModel
from ultralytics.utils import ROOT as HOST_ROOT

STOCK_HEADS = ("Detect", "v10Detect")
RTDETR_HEAD = "RTDETRDecoder"  # of a teacher only


def build_detector(
    name: str | Path, nc: int | None = None, names: dict[int, str] | None = None, as_teacher: bool = False
) -> DetectionModel:
    """Build a detector of ours (`cfg/models/` or a path) or of ultralytics (`yolo11n.yaml`) from its YAML.

    Args:
        name: file or name of the YAML.
        nc, names: classes; the YAML's without them.
        as_teacher: also build RT-DETR, which can only be learned from.

    Raises:
        UserError: neither is found, or the YAML is wrong or would run or download something.
    """
    if Path(name).suffix not in ("", ".yaml", ".yml"):
        raise UserError(
            f"--cfg {name}: expected a model YAML, got '{Path(name).suffix}'; "
            f"start from weights with --cfg MODEL.yaml --weights {name}"
        )
    path = stock_yaml(name)
    if path is None or Path(name).is_file():
        path = find("models", name)
        if _has_own_head(path):
            return Detector(path, nc=nc, names=names)
    model = _build_stock(name, path, nc, STOCK_HEADS + (RTDETR_HEAD,) * as_teacher)
    model.names = dict(names) if names else model.names
    model.task = "detect"
    return model


def is_rtdetr(model: DetectionModel) -> bool:
    """Whether a built model is ultralytics' RT-DETR."""
    return isinstance(model, tasks.RTDETRDetectionModel)


def _build_stock(name: str | Path, path: Path, nc: int | None, heads: tuple[str, ...]) -> DetectionModel:
    """The model of an ultralytics YAML, if its last row is one of `heads`. Raises as `build_detector`."""
    description = read_yaml(path)
    scales = description.get("scales")
    only = next(iter(scales)) if isinstance(scales, dict) and len(scales) == 1 else ""  # rtdetr-l.yaml
    description |= {"scale": tasks.guess_model_scale(name) or only, "yaml_file": Path(name).name}
    check_rows(Path(name), description)  # ultralytics runs the text of `activation`
    network = tasks.RTDETRDetectionModel if _last_row(description) == RTDETR_HEAD else tasks.DetectionModel
    try:
        model = network(description, nc=nc, verbose=False)
    except Exception as error:
        raise UserError(
            f"{name}: ultralytics cannot build it ({' '.join(str(error).split())}); "
            "correct the YAML"
        ) from error
    head = type(model.model[-1]).__name__
    if head not in heads:
        teacher_only = "RT-DETR can be a teacher (--teacher), not a student"
        fix = teacher_only if head == RTDETR_HEAD else "use one that ends in Detect"
        raise UserError(f"{name}: expected a detector, its last row is '{head}'; {fix}")
    return model


def stock_yaml(name: str | Path) -> Path | None:
    """The file of ultralytics behind a model name such as `yolo11n.yaml`, whose scale letter the file's name lacks.

    `yolov5nu` is ultralytics' name for its YOLOv5 with YOLOv8's head, described by its `yolov5.yaml`.
    """
    stem = Path(name).name.removesuffix(".yaml")
    scale = tasks.guess_model_scale(name)
    known = {p.name: p for p in (HOST_ROOT / "cfg/models").rglob("*.yaml")}
    own = {p.name for p in (Path(find("models", "s-model.yaml")).parent).rglob("*.yaml")}
    if f"{stem}.yaml" in own:
        return None
    unscaled = re.sub(rf"(?<=\d){scale}u?(?=-|$)", "", stem) if scale else stem  # yolov8n-p2 -> yolov8-p2
    return known.get(f"{stem}.yaml") or known.get(f"{unscaled}.yaml")


def _has_own_head(path: Path) -> bool:
    """Whether a YAML is for our parser: its last row is a head of ours, or nothing that ultralytics knows."""
    description = read_yaml(path)
    head = _last_row(description)
    return "base" in description or not isinstance(head, str) or head in list(HEADS) or _misspelt(head)


def _last_row(description: dict[str, Any]) -> Any:
    """The block of a model YAML's last row, None where there is none."""
    rows = description.get("head")
    last = rows[-1] if isinstance(rows, list) and rows else None
    return last[2] if isinstance(last, list) and len(last) > 2 else None


def _misspelt(head: str) -> bool:
    """Whether a head's name is none of ultralytics' either, so that our parser's error is the one to show."""
    return not hasattr(tasks, head)
