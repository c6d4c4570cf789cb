"""Suspects as a table: one row each, with its evidence in numbers and in words."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path

from cfg.class_names import shown
from data.layout import label_path
from data.review.part import Reviewed
from data.review.suspects import BOX, CLASS, EXTRA, Objects, Suspect

COLUMNS = (
    "rank", "image", "kind", "suspicion", "evidence", "label_file", "label_line", "label_class", "label_x1", "label_y1",
    "label_x2", "label_y2", "found_class", "found_score", "found_x1", "found_y1", "found_x2", "found_y2", "iou",
)  # fmt: skip


def write_table(path: Path, suspects: Sequence[Suspect], images: Sequence[Reviewed], names: Mapping[int, str]) -> None:
    """Write suspects as CSV (UTF-8), boxes in pixels. Raises OSError."""
    with path.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(COLUMNS)
        for rank, suspect in enumerate(suspects, 1):
            image = images[suspect.image]
            told = [rank, image.image, suspect.kind, f"{suspect.suspicion:.3f}", evidence(suspect, image, names)]
            line = "" if suspect.label is None else image.lines[suspect.label]
            told += [label_path(image.image), line, *_box(image.labels, suspect.label, names)]
            found = _box(image.found, suspect.found, names)
            score = "" if suspect.found is None else f"{image.found.scores[suspect.found]:.3f}"
            rows.writerow([*told, found[0], score, *found[1:], f"{suspect.iou:.3f}"])


def evidence(suspect: Suspect, image: Reviewed, names: Mapping[int, str]) -> str:
    """Say in a phrase why a suspect is one."""
    found = "" if suspect.found is None else shown(names[int(image.found.classes[suspect.found])])
    if suspect.label is None:
        return f"{found} found with score {suspect.score:.2f}, no label there"
    label = shown(names[int(image.labels.classes[suspect.label])])
    if suspect.kind == EXTRA:
        return f"label {label}: the model gives {suspect.score:.2f} there, usually {suspect.usual:.2f}"
    if suspect.kind == CLASS:
        return f"label {label}: the model says {found} with {suspect.score:.2f} (IoU {suspect.iou:.2f})"
    assert suspect.kind == BOX
    return f"label {label}: found beside it with score {suspect.score:.2f} (IoU {suspect.iou:.2f})"


def _box(objects: Objects, index: int | None, names: Mapping[int, str]) -> list[str]:
    """Class and corners of a box, blank for none."""
    if index is None:
        return [""] * 5
    return [names[int(objects.classes[index])], *(f"{value:.1f}" for value in objects.boxes_xyxy[index])]
