"""The frozen teacher of a run: weights or a YAML of ours, of ultralytics, or of torchvision."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from cfg import UserError, find, nearest, read_yaml
from cfg.find import ROOT as CFG
from data.class_names import written
from distill.networks import FrozenTeacher
from engine.checkpoint import detector_of, read, read_state, untrained_part
from engine.detectors import build_detector, is_rtdetr
from engine.start.source import yolov5_detector
from engine.training.classes import renumber_teacher
from models.foreign.base import FeaturePyramid, tap
from models.foreign.rtdetr import RTDETRPyramid

if TYPE_CHECKING:
    from ultralytics.nn.tasks import DetectionModel

KEYS = ("torchvision", "weights", "names", "options", "batch_norm_eps")  # of a torchvision teacher's YAML
BACKGROUND = ("background", "__background__")


def load_teacher(path: str | Path, nc: int, names: dict[int, str], map_classes: bool = False) -> FrozenTeacher:
    """The frozen teacher of a run.

    Args:
        path: weights of ours, of ultralytics (RT-DETR too) or of YOLOv5 (v6; its tensors are enough), a model YAML of either (untrained,
            for controls), or the YAML of a torchvision detector (a file, or a name in `cfg/teachers`).
        nc, names: classes of the run. An untrained teacher gets them, and the same random weights each time: on every
            process, on resume.
        map_classes: put the classes of trained weights, the same in another order, in the run's.

    Raises:
        UserError: the file is missing, damaged or wrong, or what it holds is no detector with feature levels.
    """
    if Path(path).suffix not in (".yaml", ".yml"):
        content = read(path)
        model, trained = yolov5_detector(path, content) or _from_checkpoint(path, content, names), True
    else:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model, trained = _from_yaml(path, nc, names)
    if is_rtdetr(model):
        model = RTDETRPyramid(model)
    note = renumber_teacher(model, str(path), names, map_classes)
    label = f"teacher {path}" if trained else f"untrained teacher {path}"
    return FrozenTeacher(model, label, trained, [note] if note else [])


def _from_checkpoint(path: str | Path, content: Any, names: dict[int, str]) -> DetectionModel:
    """A detector of ours or of ultralytics; of one that was distilled without labels, the features, which have no classes."""
    model, content = detector_of(path, content, as_teacher=True)
    if untrained_part(content["meta"]):
        tap(model.model)
        model.headless, model.names = "its head is untrained, it was distilled without labels", dict(names)
    return model


def _from_yaml(path: str | Path, nc: int, names: dict[int, str]) -> tuple[DetectionModel, bool]:
    """A teacher described by a YAML, and whether it has trained weights."""
    known = [p.name for p in sorted((CFG / "teachers").glob("*.yaml"))]
    file = find("teachers", path) if Path(path).is_file() or str(path) in known else None
    content = read_yaml(file) if file else {}
    if file is None or "torchvision" not in content:
        try:
            return build_detector(path, nc, names, as_teacher=True), False
        except UserError as error:
            others = f" (torchvision's are in cfg/teachers: {', '.join(known)})" if file is None else ""
            raise UserError(f"{error}{others}") from None
    try:
        return _torchvision(file, content, names), bool(content.get("weights"))
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def _torchvision(yaml: Path, content: dict[str, Any], names: dict[int, str]) -> FeaturePyramid:
    """A torchvision detector as its YAML describes it; the weights' path is relative to that."""
    for key in content:
        if key not in KEYS:
            raise UserError(f"unknown key '{key}'{nearest(key, KEYS)} (known: {', '.join(KEYS)})")
    from models.foreign import torchvision_fpn  # late: it loads a third of PyTorch's compiler, which other runs need not wait for

    options, weights = content.get("options") or {}, content.get("weights")
    if not isinstance(options, dict):
        raise UserError(f"options: expected 'name: value' lines, got {options!r}")
    classes = _class_names(yaml, content.get("names"), names, weights)
    model = torchvision_fpn.build(content["torchvision"], len(classes), options)
    if weights:
        file = yaml.parent / str(weights)
        if not file.is_file():
            raise UserError(
                f"weights: {file} not found; expected what torch.save(model.state_dict(), FILE) wrote, at a path "
                "relative to this YAML; leave 'weights' out for an untrained control"
            )
        torchvision_fpn.fill(model, read_state(file), f"weights: {file}")
    if "batch_norm_eps" in content:
        torchvision_fpn.set_epsilon(model, _epsilon(content["batch_norm_eps"]))
    return torchvision_fpn.TorchvisionPyramid(model, classes)


def _class_names(yaml: Path, given: Any, names: dict[int, str], weights: Any) -> dict[int, str]:
    """The teacher's class names by index, without the background; an untrained teacher without any gets the run's."""
    if given is None and not weights:
        return names
    values = list(given.values()) if isinstance(given, dict) else given
    if not isinstance(values, list) or not values:
        raise UserError(
            f"names: expected the classes the teacher was trained on, as [crazing, inclusion], got {given!r}; "
            "list them in its own order"
        )
    if str(values[0]).lower() in BACKGROUND:
        raise UserError("names: expected the classes without the background; leave the first one out")
    return dict(enumerate(written(yaml, "names", values)))


def _epsilon(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1:
        raise UserError(f"batch_norm_eps: expected a number from 0 to below 1, got {value!r}; torchvision's is 1e-5")
    return float(value)
