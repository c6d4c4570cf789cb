"""Validation: inside a training run, and of one weights file on one data set with everything a report needs."""

from __future__ import annotations

import math
import statistics
import sys
import time
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import yaml
from torch import nn

import models.environment  # noqa: F401  (before ultralytics)
from cfg import UserError
from data import resolve
from data.dataset import part_paths
from data.layout import list_images
from engine.box_files import save_boxes
from engine.checkpoint import install, load_detector
from engine.coco_metrics import Boxes, coco_metrics
from engine.host import leave_images_alone
from engine.nms import complete_nms
from engine.profile import profile
from engine.weights import DEFAULT_SIZE, locate_weights, open_backend, pick_device

from ultralytics.data.augment import LetterBox  # isort: skip
from ultralytics.models.yolo.detect import DetectionValidator  # isort: skip
from ultralytics.nn.autobackend import AutoBackend  # isort: skip
from ultralytics.utils import DEFAULT_CFG_KEYS, ops  # isort: skip
from ultralytics.utils.metrics import smooth  # isort: skip
from ultralytics.utils.nms import non_max_suppression  # isort: skip
from ultralytics.utils.patches import imread  # isort: skip

TIMED_IMAGES, WARM_UP, TIME_BUDGET_S = 30, 5, 20.0
DEPLOYED_CONF = 0.25  # speed is measured at the threshold of detect.py, not at the near-zero one that AP needs


class Validator(DetectionValidator):
    """ultralytics' validator that also takes our training arguments and can keep every box for the COCO evaluation.

    Attributes:
        collect: keep ground truth and detections of each image, in original pixels, in `truths` and `found`.
    """

    def __init__(self, dataloader=None, save_dir=None, args=None, _callbacks=None) -> None:
        given = vars(args) if isinstance(args, SimpleNamespace) else args or {}
        known = {key: value for key, value in given.items() if key in DEFAULT_CFG_KEYS}  # the host refuses other keys
        super().__init__(dataloader, save_dir, known, _callbacks)
        self.collect = False
        self.truths: list[Boxes] = []
        self.found: list[Boxes] = []

    def init_metrics(self, model: nn.Module) -> None:
        """Start a validation pass."""
        super().init_metrics(model)
        self.truths, self.found = [], []

    def postprocess(self, preds: Any) -> list[dict[str, torch.Tensor]]:
        """Boxes per image after suppression: bboxes xyxy in input pixels, conf, cls."""
        agnostic = self.args.single_cls or self.args.agnostic_nms
        kept = complete_nms(preds, self.args.conf, self.args.iou, agnostic, self.args.max_det, self.end2end)
        return [{"bboxes": x[:, :4], "conf": x[:, 4], "cls": x[:, 5], "extra": x[:, 6:]} for x in kept]

    def update_metrics(self, preds: list[dict[str, torch.Tensor]], batch: dict[str, Any]) -> None:
        """Add a batch: `preds` per image (bboxes xyxy in input pixels, conf, cls)."""
        super().update_metrics(preds, batch)
        if self.collect:
            for index, pred in enumerate(preds):
                self._keep(pred, self._prepare_batch(index, batch))

    def print_results(self) -> None:
        """Print the host's table, unless the caller prints a fuller one."""
        if not self.collect:
            super().print_results()

    def _keep(self, pred: dict[str, torch.Tensor], truth: dict[str, Any]) -> None:
        def original(boxes_xyxy: torch.Tensor) -> np.ndarray:
            args = (truth["imgsz"], boxes_xyxy.clone().float(), truth["ori_shape"], truth["ratio_pad"])
            return ops.scale_boxes(*args).cpu().numpy()

        self.truths.append(Boxes(original(truth["bboxes"]), truth["cls"].cpu().numpy()))
        classes, scores = pred["cls"].cpu().numpy(), pred["conf"].float().cpu().numpy()
        self.found.append(Boxes(original(pred["bboxes"]), classes, scores))


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
    half: bool = False,
    detections: str | Path | None = None,
    eval_teacher: bool = False,
) -> dict[str, Any]:
    """Validate one weights file on one split of a data set.

    Args:
        weights: .pt, .onnx, .torchscript or an OpenVINO folder.
        data: data YAML, by path or by its name in `cfg/data/`.
        imgsz: input size in pixels; what the weights were trained or exported with when None; rounded up to the stride.
        device: ``cpu``, a GPU's number, or None for the first GPU if there is one.
        conf, iou: score threshold and NMS IoU threshold; AP needs the low default of the first.
        save_dir: run folder; plots and the resolved `data.yaml` go there.
        eval_teacher: also score the run's dynamic teacher (SDD, LGD), of which `weights` must be a checkpoint.
        detections: .npz file for every image's ground truth and detections (`engine.box_files`).

    Returns:
        In plain types: ``metrics`` (COCO's AP and AR; precision, recall and F1 at the confidence ``best_conf`` where F1
        is largest), ``per_class``, ``ultralytics`` (the host's own mAP, which interpolates differently), ``model``,
        ``speed`` (`time_single_images`), ``settings``; with `eval_teacher` also ``dynamic_teacher`` (the first three).
        Undefined values are None.

    Raises:
        UserError: weights, data, split or device cannot be used, class names differ, or there is no box to find.
    """
    install()
    target, weights = pick_device(device or ""), locate_weights(weights)
    source, facts = _open(weights, target)
    content = _read_data(data, split)
    _check_names(weights, facts["names"], data, content["names"])
    teacher = _dynamic_teacher(weights, target) if eval_teacher else None
    imgsz, half = _check_imgsz(imgsz or facts["imgsz"], facts["stride"]), _check_half(half, target)
    save_dir = Path(save_dir).resolve()
    resolved = _write_data(save_dir, content)
    args = dict(
        model=str(weights), data=str(resolved), imgsz=imgsz, batch=batch, device=target, split=split, conf=conf,
        iou=iou, plots=plots, rect=True, quantize=16 if half else None, task="detect", mode="val", verbose=False,
    )  # fmt: skip
    validator = Validator(save_dir=save_dir, args=args)
    validator.collect = True
    validator(model=source if isinstance(source, nn.Module) else None)
    if not sum(len(truth.classes) for truth in validator.truths):
        raise UserError(f"{data}: expected labelled boxes in split '{split}', got none; check the label files")
    if detections:
        save_boxes(detections, validator.dataloader.dataset.im_files, validator.truths, validator.found)
    speed = time_single_images(source, validator.dataloader.dataset.im_files, validator.args.imgsz, target, iou, half)
    settings = dict(
        weights=str(weights), data=str(data), split=split, imgsz=max(speed["imgsz"]), batch=validator.args.batch,
        device=str(target), conf=conf, iou=iou, half=half, images=len(validator.truths), save_dir=str(save_dir),
        images_dropped=_dropped(data, content, split, len(validator.truths)),
    )  # fmt: skip
    if settings["imgsz"] != imgsz:
        print(f"--imgsz {imgsz}: the exported model has a fixed size, {settings['imgsz']} was used", file=sys.stderr)
    report = _report(validator, content["names"]) | {"model": facts["model"], "speed": speed, "settings": settings}
    if teacher:
        told = _dynamic_validator(teacher, save_dir / "dynamic-teacher", args)
        told(model=source)
        report["dynamic_teacher"] = _report(told, content["names"])
    return report


