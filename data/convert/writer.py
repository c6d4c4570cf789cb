"""From records to a YOLO data set: splits, class indices, mending of boxes, writing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from cfg import UserError, nearest
from data.convert.base import Log, Record
from data.images import image_size
from data.files import is_image
from data.layout import DatasetWriter, staging, unique_stems, xyxy_to_rows

WHOLE = "all"  # the part that holds everything when no split is given


@dataclass
class Outcome:
    """What was written: part -> images, class -> part -> boxes, and how many images no split list names."""

    names: list[str]
    images: dict[str, int] = field(default_factory=dict)
    boxes: dict[str, dict[str, int]] = field(default_factory=dict)
    unlisted: int = 0


def assign_parts(records: Sequence[Record], splits: dict[str, Path], log: Log) -> list[Record]:
    """Give every record its part from the split lists and return those that are listed.

    A line names an image by path or name, with or without suffix; text after a blank is ignored when the whole line
    names nothing (DeepPCB's and VOC's lists have a second column).

    Raises:
        UserError: unreadable list, a list none of whose lines is known, an ambiguous name, an image in two lists.
    """
    lists = {part: path for part, path in splits.items() if path.suffix.lower() != ".json"}
    if not lists:
        for record in records:
            record.part = record.part or WHOLE
        return list(records)
    by_name: dict[str, list[Record]] = {}
    for record in records:
        for name in {record.key, record.key.rsplit("/", 1)[-1]}:
            by_name.setdefault(name, []).append(record)
    for record in records:
        record.part = None
    for part, path in lists.items():
        lines, unknown = _lines(path), []
        for line in lines:
            record = _named(line, by_name, path)
            if record is None:
                unknown.append(line)
            elif record.part not in (None, part):
                raise UserError(f"{path}: expected distinct splits, got '{line}' in {record.part} too; remove one")
            else:
                record.part = part
        if len(unknown) == len(lines):
            raise UserError(f"{path}: expected names of images below the source, got '{(lines or [''])[0]}', which "
                            "like all lines names none; check --source and the list")
        for line in unknown:
            log.skip(path, f"'{line}' names no usable image")
    return [record for record in records if record.part]


def _lines(path: Path) -> list[str]:
    try:
        return [line.strip() for line in path.read_text(encoding="utf-8-sig").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: expected a text file with one image per line, got one that cannot be read "
                        f"({error}); correct --splits") from None


def _named(line: str, by_name: dict[str, list[Record]], path: Path) -> Record | None:
    for text in (line, line.split()[0]):
        text = text.replace("\\", "/").removeprefix("./")
        plain = text.rsplit(".", 1)[0] if is_image(Path(text)) or text.endswith((".xml", ".txt", ".json")) else text
        parts = plain.split("/")
        for name in ("/".join(parts[i:]) for i in range(len(parts))):
            if found := by_name.get(name):
                if len(found) > 1:
                    raise UserError(f"{path}: expected a distinct name, got '{line}', which {len(found)} images have; "
                                    "write the path below the source")
                return found[0]
    return None


def class_names(records: Sequence[Record], given: Sequence[str], fixed: Sequence[str], ignore: bool) -> list[str]:
    """Return the class names in index order: given, else the format's own, else those found, sorted.

    Raises:
        UserError: a file names a class that is not among the given ones (unless `ignore`), or there is no class.
    """
    names = list(given or fixed or sorted({name for record in records for name, _ in record.boxes_xyxy}))
    for record in records if not ignore else ():
        for name, _ in record.boxes_xyxy:
            if name not in names:
                raise UserError(f"{record.origin}: expected one of the classes {', '.join(names)}, got '{name}'"
                                f"{nearest(name, names)}; add it to --names or leave it out with --ignore-unknown")
    if not names:
        raise UserError("--source: expected at least one box, got none; check the annotations, or give --names")
    return names


def mend(record: Record, names: Sequence[str], width: int, height: int, log: Log) -> np.ndarray:
    """Return label rows (n, 5) of a record: known classes, corners in order, clipped, without exact duplicates."""
    seen, classes, boxes = set(), [], []
    for name, corners in record.boxes_xyxy:
        text = f"{name} {' '.join(f'{v:g}' for v in corners)}"
        if name not in names:
            log.mend("boxes of unknown classes dropped", record.origin, text)
            continue
        if not np.isfinite(corners).all():
            log.mend("boxes without finite corners dropped", record.origin, text)
            continue
        if (name, corners) in seen:
            log.mend("duplicate boxes dropped", record.origin, text)
            continue
        seen.add((name, corners))
        x1, x2 = sorted((corners[0], corners[2]))
        y1, y2 = sorted((corners[1], corners[3]))
        if (x1, y1, x2, y2) != tuple(corners):
            log.mend("corners put in order", record.origin, text)
        clipped = (max(x1, 0.0), max(y1, 0.0), min(x2, float(width)), min(y2, float(height)))
        if clipped[2] <= clipped[0] or clipped[3] <= clipped[1]:
            log.mend("empty boxes dropped", record.origin, f"{text} in an image of {width} x {height}")
            continue
        if clipped != (x1, y1, x2, y2):
            log.mend("boxes clipped to the image", record.origin, f"{text} in an image of {width} x {height}")
        classes.append(names.index(name))
        boxes.append(clipped)
    return xyxy_to_rows(np.array(classes), np.array(boxes), width, height)


def write(records: Sequence[Record], names: Sequence[str], out: Path, comment: str, log: Log,
          link: bool = False, overwrite: bool = False) -> Outcome:
    """Write records as a YOLO data set; an unreadable image is noted in the log and left out.

    Raises:
        UserError: nothing was usable, or `out` cannot be written.
    """
    outcome = Outcome(list(names), boxes={name: {} for name in names})
    with staging(out, overwrite) as folder:
        writer = DatasetWriter(folder, names, link)
        for record, stem in zip(records, unique_stems([record.key for record in records])):
            try:
                width, height = image_size(record.image)
            except ValueError as error:
                log.skip(record.image, f"{error}")
                continue
            rows = mend(record, names, width, height, log)
            writer.add(record.image, record.part, stem, rows)
            outcome.images[record.part] = outcome.images.get(record.part, 0) + 1
            for index in rows[:, 0].astype(int):
                counts = outcome.boxes[names[index]]
                counts[record.part] = counts.get(record.part, 0) + 1
        if not outcome.images:
            first = f" (first: {log.skipped[0][0]}: {log.skipped[0][1]})" if log.skipped else ""
            raise UserError(f"--source: expected usable annotated images, got none{first}; check --format and --source")
        writer.finish(comment)
    return outcome
