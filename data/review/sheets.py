"""Contact sheets: suspicious images in a grid, with their labels, what was found, and why they are there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from data.images import Unreadable, read_pixels, write_pixels
from data.review.part import Reviewed
from data.review.suspects import Suspect
from data.review.table import evidence

COLUMNS, ROWS, SIDE, GAP, LINE = 4, 3, 380, 16, 15  # tiles of a sheet, pixels
CAPTION = 4 * LINE + 6
PAPER, INK, FAINT = (255, 255, 255), (30, 34, 40), (110, 118, 128)
LABEL, SUSPECT = (31, 119, 180), (214, 90, 0)  # blue: as labelled; orange: what is suspicious


def write_sheets(folder: Path, groups: Mapping[int, list[Suspect]], images: Sequence[Reviewed], names: Mapping[int, str]) -> int:
    """Write ``sheets/001.jpg`` ... ; return how many. Raises OSError."""
    folder = folder / "sheets"
    folder.mkdir()
    entries = list(enumerate(groups.items(), 1))
    starts = range(0, len(entries), COLUMNS * ROWS)
    for number, start in enumerate(starts, 1):
        tiles = [_tile(rank, images[index], suspects, names) for rank, (index, suspects) in entries[start : start + COLUMNS * ROWS]]
        write_pixels(folder / f"{number:03d}.jpg", np.asarray(_sheet(tiles))[..., ::-1])
    return len(starts)


def _sheet(tiles: Sequence[Image.Image]) -> Image.Image:
    rows = -(-len(tiles) // COLUMNS)
    size = COLUMNS * (SIDE + GAP) + GAP, rows * (SIDE + CAPTION + GAP) + GAP + LINE + 6
    sheet = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((GAP, 8), "blue: label    orange: suspicious (dashed: found by the model)", FAINT, ImageFont.load_default(13))
    for number, tile in enumerate(tiles):
        row, column = divmod(number, COLUMNS)
        sheet.paste(tile, (GAP + column * (SIDE + GAP), GAP + LINE + 6 + row * (SIDE + CAPTION + GAP)))
    return sheet


def _tile(rank: int, image: Reviewed, suspects: Sequence[Suspect], names: Mapping[int, str]) -> Image.Image:
    tile = Image.new("RGB", (SIDE, SIDE + CAPTION), PAPER)
    draw = ImageDraw.Draw(tile)
    try:
        picture = Image.fromarray(np.ascontiguousarray(read_pixels(image.image)[..., ::-1]))
    except Unreadable:
        picture = Image.new("RGB", (image.width, image.height), FAINT)
    scale = SIDE / max(picture.size)
    picture = picture.resize((max(1, round(picture.width * scale)), max(1, round(picture.height * scale))))
    left, top = (SIDE - picture.width) // 2, (SIDE - picture.height) // 2
    tile.paste(picture, (left, top))
    shift = np.array([left, top, left, top])
    accused = {suspect.label for suspect in suspects}
    for index, box in enumerate(image.labels.boxes_xyxy):
        _rectangle(draw, box * scale + shift, SUSPECT if index in accused else LABEL)
    for suspect in suspects:
        if suspect.found is not None:
            _dashed(draw, image.found.boxes_xyxy[suspect.found] * scale + shift, SUSPECT)
    font = ImageFont.load_default(12)
    lines = [f"{rank}  {image.image.name}", *(_text(suspect, image, names) for suspect in suspects[:3])]
    for number, text in enumerate(lines):
        draw.text((2, SIDE + 2 + number * LINE), _fitting(text, draw, font), INK if number else FAINT, font)
    return tile


def _text(suspect: Suspect, image: Reviewed, names: Mapping[int, str]) -> str:
    return f"{suspect.suspicion:.2f} {suspect.kind}: {evidence(suspect, image, names)}"


def _fitting(text: str, draw: ImageDraw.ImageDraw, font: ImageFont.ImageFont) -> str:
    """A text cut to the width of a tile; characters that the font may lack are written as their escapes."""
    text = text.encode("latin-1", "backslashreplace").decode("latin-1")
    while draw.textlength(text, font) > SIDE - 4:
        text = text[:-2]
    return text


def _rectangle(draw: ImageDraw.ImageDraw, box_xyxy: np.ndarray, colour: tuple[int, int, int]) -> None:
    draw.rectangle(box_xyxy.tolist(), outline=colour, width=2)


def _dashed(draw: ImageDraw.ImageDraw, box_xyxy: np.ndarray, colour: tuple[int, int, int], dash: int = 6) -> None:
    x1, y1, x2, y2 = box_xyxy.tolist()
    for a, b in _dashes(x1, x2, dash):
        draw.line((a, y1, b, y1), colour, 2)
        draw.line((a, y2, b, y2), colour, 2)
    for a, b in _dashes(y1, y2, dash):
        draw.line((x1, a, x1, b), colour, 2)
        draw.line((x2, a, x2, b), colour, 2)


def _dashes(start: float, end: float, dash: int) -> Iterator[tuple[float, float]]:
    for place in np.arange(start, end, 2 * dash):
        yield place, min(place + dash, end)
