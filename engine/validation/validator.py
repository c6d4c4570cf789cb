"""ultralytics' validator with our training arguments, our suppression, and every box kept on request."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import nn

from engine.plots import drawable
from engine.validation.coco_metrics import Boxes
from engine.validation.nms import capacity, complete_nms, select_classes

from ultralytics.models.yolo.detect import DetectionValidator
from ultralytics.utils import DEFAULT_CFG_KEYS, ops


class Validator(DetectionValidator):
    """ultralytics' validator that also takes our training arguments and can keep every box for the COCO evaluation.

    Attributes:
        collect: keep ground truth and detections of each image, in original pixels, in `truths` and `found`.
        room: the most boxes that can be found in an image: that the model gives and suppression keeps.
        short: images that have more; counted with `collect`.
        classes: for each class of the data the model's class of that name, where the model has them in another order.
    """

    names: dict[int, str]  # the host's

    def __init__(
        self, dataloader: Any = None, save_dir: Path | None = None, args: SimpleNamespace | dict[str, Any] | None = None,
        _callbacks: dict[str, list[Any]] | None = None,
    ) -> None:  # fmt: skip
        given = vars(args) if isinstance(args, SimpleNamespace) else args or {}
        known = {key: value for key, value in given.items() if key in DEFAULT_CFG_KEYS}  # the host refuses other keys
        super().__init__(dataloader, save_dir, known, _callbacks)
        self.collect = False
        self.classes: list[int] | None = None
        self.truths: list[Boxes] = []
        self.found: list[Boxes] = []
        self.room = self.short = self._room_here = 0

    def init_metrics(self, model: nn.Module) -> None:
        """Start a validation pass."""
        if self.classes:
            model.names = self.data["names"]
        super().init_metrics(model)
        self.names = drawable(self.names)  # of the host's table and images only
        self.truths, self.found, self.room, self.short = [], [], 0, 0
        self._room_here = self.args.max_det  # in images of the size at hand

    def postprocess(self, preds: Any) -> list[dict[str, torch.Tensor]]:
        """Boxes per image after suppression: bboxes xyxy in input pixels, conf, cls."""
        if self.classes:
            preds = select_classes(preds, self.classes, self.end2end)
        self._room_here = min(capacity(preds, self.end2end), self.args.max_det)
        self.room = max(self.room, self._room_here)
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
            boxes: np.ndarray = ops.scale_boxes(*args).cpu().numpy()
            return boxes

        self.short += len(truth["cls"]) > self._room_here
        self.truths.append(Boxes(original(truth["bboxes"]), truth["cls"].cpu().numpy()))
        classes, scores = pred["cls"].cpu().numpy(), pred["conf"].float().cpu().numpy()
        self.found.append(Boxes(original(pred["bboxes"]), classes, scores))
