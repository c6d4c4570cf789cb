"""Augmentation of the training part: its own defects, cut out and pasted onto other images of it, good parts above all."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

import models.environment  # noqa: F401  (before ultralytics, which wraps PIL's `open`)
from data.layout import rows_to_xyxy, xyxy_to_rows
from data.rare.cuts import Cut, cut_out, groups
from data.rare.paste import paste

from ultralytics.data import base as host_base

LARGEST = 0.7  # of the image's sides that a cut may have
MOST = 3  # defects pasted into an image
SCALES = 0.8, 1.25  # a defect's size in its copy
ALIKE = 0.5, 2.0  # scales of the two images, one over the other, between which a defect is copied
KEPT = 512  # cuts in memory


@dataclass(frozen=True)
class Source:
    """Where a defect is: index of its image, its boxes among the image's, and the area to cut, in pixels of the loaded image."""

    image: int
    members: np.ndarray
    area: np.ndarray


class Pasting:
    """Pastes defects into images as they are loaded, before mosaic and all other augmentation.

    A class is drawn first, each as often as any other, so that of few shots more copies are made; then one of its defects. Its size
    in pixels of the original images stays about as it was. Nothing is pasted where no place is found (`data.rare.paste`).

    Args:
        dataset: ultralytics' data set; its labels and images are all that is copied from.
        chance: probability for each image.
        mirror: probability of a copy with left and right exchanged.
    """

    def __init__(self, dataset: Any, chance: float, mirror: float = 0.0) -> None:
        self.dataset, self.chance, self.mirror = dataset, chance, mirror
        self.sources = find_sources(dataset.labels, dataset.imgsz)
        self.outlined = any(label["segments"] for label in dataset.labels)  # then a pasted box needs a polygon too
        self.cuts: dict[tuple[int, int], Cut] = {}

    def __call__(self, label: dict[str, Any]) -> None:
        """Paste into a label of `get_image_and_label`, in place; its `img` is replaced, never written into."""
        if not self.sources or random.random() >= self.chance:
            return
        rng = np.random.default_rng(random.getrandbits(64))  # of the numbers that an epoch is seeded with
        for _ in range(rng.integers(1, MOST + 1)):
            kinds = list(self.sources)
            of_class = self.sources[kinds[rng.integers(len(kinds))]]
            self._paste_one(label, of_class[rng.integers(len(of_class))], rng)

    def _paste_one(self, label: dict[str, Any], source: Source, rng: np.random.Generator) -> None:
        height, width = label["img"].shape[:2]
        scale = label["resized_shape"][0] / label["ori_shape"][0]
        alike = scale / loaded_scale(self.dataset.labels[source.image]["shape"], self.dataset.imgsz)
        if not ALIKE[0] <= alike <= ALIKE[1]:
            return
        factor = alike * float(rng.uniform(*SCALES))
        cut = self._cut(source).scaled(factor)
        if rng.random() < self.mirror:
            cut = cut.mirrored()
        present = rows_to_xyxy(np.column_stack([label["cls"], label["bboxes"]]), width, height)
        pasted = paste(label["img"], present, cut, rng)
        if pasted is None:
            return
        label["img"], boxes_xyxy = pasted
        rows = xyxy_to_rows(cut.classes, boxes_xyxy, width, height).astype(np.float32)
        label["cls"] = np.concatenate([label["cls"], rows[:, :1]])
        label["bboxes"] = np.concatenate([label["bboxes"], rows[:, 1:]])
        if self.outlined:
            label["segments"] = [*label["segments"], *map(_outline, rows[:, 1:])]

    def _cut(self, source: Source) -> Cut:
        """The cut of a source, from memory where it was cut before."""
        key = source.image, int(source.members[0])
        if key not in self.cuts:
            if len(self.cuts) >= KEPT:
                self.cuts.pop(next(iter(self.cuts)))
            label = self.dataset.labels[source.image]
            pixels = self._load(source.image)
            height, width = pixels.shape[:2]
            rows = np.column_stack([label["cls"], label["bboxes"]])[source.members]
            self.cuts[key] = cut_out(pixels, rows_to_xyxy(rows, width, height), rows[:, 0], source.area)
        return self.cuts[key]

    def _load(self, index: int) -> np.ndarray:
        """Pixels as `load_image` gives them, which would also keep the image for the next mosaics."""
        kept: np.ndarray | None = self.dataset.ims[index]
        if kept is not None:
            return kept
        pixels: np.ndarray = host_base.imread(self.dataset.im_files[index])
        height, width = loaded_size(pixels.shape[:2], self.dataset.imgsz)
        if (height, width) == pixels.shape[:2]:
            return pixels
        return cv2.resize(pixels, (width, height), interpolation=cv2.INTER_LINEAR)


def find_sources(labels: Sequence[dict[str, Any]], imgsz: int) -> dict[int, list[Source]]:
    """Return, by class, where defects can be cut out of a data set's images. A group of boxes of several classes is in each.

    Args:
        labels: ultralytics' labels, with `shape` (height, width), `cls` (n, 1) and `bboxes` (n, 4) xywh 0..1.
        imgsz: side in pixels that an image's longer side has when it is loaded.
    """
    sources: dict[int, list[Source]] = {}
    for index, label in enumerate(labels):
        if not len(label["cls"]):
            continue
        height, width = loaded_size(label["shape"], imgsz)
        boxes_xyxy = rows_to_xyxy(np.column_stack([label["cls"], label["bboxes"]]), width, height)
        for members, area in groups(boxes_xyxy, width, height):
            if ((area[2:] - area[:2]) <= LARGEST * np.array([width, height])).all():
                for kind in np.unique(label["cls"][members]).astype(int).tolist():
                    sources.setdefault(kind, []).append(Source(index, members, area))
    return sources


def loaded_scale(shape: Sequence[int], imgsz: int) -> float:
    """Pixels of the loaded image for each pixel of one of height and width `shape`."""
    return imgsz / max(shape)


def loaded_size(shape: Sequence[int], imgsz: int) -> tuple[int, int]:
    """Height and width in pixels of an image as `load_image` gives it."""
    scale = loaded_scale(shape, imgsz)
    height, width = (min(math.ceil(side * scale), imgsz) for side in shape)
    return height, width


def _outline(box_xywh: np.ndarray) -> np.ndarray:
    """The corners (4, 2) of a box."""
    x, y, width, height = box_xywh
    return np.array([[x - width / 2, y - height / 2], [x + width / 2, y - height / 2],
                     [x + width / 2, y + height / 2], [x - width / 2, y + height / 2]], dtype=np.float32)  # fmt: skip
