"""Tandem in Python: what the four scripts do, as functions.

    import tandem

    detector = tandem.load("best.pt")
    for found in detector.predict("folder/of/images"):
        print(found, found.boxes_xyxy, found.verdict)

Arguments have the scripts' names and meaning, with `_` for `-`. All mistakes raise `tandem.UserError`, one line each.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import Any
from warnings import warn

import detect as detect_script
import export as export_script
import val as val_script
from cfg.errors import UserError
from data.streams.addresses import is_stream
from engine.arguments import checked
from engine.decision.plans import find_plan
from engine.detection.listing import FileList
from engine.detection.memory import MemorySource, OrderedSource, Unread, listed
from engine.detection.options import DetectOptions
from engine.detection.predictor import look
from engine.detection.results import Results, found_in, unreadable
from engine.detection.settled import Settled, cut, settle
from engine.detection.sources import open_source
from engine.export.export_check import ExportOptions
from engine.export.exporter import export as run_export
from engine.locate import locate_weights
from engine.training.launch import train as run_training
from engine.weights import open_backend, pick_device, tell_precision

__all__ = ["Detector", "Results", "UserError", "decide", "distil", "export", "load", "train", "validate"]

LOADING = {"device", "precision", "decision", "no_decision"}  # arguments of `load` that a prediction cannot change
LOOKING = {"imgsz", "conf", "iou", "max_det", "batch", "classes", "agnostic_nms", "tile", "overlap"}


def load(path: str | Path, device: str = "", **options: Any) -> Detector:
    """Load weights in any form: .pt, .onnx, .torchscript or an OpenVINO folder.

    Args:
        device: cpu, or the number of a GPU; the first GPU, else cpu, when empty.
        options: detect.py's: precision, decision, no_decision, imgsz, conf, iou, max_det, batch, classes, agnostic_nms, tile, overlap.

    Raises:
        UserError: the weights cannot be used, or a wrong option.
    """
    return Detector(path, device, **options)


class Detector:
    """A loaded model, with its decision plan where it has one. Args and errors as `load`.

    Attributes:
        names: class names by index.
        plan: what decides OK, NG or REVIEW; None without one.
        options: how it looks at images; `predict` may change them for one call.
    """

    def __init__(self, path: str | Path, device: str = "", **options: Any) -> None:
        given = _detection(options | {"device": device}, LOADING | LOOKING)
        weights = locate_weights(path)
        self.options = DetectOptions(str(weights), [], **given)
        if self.options.decision and self.options.no_decision:
            raise UserError("decision and no_decision: expected one of them; leave the other out")
        self._backend, self._trained = open_backend(weights, pick_device(self.options.device), self.options.precision)
        tell_precision(self.options.precision, self._backend.computes_in)
        self.names: dict[int, str] = dict(self._backend.names)
        self.plan = None if self.options.no_decision else find_plan(weights, self.options.decision, self.names)
        self._settled = settle(self.options, self._backend, self._trained, self.plan)

    def __repr__(self) -> str:
        return f"Detector({self.options.weights!r}, {len(self.names)} classes, {'with' if self.plan else 'without'} a decision plan)"

    def predict(self, images: Any, **changes: Any) -> list[Results]:
        """Look at images; return one result for each, in their order.

        Args:
            images: one of, or a list of: paths (files, folders, globs, videos), arrays (H, W, 3) in BGR as OpenCV reads them, Pillow
                images, tensors (3, H, W) or (B, 3, H, W) in RGB (`engine.detection.memory.listed`).
            changes: of `options`, for this call: conf=0.1, classes=["scratch"] and so on.

        What cannot be read has a result too, with `problem` set and the verdict UNDEFINED, and is warned of. An empty list gives an empty list.

        Raises:
            UserError: a path at which there is no image, something that is no image, or a wrong option.
        """
        return list(self.stream(images, **changes))

    __call__ = predict

    def stream(self, images: Any, **changes: Any) -> Iterator[Results]:
        """As `predict`, one result at a time: for very many images, long videos, and cameras, which have no end."""
        settled = self._settled
        if changes:
            settled = settle(replace(self.options, **_detection(changes, LOOKING)), self._backend, self._trained, self.plan)
        for are_paths, group in groupby(listed(images), key=lambda image: isinstance(image, str)):
            part = list(group)
            yield from self._files(list(map(str, part)), settled) if are_paths else self._pictures(part, settled)

    def _pictures(self, pictures: list[Any], settled: Settled) -> Iterator[Results]:
        for result in look(self._backend, cut(MemorySource(pictures), settled), settled):
            yield found_in(result, settled, keep_pixels=True)

    def _files(self, paths: list[str], settled: Settled) -> Iterator[Results]:
        source = open_source(paths, _warn, _warn) if any(map(is_stream, paths)) else OrderedSource(FileList(paths), _warn)
        order = source.order if isinstance(source, OrderedSource) else deque()
        with closing(source), closing(look(self._backend, cut(source, settled), settled)) as results:
            for result in results:
                yield from self._unreadable(order)
                if order:
                    order.popleft()
                if problem := result.fault or result.item.note:
                    _warn(result.item.path, problem)
                yield found_in(result, settled, keep_pixels=result.item.kind != "image")
            yield from self._unreadable(order)

    def _unreadable(self, order: deque[Any]) -> Iterator[Results]:
        """Results of the files that could not be read before the next image."""
        while order and isinstance(order[0], Unread):
            failed = order.popleft()
            _warn(failed.path, failed.reason)
            yield unreadable(failed.path, failed.reason, self.names)


def train(cfg: str | Path, data: str | Path | None = None, **arguments: Any) -> Path:
    """Train a detector; return the run folder, with weights/best.pt, results.csv and args.yaml.

    Args:
        cfg: model YAML: a name below cfg/models, an ultralytics model, or a path.
        data: data YAML, or a folder that holds one.
        arguments: train.py's: epochs, imgsz, batch, recipe, teacher, distill, ...

    Raises:
        UserError: anything wrong with arguments, data, model or teacher, before a run folder is made.
    """
    given = {"model": str(cfg), "data": data and str(data)} | arguments
    folder = run_training({name: str(value) if isinstance(value, Path) else value for name, value in given.items()})
    if folder is None:
        raise UserError("train: expected one process, got several; start train.py with torchrun, or use device='0,1'")
    return folder


def distil(cfg: str | Path, teacher: str | Path, data: str | Path | None = None, **arguments: Any) -> Path:
    """Train a detector that learns from a teacher too: `train` with a teacher, its weights or a YAML. Raises as `train`."""
    if not teacher:
        raise UserError(f"teacher: expected weights or a YAML, got {teacher!r}; methods that need none are train's: distill='sdd' or 'lgd'")
    return train(cfg, data, teacher=teacher, **arguments)


def validate(weights: str | Path, data: str | Path, **options: Any) -> dict[str, Any]:
    """Measure accuracy, size and speed; return what ``val.py --json`` writes.

    Args:
        options: val.py's: split, imgsz, batch, device, conf, iou, report, project, name, save_dir, ...

    Raises:
        UserError: weights or data cannot be used, or a wrong option.
    """
    parser = val_script.make_parser()
    arguments = parser.parse_args([f"--weights={weights}", f"--data={data}"])
    for name, value in checked(parser, options, left_out=("weights", "compare", "data", "json", "margin")).items():
        setattr(arguments, name, value)
    return val_script.validate(arguments, val_script.run_folder(arguments))


def decide(weights: str | Path, data: str | Path, max_escape: float, **options: Any) -> dict[str, Any]:
    """Choose thresholds for OK and NG with a promise about escapes (``val.py --decide``); return `validate`'s result.

    Args:
        max_escape: largest share of NG images that may pass as OK.
        options: `validate`'s, and max_overkill, confidence, per_class, group_by, groups, embed.

    Raises:
        UserError: as `validate`.
    """
    return validate(weights, data, decide=True, max_escape=max_escape, **options)


def export(weights: str | Path, format: str = "onnx", **options: Any) -> list[Path]:
    """Export a .pt and compare the result with PyTorch; return the files and folders, one for each format.

    Args:
        format: onnx, torchscript, openvino, or a comma list.
        options: export.py's: imgsz, dynamic, half, int8, data, nms, out, ...

    Raises:
        UserError: a wrong option, or an export that differs from PyTorch; then nothing of that format is written.
    """
    given = checked(export_script.make_parser(), options | {"format": format}, left_out=("weights",))
    files, left_out = run_export(ExportOptions(str(weights), **given))
    if left_out:
        warn(f"{left_out} images to calibrate on could not be used", stacklevel=2)
    return files


def _detection(given: dict[str, Any], allowed: set[str]) -> dict[str, Any]:
    """detect.py's arguments among these, checked. Raises `UserError`."""
    parser = detect_script.make_parser()
    return checked(parser, given, left_out={action.dest for action in parser._actions} - allowed)


def _warn(path: Path | str, reason: str) -> None:
    warn(f"{path}: {reason}", stacklevel=2)
