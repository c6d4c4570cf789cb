"""Validation on whole images that are looked at in tiles."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch

from data.images import read_pixels
from engine.backend import Backend
from engine.dataset import Dataset
from engine.detection.pipeline import read_ahead
from engine.tiling.pictures import tile_boxes
from engine.validation.validator import Validator
from inspection.seams import found_from, merge
from inspection.tiles import Tiling, tiling_asked

from ultralytics.data.augment import LetterBox
from ultralytics.nn.autobackend import AutoBackend
from ultralytics.utils import ops


class WholeImages:
    """The images of a data set one by one and in their own size, (1, 3, H, W) uint8 BGR, as batches of a validator."""

    def __init__(self, dataset: Dataset) -> None:
        self.dataset, self.batch_size, self.sampler = dataset, 1, range(len(dataset))

    def __len__(self) -> int:
        return len(self.dataset)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for index, image in read_ahead(self._read, range(len(self)), 2, lambda pixels: pixels.nbytes):
            pixels, label = image.result(), self.dataset.labels[index]
            yield {
                "img": torch.from_numpy(pixels).permute(2, 0, 1)[None],
                "cls": torch.from_numpy(label["cls"]),
                "bboxes": torch.from_numpy(label["bboxes"]),
                "batch_idx": torch.zeros(len(label["cls"])),
                "ori_shape": [pixels.shape[:2]],
                "ratio_pad": [((1.0, 1.0), (0.0, 0.0))],
                "im_file": [label["im_file"]],
            }

    def _read(self, index: int) -> np.ndarray:
        return read_pixels(Path(self.dataset.im_files[index]))


class PassingBackend(Backend):
    """A model that hands a whole image, uint8, on to `TiledValidator.postprocess`, which shows it the tiles (floats)."""

    def forward(self, im: torch.Tensor, **options: Any) -> Any:
        """Predict for (B, 3, h, w) floats; return anything else as it is."""
        return super().forward(im, **options) if im.is_floating_point() else im


class TiledValidator(Validator):
    """A validator whose images are as they are on the disk, and whose model sees their tiles, `args.batch` at once.

    To be used with `engine.host.own_backend(..., kind=PassingBackend)`.

    Attributes:
        asked: side and overlap as requested (`inspection.tiles.tiling_asked`); to be set before the call.
        tiling: what came of it and of the labels.
        tiles: how many each image had.
        seconds: what each took, from its pixels to its boxes.
    """

    asked: tuple[int | None, float | None]
    tiling: Tiling
    tiles: list[int]
    seconds: list[float]

    def get_dataloader(self, dataset_path: str, batch_size: int) -> WholeImages:
        """Read the labels, settle the overlap, and give the images whole."""
        dataset = self.build_dataset(dataset_path, batch=1, mode="val")
        tiling = tiling_asked(*self.asked, label_sizes(dataset))
        assert tiling, "without --tile, images are validated by another class"
        self.tiling = tiling
        return WholeImages(dataset)

    def init_metrics(self, model: AutoBackend) -> None:
        """Start a validation pass."""
        super().init_metrics(model)
        self.model, self.tiles, self.seconds = model, [], []
        dynamic = model.format == "pt" or model.dynamic
        self.letterbox = LetterBox(self.args.imgsz, auto=dynamic, stride=int(model.stride))

    def preprocess(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Move the labels to the device; the image goes there in tiles."""
        return batch | {name: batch[name].to(self.device) for name in ("cls", "bboxes", "batch_idx")}

    def postprocess(self, preds: torch.Tensor) -> list[dict[str, torch.Tensor]]:
        """Boxes of a whole image (1, 3, H, W) uint8 BGR: bboxes xyxy in its pixels, conf, cls."""
        began, pixels = perf_counter(), preds[0].permute(1, 2, 0).numpy()
        windows = self.tiling.windows(*pixels.shape[:2])
        steps = range(0, len(windows), self.args.batch)
        tables = [table for at in steps for table in self._look(pixels, windows[at : at + self.args.batch])]
        agnostic = self.args.single_cls or self.args.agnostic_nms
        parts = merge(tile_boxes(tables, windows), windows, self.args.iou, agnostic, self.args.max_det)
        keep = parts[1] > self.args.conf
        boxes, scores, classes = (torch.from_numpy(part[keep]).float().to(self.device) for part in parts)
        self._room_here = min(len(windows) * self._room_here, self.args.max_det)
        self.room = max(self.room, self._room_here)
        self.tiles.append(len(windows))
        self.seconds.append(perf_counter() - began)
        return [{"bboxes": boxes, "conf": scores, "cls": classes, "extra": boxes[:, :0]}]

    def _look(self, pixels: np.ndarray, windows: np.ndarray) -> list[np.ndarray]:
        """What is found in some tiles: for each (n, 6), `x1 y1 x2 y2` in pixels of the tile, score, class."""
        views = [pixels[y1:y2, x1:x2] for x1, y1, x2, y2 in windows]
        prepared = np.stack([self.letterbox(image=view) for view in views])
        images = torch.from_numpy(prepared).to(self.device).permute(0, 3, 1, 2).flip(1)
        images = (images.half() if self.model.fp16 else images.float()) / 255
        conf, self.args.conf = self.args.conf, found_from(self.args.conf)
        try:
            kept = super().postprocess(self.model(images))
        finally:
            self.args.conf = conf
        tables = []
        for view, found in zip(views, kept, strict=True):
            boxes = ops.scale_boxes(images.shape[2:], found["bboxes"].clone().float(), view.shape)
            table = torch.cat([boxes, found["conf"].float()[:, None], found["cls"].float()[:, None]], 1)
            tables.append(table.cpu().numpy().astype(np.float64))
        return tables

    def plot_val_samples(self, batch: dict[str, Any], ni: int) -> None:
        """As the base class, which draws RGB."""
        super().plot_val_samples(batch | {"img": batch["img"].flip(1)}, ni)

    def plot_predictions(self, batch: dict[str, Any], preds: list[dict[str, torch.Tensor]], ni: int) -> None:
        """As the base class, which draws RGB."""
        super().plot_predictions(batch | {"img": batch["img"].flip(1)}, preds, ni)

    def report(self) -> dict[str, Any]:
        """Tiles and times, and how many labelled objects are whole in no tile.

        Returns:
            ``tile``, ``overlap``, ``tiles`` of all images, ``ms_per_image`` (median, from pixels to boxes), ``cut_objects``.
        """
        shapes = [label["shape"] for label in self.dataloader.dataset.labels]
        cut = sum(
            int((~whole_somewhere(truth.boxes_xyxy, self.tiling.windows(*shape))).sum())
            for truth, shape in zip(self.truths, shapes, strict=True)
        )
        return {"tile": self.tiling.side, "overlap": self.tiling.overlap, "tiles": sum(self.tiles),
                "ms_per_image": 1e3 * float(np.median(self.seconds)), "cut_objects": cut}  # fmt: skip


def whole_somewhere(boxes_xyxy: np.ndarray, windows: np.ndarray, slack: float = 1.0) -> np.ndarray:
    """Whether boxes (n, 4) lie, but for `slack` pixels, in one of the windows (m, 4)."""
    from_above = boxes_xyxy[:, None, :2] >= windows[None, :, :2] - slack
    to_below = boxes_xyxy[:, None, 2:] <= windows[None, :, 2:] + slack
    inside: np.ndarray = np.any(np.all(from_above & to_below, axis=2), axis=1)
    return inside


def label_sizes(dataset: Dataset) -> np.ndarray:
    """Longer sides of a data set's labelled boxes in pixels (n,)."""
    sides = [(label["bboxes"][:, 2:] * np.array(label["shape"][::-1])).max(1) for label in dataset.labels]
    return np.concatenate([*sides, np.zeros(0)])
