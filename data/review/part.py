"""The images of a part with their labels and with what a model found there (`val.py --detections`)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np

from cfg import UserError
from data.dataset import part_paths, resolve
from data.layout import rows_to_xyxy
from data.reader import Reading, Sample, read_images
from data.review.suspects import Objects
from data.scripts import run_script

ARRAYS = ("files", "found_counts", "found_boxes_xyxy", "found_classes", "found_scores")


@dataclass(frozen=True)
class Reviewed:
    """One image with its labels and the boxes found in it.

    Attributes:
        image: the file; `width`, `height` in pixels, upright.
        labels, found: boxes in pixels.
        lines: for each label its line in the label file, from 1.
    """

    image: Path
    width: int
    height: int
    labels: Objects
    found: Objects
    lines: list[int]


def read_part(data: str, split: str) -> tuple[dict[int, str], Reading]:
    """Return the class names of a data set, and the images of a part with their labels. Raises `UserError`."""
    content = resolve(data, require=(split,))
    reading = read_images(part_paths(content, split), content["nc"])
    if not reading.samples:
        raise UserError(f"{data}: expected images that can be used in '{split}', got none; see `python -m data.check`")
    return content["names"], reading


def look(weights: str, data: str, split: str, folder: Path, more: Sequence[str] = ()) -> Path:
    """Run val.py on a part of a data set; return its file of boxes.

    Args:
        folder: for the boxes, and for what val.py writes and prints.
        more: further arguments of val.py.

    Raises:
        UserError: with the message of val.py.
    """
    boxes = folder.resolve() / "boxes.npz"
    given = {"--weights": weights, "--data": data, "--split": split, "--detections": boxes, "--save-dir": folder}
    run_script("val.py", ["--no-plots", *more, *(str(word) for pair in given.items() for word in pair)], folder)
    return boxes


def join(reading: Reading, boxes: str | Path, nc: int) -> list[Reviewed]:
    """Return every image of a part with the boxes that a file of `val.py --detections` has for it.

    Raises:
        UserError: the file cannot be read, is of other images, or of other classes.
    """
    files, found = read_boxes(boxes)
    names = [sample.image.name for sample in reading.samples]
    by_path = len(set(names)) < len(names)
    keys = [str(sample.image.resolve()) if by_path else sample.image.name for sample in reading.samples]
    at = {str(Path(file).resolve()) if by_path else Path(file).name: i for i, file in enumerate(files)}
    if lost := [key for key in keys if key not in at]:
        raise UserError(f"{boxes}: expected the boxes of all {len(keys)} images, got none of {lost[0]} and of {len(lost) - 1} "
                        "more; write it anew with val.py --detections on the same --data and --split")  # fmt: skip
    if any(objects.classes.max(initial=0) >= nc for objects in found):
        raise UserError(f"{boxes}: expected boxes of {nc} classes, got more; write it anew on the same --data")
    return [
        Reviewed(sample.image, *sample.size, labels_of(sample), found[at[key]], sample.labels.lines if sample.labels else [])
        for sample, key in zip(reading.samples, keys, strict=True)
    ]


def read_boxes(path: str | Path) -> tuple[list[str], list[Objects]]:
    """Return image files and found boxes of a file that `val.py --detections` wrote. Raises `UserError`."""
    try:
        with np.load(path, allow_pickle=False) as content:
            arrays = {name: content[name] for name in ARRAYS}
            files = content["paths" if "paths" in content else "files"].tolist()
    except (OSError, ValueError, KeyError, BadZipFile) as error:
        raise UserError(f"--detections {path}: expected a file of val.py --detections, got one that cannot be read "
                        f"({error}); write it anew") from None  # fmt: skip
    ends = np.cumsum(arrays["found_counts"])[:-1]
    parts = [np.split(arrays[f"found_{name}"], ends) for name in ("boxes_xyxy", "classes", "scores")]
    return files, [Objects(*image) for image in zip(*parts, strict=True)]


def labels_of(sample: Sample) -> Objects:
    """The labels of an image as boxes in pixels."""
    rows = sample.rows
    return Objects(rows_to_xyxy(rows, *sample.size), rows[:, 0].astype(int))