def _dynamic_teacher(weights: Path, device: torch.device) -> Any:
    from engine.dynamic_teacher import load_dynamic_teacher  # it extends this file's validator

    return load_dynamic_teacher(weights, device)


def _dynamic_validator(teacher: Any, save_dir: Path, args: dict[str, Any]) -> Validator:
    from engine.dynamic_teacher import DynamicValidator

    validator = DynamicValidator(save_dir=save_dir, args=args | {"plots": False})
    validator.teacher, validator.collect = teacher, True
    return validator


def time_single_images(
    source: nn.Module | str,
    files: list[str],
    imgsz: int | list[int],
    device: torch.device,
    iou: float,
    half: bool = False,
) -> dict[str, Any]:
    """Time the model on one image at a time, as in use: batch 1, score threshold 0.25, images already in memory.

    Returns:
        Medians in milliseconds: ``preprocess_ms`` (letterbox, to tensor), ``inference_ms``, ``postprocess_ms`` (NMS);
        ``fps`` = 1000 / median(inference + NMS), ``images`` timed, ``imgsz`` (height, width).
    """
    source = deepcopy(source) if isinstance(source, nn.Module) else source  # AutoBackend fuses it in place
    backend = AutoBackend(source, device=device, fp16=half, verbose=False)
    size = [imgsz, imgsz] if isinstance(imgsz, int) else list(imgsz)
    letterbox = LetterBox(size, auto=False, stride=backend.stride)
    pictures = [picture for file in files[:TIMED_IMAGES] if (picture := imread(file)) is not None]
    times, started = [], time.perf_counter()
    for number in range(WARM_UP + TIMED_IMAGES):
        if number > WARM_UP and time.perf_counter() - started > TIME_BUDGET_S:
            break
        times.append(_time_one(backend, letterbox, pictures[number % len(pictures)], device, iou))
    before, inference, after = zip(*times[WARM_UP:], strict=True)
    return {
        "preprocess_ms": statistics.median(before),
        "inference_ms": statistics.median(inference),
        "postprocess_ms": statistics.median(after),
        "fps": 1000 / statistics.median(i + a for i, a in zip(inference, after, strict=True)),
        "images": len(inference),
        "imgsz": size,
    }


@torch.inference_mode()
def _time_one(
    backend: AutoBackend, letterbox: LetterBox, picture: np.ndarray, device: torch.device, iou: float
) -> tuple[float, float, float]:
    """Milliseconds of letterboxing, of the forward pass and of NMS for one picture (H, W, 3)."""

    def now() -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter() * 1e3

    start = now()
    pixels = np.ascontiguousarray(letterbox(image=picture)[..., ::-1].transpose(2, 0, 1))  # BGR, HWC -> RGB, CHW
    image = torch.from_numpy(pixels).to(device)[None]
    image = (image.half() if backend.fp16 else image.float()) / 255
    ready = now()
    output = backend(image)
    predicted = now()
    non_max_suppression(output, DEPLOYED_CONF, iou, end2end=backend.end2end)
    return ready - start, predicted - ready, now() - predicted


