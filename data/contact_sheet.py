"""Contact sheets: images in a grid, each with its boxes and a few lines of text below it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from data.decode import Unreadable
from data.images import read_pixels, write_pixels

COLUMNS, ROWS, SIDE, GAP, LINE = 4, 3, 380, 16, 15  # tiles of a sheet, pixels
PAPER, INK, FAINT = (255, 255, 255), (30, 34, 40), (110, 118, 128)
BLUE, ORANGE, RED, GREEN = (31, 119, 180), (214, 90, 0), (214, 39, 40), (44, 160, 44)
DASH = 6  # pixels, as long as the gap after it

Colour = tuple[int, int, int]


@dataclass(frozen=True)
class Boxes:
    """Boxes that are drawn alike: (N, 4) `x1 y1 x2 y2` in pixels of the image."""

    boxes_xyxy: np.ndarray
    colour: Colour
    dashed: bool = False


@dataclass(frozen=True)
class Tile:
    """One image of a sheet, its boxes in the order of drawing, and the lines below it: the first faint, as a heading."""

    image: Path
    boxes: Sequence[Boxes]
    lines: Sequence[str]


def write_sheet(path: Path, tiles: Sequence[Tile], legend: str, most_lines: int = 4) -> None:
    """Write a JPEG of the tiles, `COLUMNS` in a row, with a legend on top; an image that cannot be read is a grey square.

    Args:
        most_lines: room below each image; longer texts are cut to the width of a tile.

    Raises:
        OSError: the file cannot be written.
    """
    caption, columns = most_lines * LINE + 6, min(COLUMNS, len(tiles))
    rows = -(-len(tiles) // columns)
    top = GAP + LINE + 6
    sheet = Image.new("RGB", (columns * (SIDE + GAP) + GAP, top + rows * (SIDE + caption + GAP)), PAPER)
    ImageDraw.Draw(sheet).text((GAP, 8), legend, FAINT, ImageFont.load_default(13))
    for number, tile in enumerate(tiles):
        row, column = divmod(number, columns)
        sheet.paste(_drawn(tile, caption, most_lines), (GAP + column * (SIDE + GAP), top + row * (SIDE + caption + GAP)))
    write_pixels(path, np.asarray(sheet)[..., ::-1])


def _drawn(tile: Tile, caption: int, most_lines: int) -> Image.Image:
    paper = Image.new("RGB", (SIDE, SIDE + caption), PAPER)
    draw = ImageDraw.Draw(paper)
    try:
        picture = Image.fromarray(np.ascontiguousarray(read_pixels(tile.image)[..., ::-1]))
    except Unreadable:
        picture = Image.new("RGB", (SIDE, SIDE), FAINT)
    scale = SIDE / max(picture.size)
    picture = picture.resize((max(1, round(picture.width * scale)), max(1, round(picture.height * scale))))
    corner = (SIDE - picture.width) // 2, (SIDE - picture.height) // 2
    paper.paste(picture, corner)
    for group in tile.boxes:
        for box in (np.asarray(group.boxes_xyxy, dtype=float) * scale + np.tile(corner, 2)).tolist():
            _outline(draw, box, group)
    font = ImageFont.load_default(12)
    for number, text in enumerate(tile.lines[:most_lines]):
        draw.text((2, SIDE + 2 + number * LINE), _fitting(text, draw, font), INK if number else FAINT, font)
    return paper


def _fitting(text: str, draw: ImageDraw.ImageDraw, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """A text cut to the width of a tile; characters that the font may lack are written as their escapes."""
    text = text.encode("latin-1", "backslashreplace").decode("latin-1")
    while draw.textlength(text, font) > SIDE - 4:
        text = text[:-2]
    return text


def _outline(draw: ImageDraw.ImageDraw, box_xyxy: list[float], look: Boxes) -> None:
    x1, y1, x2, y2 = box_xyxy
    if not look.dashed:
        return draw.rectangle((x1, y1, x2, y2), outline=look.colour, width=2)
    for a, b in _dashes(x1, x2):
        draw.line((a, y1, b, y1), look.colour, 2)
        draw.line((a, y2, b, y2), look.colour, 2)
    for a, b in _dashes(y1, y2):
        draw.line((x1, a, x1, b), look.colour, 2)
        draw.line((x2, a, x2, b), look.colour, 2)


def _dashes(start: float, end: float) -> Iterator[tuple[float, float]]:
    for place in np.arange(start, end, 2 * DASH):
        yield place, min(place + DASH, end)
