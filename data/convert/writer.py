"""From records to a YOLO data set: class indices, correction of boxes, writing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from cfg import UserError, nearest
from data.convert.base import Box, Corners, Log, Record
from data.convert.frame import fit
from data.layout import DatasetWriter, staging, unique_stems, xyxy_to_rows

SMALLEST = 1e-6  # side of a box as a fraction of the image: less is written as zero, which no command accepts
ROUNDING = 0.01  # pixels: what decimals in other formats lose: no correction to report


@dataclass
class Outcome:
    """What was written: part -> images, class -> part -> boxes, and how many images no split list names."""

    names: list[str]
    images: Counter[str] = field(default_factory=Counter)
    boxes: dict[str, Counter[str]] = field(default_factory=dict)
    unlisted: int = 0


def class_names(records: Sequence[Record], given: Sequence[str], fixed: Sequence[str], ignore: bool) -> list[str]:
    """Return the class names in index order: given, else the format's own, else those found, sorted.

    Raises:
        UserError: a file names a class that is not among the given ones (unless `ignore`), a name is given twice, or
            there is no class.
    """
    names = list(given or fixed or sorted({name for r in records for name, _ in r.annotation.boxes_xyxy}))
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise UserError(f"--names: expected distinct names, got '{twice[0]}' twice; rename one")
    for record in records if not ignore else ():
        for name, _ in record.annotation.boxes_xyxy:
            if name not in names:
                raise UserError(f"{record.annotation.origin}: expected one of the classes {', '.join(names)}, got "
                                f"'{name}'{nearest(name, names)}; add it to --names or leave it out with "
                                "--ignore-unknown")
    if not names:
        raise UserError("--source: expected at least one box, got none; check the annotations, or give --names")
    return names


def mend(boxes_xyxy: Sequence[Box], names: Sequence[str], width: int, height: int, origin: Path,
         log: Log) -> tuple[np.ndarray, int]:
    """Return label rows (n, 5): known classes, corners in order, clipped, without exact duplicates.

    The second value counts the boxes that could not be used: no area inside the image, or no numbers.
    """
    seen, classes, boxes, lost = set(), [], [], 0
    for name, corners in boxes_xyxy:
        text = f"{name} {' '.join(f'{v:g}' for v in corners)}"
        if name not in names:
            log.mend("boxes of unknown classes dropped", origin, text)
        elif (name, corners) in seen:
            log.mend("duplicate boxes dropped", origin, text)
        elif box := _usable(corners, width, height, origin, text, log):
            classes.append(names.index(name))
            boxes.append(box)
        else:
            lost += 1
        seen.add((name, corners))
    return xyxy_to_rows(np.array(classes), np.array(boxes), width, height), lost


def _usable(corners: Corners, width: int, height: int, origin: Path, text: str,
            log: Log) -> Corners | None:
    """Return corners in order and inside the image; ``None`` where that is no box."""
    if not np.isfinite(corners).all():
        log.lose("boxes without finite corners", origin, text)
        return None
    (x1, x2), (y1, y2) = sorted(corners[0::2]), sorted(corners[1::2])
    if (x1, y1, x2, y2) != tuple(corners):
        log.mend("corners put in order", origin, text)
    clipped = (max(x1, 0.0), max(y1, 0.0), min(x2, float(width)), min(y2, float(height)))
    if (clipped[2] - clipped[0]) / width < SMALLEST or (clipped[3] - clipped[1]) / height < SMALLEST:
        log.lose("boxes without an area inside the image", origin, f"{text} in an image of {width} x {height}")
        return None
    if max(abs(a - b) for a, b in zip(clipped, (x1, y1, x2, y2), strict=True)) > ROUNDING:
        log.mend("boxes clipped to the image", origin, f"{text} in an image of {width} x {height}")
    return clipped


def write(records: Sequence[Record], names: Sequence[str], out: Path, comment: str, log: Log,
          link: bool = False, overwrite: bool = False) -> Outcome:
    """Write records as a YOLO data set; an image that cannot be used is noted in the log and left out.

    Raises:
        UserError: nothing was usable, or `out` cannot be written.
    """
    outcome = Outcome(list(names), boxes={name: Counter() for name in names})
    with staging(out, overwrite) as folder:
        writer = DatasetWriter(folder, names, link)
        for record, stem in zip(records, unique_stems([record.key for record in records])):
            assert record.part is not None  # every record has been given one
            try:
                with _image_file(record, folder, log) as image:
                    rows = _rows(record, image, names, log)
                    writer.link = link and image == record.image
                    writer.add(image, record.part, stem, rows)
            except ValueError as error:
                log.skip(record.title, f"{error}")
                continue
            outcome.images[record.part] += 1
            for index in rows[:, 0].astype(int):
                outcome.boxes[names[index]][record.part] += 1
        if not outcome.images:
            first = f" (first: {log.skipped[0][0]}: {log.skipped[0][1]})" if log.skipped else ""
            raise UserError(f"--source: expected usable annotated images, got none{first}; check --format and --source")
        writer.finish(comment)
    return outcome


def _rows(record: Record, image: Path, names: Sequence[str], log: Log) -> np.ndarray:
    """Return the label rows (n, 5) of an image. Raises `ValueError` when it, or all of its annotation, is unusable.

    An image is defect-free when its annotation says so, not when what it says cannot be used.
    """
    annotation = record.annotation
    boxes, width, height = fit(annotation, image, record.title, log)
    rows, lost = mend(boxes, names, width, height, annotation.origin, log)
    if lost + annotation.lost and not len(rows):
        raise ValueError(f"none of its {lost + annotation.lost} annotations can be used")
    return rows


@contextmanager
def _image_file(record: Record, folder: Path, log: Log) -> Iterator[Path]:
    """Give the image file of a record; an embedded image gets one in `folder` for as long as it is needed."""
    if record.image:
        yield record.image
        return
    assert record.annotation.embedded is not None  # of a record without an image
    data, suffix = record.annotation.embedded()
    log.mend("images taken from the annotation file, since theirs was not found", record.title)
    image = folder / f".embedded{suffix}"
    image.write_bytes(data)
    try:
        yield image
    finally:
        image.unlink()