def _open(weights: Path, device: torch.device) -> tuple[nn.Module | str, dict[str, Any]]:
    """Return what AutoBackend takes (module or path) and the facts: names, stride, imgsz, model (size, computation)."""
    if weights.suffix == ".pt":
        module, ckpt = load_detector(weights)
        size = profile(module) | {"file_mb": weights.stat().st_size / 1e6, "format": "pytorch"}
        trained = (ckpt["meta"].get("train_args") or {}).get("imgsz") or DEFAULT_SIZE
        facts = dict(names=module.names, stride=int(max(module.stride)), imgsz=trained, model=size)
        return module.to(device), facts
    backend, imgsz = open_backend(weights, device)
    if not backend.metadata:
        raise UserError(f"{weights}: expected a model that was exported with its class names and size; use export.py")
    parts = [p for p in weights.rglob("*") if p.is_file()] if weights.is_dir() else [weights]
    mb = sum(p.stat().st_size for p in parts) / 1e6
    size = dict(layers=None, parameters=None, gflops=None, size_mb=mb, file_mb=mb, imgsz=None, format=backend.format)
    return str(weights), dict(names=backend.names, stride=int(backend.stride), imgsz=max(imgsz), model=size)


def _read_data(data: str | Path, split: str) -> dict[str, Any]:
    """Return the data YAML with absolute paths and {index: name}; only `split` must be there."""
    content = resolve(data, require=(split,))
    # The host asks for both keys, whatever is validated.
    return {"train": content[split], "val": content[split]} | content


def _write_data(save_dir: Path, content: dict[str, Any]) -> Path:
    """Make the run folder and put the resolved data YAML there, where the host reads it."""
    path = save_dir / "data.yaml"
    try:
        save_dir.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); choose another --save-dir") from None
    return path


def _dropped(data: str | Path, content: dict[str, Any], split: str, used: int) -> int:
    """Count images that the host left out, which it does without failing where an image or its labels are damaged."""
    missing = max(0, sum(len(list_images(part)) for part in part_paths(content, split)) - used)
    if missing:
        print(f"{data}: {missing} images of split '{split}' were left out as damaged (or repeated); see "
              f"`python -m data.check --data {data}`", file=sys.stderr)  # fmt: skip
    return missing


def _check_names(weights: str | Path, known: dict[int, str], data: str | Path, wanted: dict[int, str]) -> None:
    ours, theirs = [str(known[k]) for k in sorted(known)], [wanted[k] for k in sorted(wanted)]
    if ours == theirs:
        return
    if len(ours) != len(theirs):
        reason = f"{len(theirs)} classes in the data, {len(ours)} in the model"
    else:
        index = next(i for i, pair in enumerate(zip(ours, theirs, strict=True)) if pair[0] != pair[1])
        reason = f"class {index} is '{theirs[index]}' in the data, '{ours[index]}' in the model"
    raise UserError(f"{data}: expected the class names of {weights}, got others ({reason}); use its own data set")


def _check_imgsz(imgsz: int, stride: int) -> int:
    rounded = max(stride, math.ceil(int(imgsz) / stride) * stride)
    if rounded != imgsz:
        print(f"--imgsz {imgsz} is not a multiple of the model's stride {stride}: using {rounded}", file=sys.stderr)
    return rounded


def _check_half(half: bool, device: torch.device) -> bool:
    if half and device.type == "cpu":
        print("--half: half precision needs a GPU; using full precision", file=sys.stderr)
    return half and device.type != "cpu"


def _report(validator: Validator, names: dict[int, str]) -> dict[str, Any]:
    """Join COCO's numbers with the host's precision, recall, F1 and mAP, overall and per class."""
    coco = coco_metrics(validator.truths, validator.found, len(names))
    box = validator.metrics.box
    at = {int(c): i for i, c in enumerate(box.ap_class_index)}  # rows of the host's arrays: classes that have labels
    counts = np.bincount(np.concatenate([t.classes for t in validator.truths]).astype(int), minlength=len(names))
    per_class = []
    for index, scores in enumerate(coco.pop("per_class")):
        host = [float(values[at[index]]) for values in (box.p, box.r, box.f1)] if index in at else [None] * 3
        row = {"class": index, "name": names[index], "boxes": int(counts[index])}
        per_class.append(row | dict(zip(("precision", "recall", "F1"), host, strict=True)) | scores)
    chosen = smooth(box.f1_curve.mean(0), 0.1).argmax()  # where the host reads precision, recall and F1 off its curves
    overall = {
        "precision": float(box.mp),
        "recall": float(box.mr),
        "F1": float(np.mean(box.f1)),
        "best_conf": float(box.px[chosen]),
    }
    host = {"mAP50": float(box.map50), "mAP50-95": float(box.map), "AP75": float(box.map75)}
    return {"metrics": coco | overall, "per_class": per_class, "ultralytics": host}
