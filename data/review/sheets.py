"""Contact sheets of suspicious images: their labels, what was found, and why they are there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from data.contact_sheet import BLUE, COLUMNS, ORANGE, ROWS, Boxes, Tile, write_sheet
from data.review.part import Reviewed
from data.review.suspects import Suspect
from data.review.table import evidence

LEGEND = "blue: label    orange: suspicious (dashed: found by the model)"


def write_sheets(folder: Path, groups: Mapping[int, list[Suspect]], images: Sequence[Reviewed], names: Mapping[int, str]) -> int:
    """Write ``sheets/001.jpg`` ... ; return how many. Raises OSError."""
    folder = folder / "sheets"
    folder.mkdir()
    tiles = [_tile(rank, images[index], suspects, names) for rank, (index, suspects) in enumerate(groups.items(), 1)]
    starts = range(0, len(tiles), COLUMNS * ROWS)
    for number, start in enumerate(starts, 1):
        write_sheet(folder / f"{number:03d}.jpg", tiles[start : start + COLUMNS * ROWS], LEGEND)
    return len(starts)


def _tile(rank: int, image: Reviewed, suspects: Sequence[Suspect], names: Mapping[int, str]) -> Tile:
    labels, accused = image.labels.boxes_xyxy, {suspect.label for suspect in suspects}
    suspicious = np.array([index in accused for index in range(len(labels))], dtype=bool)
    found = [suspect.found for suspect in suspects if suspect.found is not None]
    boxes = Boxes(labels[~suspicious], BLUE), Boxes(labels[suspicious], ORANGE), Boxes(image.found.boxes_xyxy[found], ORANGE, dashed=True)
    reasons = (f"{suspect.suspicion:.2f} {suspect.kind}: {evidence(suspect, image, names)}" for suspect in suspects[:3])
    return Tile(image.image, boxes, [f"{rank}  {image.image.name}", *reasons])
