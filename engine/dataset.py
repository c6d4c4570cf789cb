"""ultralytics' data set on our own reading: what it trains, validates and calibrates on is what `data.check` accepts.

Differs from the host's in what touches the user's files. Its cache of labels is a pickle beside the labels, whose code runs
when it is read; it writes decoded images beside the images, or takes a file of that name for one; it mends images in place;
and it leaves out, by rules of its own, images that nobody said a word about.
"""

from __future__ import annotations

import csv
import os
import shutil
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

import models.environment  # noqa: F401  (before ultralytics)
from cfg import UserError
from data.decode import Unreadable
from data.files import list_images
from data.images import ImageFacts, read_pixels
from data.reader import Reading, Sample, memory_place, read_images
from data.unlabelled import UNLABELLED
from engine.pasting import Pasting

from ultralytics.data import base as host_base
from ultralytics.data import build as host_build
from ultralytics.data.dataset import YOLODataset
from ultralytics.utils import LOCAL_RANK, LOGGER, TQDM

SHOWN = 20  # images that are left out, named on the screen
LEFT_OUT = "left-out.csv"  # all of them, in the run folder
BORDER = 0.5  # of a stride, which ultralytics leaves around the images it validates on

_host_imread = host_base.imread


class Dataset(YOLODataset):
    """Images and labels of one part of a data set.

    Args:
        hyp: the run's arguments; with a true `border` among them, images to validate on get ultralytics' border of half a
            stride of grey. At 640 pixels that is little; 128 pixels become 160, and a detector with coarse levels, which
            has never seen such an edge, loses up to 7 points of mAP50-95 (benchmarks/neu-det.md). Without it they are what
            detect.py and exported models see. With a `paste` above 0, images to train on get defects of others with that
            probability (`engine.pasting`).

    Attributes:
        reading: what was read, and which images were left out and why.
    """

    reading: Reading

    def __init__(self, *args: Any, hyp: Any, **options: Any) -> None:
        self.border = BORDER if getattr(hyp, "border", False) else 0.0
        super().__init__(*args, hyp=hyp, **options)
        chance = getattr(hyp, "paste", 0.0) if self.augment else 0.0
        self.pasting = Pasting(self, chance, hyp.fliplr) if chance else None

    def get_img_files(self, img_path: str | list[str]) -> list[str]:
        """Read the part; return the images that are used. Raises `UserError` when there is none."""
        entries = [Path(p) for p in (img_path if isinstance(img_path, list) else [img_path])]
        nc = None if self.single_cls else len(self.data["names"])  # with one class, the index does not matter
        labelled = UNLABELLED not in self.data
        self.reading = read_images(entries, nc, first=self._wanted(entries), progress=_bar, labelled=labelled)
        used, left_out = self.reading.samples, self.reading.left_out
        if LOCAL_RANK in {-1, 0}:
            objects = f"{self.reading.background} backgrounds" if labelled else "no labels read"
            counts = f"{len(used)} images, {objects}, {len(left_out)} corrupt"
            LOGGER.info(f"{self.prefix}Scanning {entries[0]}... {counts}")
            tell_left_out(left_out)
        if not used:
            first = f" ({left_out[0].image}: {left_out[0].reason})" if left_out else ""
            raise UserError(f"{entries[0]}: expected images that can be used, got none{first}; see `python -m data.check`")
        return [str(sample.image) for sample in used]

    def _wanted(self, entries: list[Path]) -> int | None:
        """How many images `fraction` leaves, None for all."""
        if self.fraction == 1.0:
            return None
        total = sum(len(list_images(entry)) for entry in entries)
        return self.fraction if isinstance(self.fraction, int) else max(1, round(total * self.fraction))

    def get_labels(self) -> list[dict[str, Any]]:
        """The labels as the host's own: shape (height, width), cls (n, 1), bboxes (n, 4) xywh as fractions."""
        outlined = all(p is not None for s in self.reading.samples if s.labels for p in s.labels.polygons)
        return [_label(sample, outlined) for sample in self.reading.samples]

    def update_labels_info(self, label: dict[str, Any]) -> dict[str, Any]:
        """A loaded image with its labels as augmentation takes them, with pasted defects where the run pastes."""
        if self.pasting:
            self.pasting(label)
        updated: dict[str, Any] = super().update_labels_info(label)
        return updated

    def set_rectangle(self) -> None:
        """Batches of images of like shape. Unlike the host's, labels keep their `shape`, which anchors are fitted by."""
        self.pad = self.border
        shapes = {label["im_file"]: label["shape"] for label in self.labels}
        super().set_rectangle()
        for label in self.labels:
            label["shape"] = shapes[label["im_file"]]

    @property
    def npy_files(self) -> list[Path]:
        """Where `cache: disk` keeps decoded images: in our own folder, by the digest of their pixels."""
        return self._decoded

    @npy_files.setter
    def npy_files(self, beside_the_images: list[Path]) -> None:
        facts = {str(sample.image): _facts(sample) for sample in self.reading.samples}
        place = memory_place(self.reading.samples[0].image)
        self._decoded = [place / f"{facts[file].digest.hex()}.npy" for file in self.im_files]

    def check_cache_disk(self, safety_margin: float = 0.1) -> bool:
        """Whether decoded images can be kept on the disk: room, and a folder that can be written."""
        place = self.npy_files[0].parent
        needed = sum(f.width * f.height * 3 for f in map(_facts, self.reading.samples)) * (1 + safety_margin)
        try:
            place.mkdir(exist_ok=True)
            reason = "no room" if shutil.disk_usage(place).free < needed else ""
            reason = reason or ("" if os.access(place, os.W_OK) else "it cannot be written")
        except OSError as error:
            reason = error.strerror or str(error)
        if reason:
            self.cache = None
            LOGGER.warning(f"cache: disk: images are not kept in {place}: {reason}")
        return not reason


