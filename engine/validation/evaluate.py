"""Validation of one weights file on one data set with everything a report needs."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from torch import nn

from cfg import UserError
from data import data_yaml, resolve
from data.dataset import with_and_without
from engine.backend import Backend
from engine.checkpoint import check_head, install, load_detector
from engine.console import console
from engine.dataset import record_left_out, use_own_data
from engine.decision.judging import Deployed, Judge
from engine.decision.options import DecisionOptions
from engine.host import own_backend
from engine.host_plots import shield_plots
from engine.locate import locate_weights
from engine.profile import profile
from engine.reporting import RunReport, labelled_images, report_validation
from engine.tiling.validator import PassingBackend, TiledValidator
from engine.training.dynamic_teacher import DynamicValidator, load_dynamic_teacher
from engine.validation.box_files import save_boxes
from engine.validation.classes import match_classes, read_as
from engine.validation.coco_metrics import COCO_LIMIT, coco_metrics, detection_limit, fullest
from engine.validation.latency import time_single_images
from engine.validation.validator import Validator
from engine.weights import DEFAULT_SIZE, open_backend, pick_device, tell_precision
from inspection.tiles import tiling_asked

from ultralytics.nn.tasks import DetectionModel
from ultralytics.utils.metrics import smooth

WRITTEN = "# Written by val.py: the data set that was validated, with absolute paths\n"


def evaluate(
    weights: str | Path,
    data: str | Path,
    imgsz: int | None = None,
    batch: int = 16,
    device: str | None = None,
    split: str = "val",
    conf: float = 0.001,
    iou: float = 0.7,
    plots: bool = True,
    save_dir: str | Path = "runs/val/exp",
    precision: str = "fp32",
    detections: str | Path | None = None,
    eval_teacher: bool = False,
    border: bool = False,
    map_classes: bool = False,
    report: bool = False,
    decision: DecisionOptions | None = None,
    tile: int | None = None,
    overlap: float | None = None,
) -> dict[str, Any]:
    """Validate one weights file on one split of a data set.

    Args:
        weights: .pt, .onnx, .torchscript or an OpenVINO folder.
        data: data YAML, by path or by its name in `cfg/data/`.
        imgsz: input size in pixels; what the weights were trained or exported with when None; rounded up to the stride.
        device: ``cpu``, a GPU's number, or None for the first GPU if there is one.
        conf, iou: score threshold and NMS IoU threshold; AP needs the low default of the first.
        precision: ``fp32``, ``bf16`` or ``half`` (`engine.backend.Backend`).
        save_dir: run folder; plots and the resolved `data.yaml` go there.
        border: with the border that ultralytics adds (see `engine.dataset.Dataset`).
        eval_teacher: also score the run's dynamic teacher (SDD, LGD), of which `weights` must be a checkpoint.
        map_classes: pair the model's classes with the data's by name, where they are in another order or more.
        report: also write ``report.html`` (`engine.reporting`).
        decision: thresholds to choose, or a plan to judge by (`engine.decision.judging`); None for neither.
        tile, overlap: look at the images in tiles (`inspection.tiles.tiling_asked`); `batch` is of tiles then.
        detections: .npz file for every image's ground truth and detections (`engine.validation.box_files`).

    Returns:
        In plain types: ``metrics`` (COCO's AP and AR; precision, recall and F1 at the confidence ``best_conf`` where F1
        is largest), ``per_class``, ``ultralytics`` (the host's own mAP, which interpolates differently), ``model``,
        ``speed`` (`time_single_images`), ``limits`` (`_limits`), ``settings``; with `eval_teacher` also
        ``dynamic_teacher`` (the first three), with a plan ``decision`` (`Judge.report`), with `tile` ``tiling``
        (`TiledValidator.report`). Undefined values are None.

    Raises:
        UserError: weights, data, split or device cannot be used, class names differ, or there is no box to find.
    """
    tiled = tiling_asked(tile, overlap)
    if tiled and (eval_teacher or border):
        raise UserError(f"--tile {tile}: expected neither --eval-teacher nor --border beside it; validate without one of them")
    install()
    use_own_data()
    shield_plots()
    target, weights = pick_device(device or ""), locate_weights(weights)
    source, facts = _open(weights, target, precision)
    tell_precision(precision, facts["precision"])
    content = _read_data(data, split)
    names = read_as(weights, facts["names"], data, content["names"])
    single = len(names) < len(content["names"])
    content |= {"names": names, "nc": len(names)}
    classes, compared = match_classes(weights, facts["names"], data, content["names"], map_classes)
    teacher = load_dynamic_teacher(weights, target) if eval_teacher else None
    if tiled:
        tiled.check_stride(facts["stride"])
    imgsz = _check_imgsz(imgsz or facts["imgsz"], facts["stride"])
    judge = _judge(decision, weights, facts, target, imgsz, precision, classes, data, split)
    if judge:
        judge.foresee(*with_and_without(content, split))
    save_dir = Path(save_dir).resolve()
    resolved = _write_data(save_dir, content)
    args = dict(
        model=str(weights), data=str(resolved), imgsz=imgsz, batch=batch, device=target, split=split, conf=conf,
        iou=iou, plots=plots, rect=True, single_cls=single, task="detect", mode="val", verbose=False,
    )  # fmt: skip
    validator = TiledValidator(save_dir=save_dir, args=args) if tiled else Validator(save_dir=save_dir, args=args)
    validator.asked = tile, overlap
    _run(validator, source, classes, border, precision, PassingBackend if tiled else Backend)
    if not sum(len(truth.classes) for truth in validator.truths):
        raise UserError(f"{data}: expected labelled boxes in split '{split}', got none; check the label files")
    if detections:
        looked = {"names": content["names"], "iou": iou, "imgsz": imgsz, "tile": tile, "overlap": tiled.overlap if tiled else None}
        save_boxes(detections, validator.dataloader.dataset.im_files, validator.truths, validator.found, looked)
    files, size = validator.dataloader.dataset.im_files, validator.args.imgsz
    speed = time_single_images(source, files, size, target, iou, precision)
    settings = dict(
        weights=str(weights), data=str(data), split=split, imgsz=max(speed["imgsz"]), batch=validator.args.batch,
        device=str(target), conf=conf, iou=iou, precision=facts["precision"], border=border,
        images=len(validator.truths), save_dir=str(save_dir),
        images_dropped=record_left_out(save_dir, {split: validator.dataloader.dataset.reading}), classes=compared,
    )  # fmt: skip
    if settings["imgsz"] != imgsz:
        print(f"--imgsz {imgsz}: the exported model has a fixed size, {settings['imgsz']} was used", file=sys.stderr)
    result = _report(validator, content["names"])
    result |= {"model": facts["model"], "speed": speed, "limits": _limits(validator), "settings": settings}
    if judge:
        result["decision"] = judge.report(files, validator.truths, save_dir, plots, validator.tiling if tiled else None)
    if tiled:
        result["tiling"] = validator.report()
    if report:
        settings["report"] = str(_write_report(validator, content["names"], settings, judge))
    if teacher:
        told = DynamicValidator(save_dir=save_dir / "dynamic-teacher", args=args | {"plots": False})
        told.teacher = teacher
        result["dynamic_teacher"] = _report(_run(told, source, classes, border, precision), content["names"])
    return result


def _run(validator: Validator, source: DetectionModel | str, classes: list[int] | None, border: bool, precision: str,
         backend: type[Backend] = Backend) -> Validator:  # fmt: skip
    """Validate and return the validator, which has kept every image's boxes."""
    validator.collect, validator.classes, validator.args.border = True, classes, border
    with console(), own_backend(precision, backend):
        validator(model=source if isinstance(source, nn.Module) else None)
    return validator


def _judge(decision: DecisionOptions | None, weights: Path, facts: dict[str, Any], device: torch.device, imgsz: int, precision: str,
           classes: list[int] | None, data: str | Path, split: str) -> Judge | None:  # fmt: skip
    """What judges the set; None if no decision was requested and the weights hold no plan. Raises `UserError`."""
    if decision is None:
        return None
    deployed = Deployed(weights, dict(facts["names"]), device, imgsz, precision, facts["chosen"])
    judge = Judge(decision, deployed, data_yaml(data), split)
    if judge.needed and classes is not None:
        raise UserError("--map-classes: expected the classes of the data in the model's order for a decision, got another one; reorder the "
                        "names in the data YAML")  # fmt: skip
    return judge if judge.needed else None


def _open(weights: Path, device: torch.device, precision: str) -> tuple[DetectionModel | str, dict[str, Any]]:
    """Return what AutoBackend takes (module or path) and the facts: names, stride, imgsz, precision, model (size,
    computation), chosen (`Deployed`).
    """
    if weights.suffix == ".pt":
        module, ckpt = load_detector(weights)
        check_head(weights, ckpt)
        size = profile(module) | {"file_mb": weights.stat().st_size / 1e6, "format": "pytorch"}
        arguments = ckpt["meta"].get("train_args") or {}
        trained, chosen = arguments.get("imgsz") or DEFAULT_SIZE, arguments.get("val") is not False
        kind = "fp16" if precision == "half" and device.type != "cpu" else "fp32"
        facts = dict(names=module.names, stride=int(max(module.stride)), imgsz=trained, model=size, precision=kind, chosen=chosen)
        return module.to(device), facts
    backend, imgsz = open_backend(weights, device, precision)
    if not backend.metadata:
        raise UserError(f"{weights}: expected a model that was exported with its class names and size; use export.py")
    parts = [p for p in weights.rglob("*") if p.is_file()] if weights.is_dir() else [weights]
    mb = sum(p.stat().st_size for p in parts) / 1e6
    size = dict(layers=None, parameters=None, gflops=None, size_mb=mb, file_mb=mb, imgsz=None, format=backend.format)
    facts = dict(names=backend.names, stride=int(backend.stride), imgsz=max(imgsz), model=size, chosen=True)
    return str(weights), facts | {"precision": backend.computes_in}


def _read_data(data: str | Path, split: str) -> dict[str, Any]:
    """Return the data YAML with absolute paths and {index: name}; only `split` must be there."""
    content = resolve(data, require=(split,))
    # The host reads both keys, whatever is validated.
    return {"train": content[split], "val": content[split]} | content


def _write_data(save_dir: Path, content: dict[str, Any]) -> Path:
    """Make the run folder and put the resolved data YAML there, where the host reads it. Raises `UserError`.

    A data.yaml that it did not write stays: a data set's own, or that of a training run, which `--resume` reads.
    """
    path = save_dir / "data.yaml"
    try:
        if path.exists() and not path.read_text(encoding="utf-8", errors="replace").startswith(WRITTEN):
            raise UserError(f"--save-dir {save_dir}: expected a folder of its own, got one with the data.yaml of a data set or a training run; "
                            "give another")  # fmt: skip
        save_dir.mkdir(parents=True, exist_ok=True)
        path.write_text(WRITTEN + yaml.safe_dump(content, sort_keys=False, allow_unicode=True), encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); choose another --save-dir") from None
    return path


def _write_report(validator: Validator, names: dict[int, str], settings: dict[str, Any], judge: Judge | None) -> Path:
    """Write the report for people; return its path."""
    dataset = validator.dataloader.dataset
    facts = {"model": Path(settings["weights"]).name, "data": f"{settings['data']}, split {settings['split']}"}
    facts |= {"input size": str(settings["imgsz"]), "precision": settings["precision"], "device": settings["device"]}
    plan, promise = (judge.plan, judge.words) if judge else (None, ())
    written = RunReport(Path(settings["save_dir"]), "Validation report", names, facts, plan, promise)
    for sample in dataset.reading.left_out:
        written.skip(sample.image, sample.reason)
    if judge:
        return report_validation(written, judge.evidence.images, dataset.im_files)
    shapes = {str(sample.image): (sample.facts.height, sample.facts.width) for sample in dataset.reading.samples}
    sizes = [shapes[file] for file in dataset.im_files]
    return report_validation(written, labelled_images(dataset.im_files, sizes, validator.truths, validator.found), dataset.im_files)


def _check_imgsz(imgsz: int, stride: int) -> int:
    rounded = max(stride, math.ceil(int(imgsz) / stride) * stride)
    if rounded != imgsz:
        print(f"--imgsz {imgsz} is not a multiple of the model's stride {stride}: using {rounded}", file=sys.stderr)
    return rounded


def _limits(validator: Validator) -> dict[str, int]:
    """How many detections counted, and whether that was enough.

    Returns:
        ``per_class``: of a class in an image, for AP and AR_max (``coco``: by COCO's rules); ``per_image``: that the model
        gives and suppression keeps; ``boxes_per_image``, ``boxes_per_class``: the most there are; ``short_images``:
        images with more boxes than can be found there: with any, recall and AP cannot reach 1.
    """
    boxes_per_image, boxes_per_class = fullest(validator.truths)
    return {
        "per_class": detection_limit(validator.truths), "coco": COCO_LIMIT, "per_image": validator.room,
        "boxes_per_image": boxes_per_image, "boxes_per_class": boxes_per_class, "short_images": validator.short,
    }  # fmt: skip


def _report(validator: Validator, names: dict[int, str]) -> dict[str, Any]:
    """Join COCO's numbers with the host's precision, recall, F1 and mAP, overall and per class."""
    coco = coco_metrics(validator.truths, validator.found, len(names))
    box = validator.metrics.box
    at = {int(c): i for i, c in enumerate(box.ap_class_index)}  # rows of the host's arrays: classes that have labels
    counts = np.bincount(np.concatenate([t.classes for t in validator.truths]).astype(int), minlength=len(names))
    per_class = []
    for index, scores in enumerate(coco.pop("per_class")):
        host: list[float | None] = [float(values[at[index]]) if index in at else None for values in (box.p, box.r, box.f1)]
        row = {"class": index, "name": names[index], "boxes": int(counts[index])}
        per_class.append(row | dict(zip(("precision", "recall", "F1"), host, strict=True)) | scores)
    chosen = smooth(box.f1_curve.mean(0), 0.1).argmax()  # where the host reads precision, recall and F1 off its curves
    overall = {
        "precision": float(box.mp),
        "recall": float(box.mr),
        "F1": float(np.mean(box.f1)),
        "best_conf": float(box.px[chosen]),
    }
    interpolated = {"mAP50": float(box.map50), "mAP50-95": float(box.map), "AP75": float(box.map75)}
    return {"metrics": coco | overall, "per_class": per_class, "ultralytics": interpolated}