def use_own_data() -> None:
    """Have ultralytics build our `Dataset` wherever it builds one of its own, and decode images as all commands do."""
    host_build.YOLODataset, host_base.imread = Dataset, _imread


def tell_left_out(left_out: list[Sample]) -> None:
    """Name the images that are left out, with the reason, the first `SHOWN` of them."""
    for sample in left_out[:SHOWN]:
        LOGGER.info(f"left out {sample.image}: {sample.reason}")
    if len(left_out) > SHOWN:
        LOGGER.info(f"left out {len(left_out) - SHOWN} more images, named in the run folder's {LEFT_OUT}")


def record_left_out(folder: Path, readings: dict[str, Reading]) -> int:
    """Write the images that a run leaves out, by part, to its folder; no file where there are none. Returns how many.

    Raises:
        OSError: the folder cannot be written.
    """
    rows = [(part, x.image, x.reason) for part, reading in readings.items() for x in reading.left_out]
    (folder / LEFT_OUT).unlink(missing_ok=True)  # an earlier start of the same run
    if rows:
        with (folder / LEFT_OUT).open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
            csv.writer(file).writerows([("part", "image", "reason"), *rows])
    return len(rows)


def _facts(sample: Sample) -> ImageFacts:
    """Of a sample that is used."""
    assert sample.facts, "only of what is left out, there are none"
    return sample.facts


def _bar(iterable: Iterable[Any], total: int) -> Iterable[Any]:
    return TQDM(iterable, desc="Reading images", total=total, leave=False) if sys.stdout.isatty() else iterable


def _label(sample: Sample, outlined: bool) -> dict[str, Any]:
    rows, facts = sample.rows.astype(np.float32), _facts(sample)
    return {
        "im_file": str(sample.image),
        "shape": (facts.height, facts.width),
        "cls": rows[:, 0:1],
        "bboxes": rows[:, 1:],
        # Only where all labels are polygons: the host's augmentation takes them for one per box.
        "segments": [p.astype(np.float32) for p in sample.labels.polygons if p is not None] if outlined and sample.labels else [],
        "keypoints": None,
        "normalized": True,
        "bbox_format": "xywh",
    }


def _imread(filename: str, flags: int = cv2.IMREAD_COLOR) -> np.ndarray:
    """As the host's, for images of three channels: the pixels that the reading measured. Raises `UserError`."""
    if flags != cv2.IMREAD_COLOR:
        pixels: np.ndarray = _host_imread(filename, flags)
        return pixels
    try:
        return read_pixels(Path(filename))
    except Unreadable as error:
        raise UserError(f"{filename}: {error}; it could be read when the run began") from None
