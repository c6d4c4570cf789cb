"""`python -m data.tile --data data.yaml --out DIR --tile 640 --overlap 0.2`: cut a data set of large images into tiles to train on.

A tile keeps a box of which at least 30 % of what can be seen in it is seen; a tile that shows less of a box is left out,
because it would teach that part of a defect is none. Of tiles without defects a sample is kept.
"""

from __future__ import annotations

import argparse
import sys
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import numpy as np

from cfg import UserError, guard
from cfg.command_line import read_arguments
from data.dataset import keep_all_apart, part_paths, resolve, validate
from data.decode import Unreadable
from data.earlier import leave_out_earlier
from data.files import list_images
from data.images import image_size, read_pixels
from data.layout import PARTS, DatasetWriter, label_rows, rows_to_xyxy, staging, unique_stems, xyxy_to_rows
from inspection.tiles import Tiling, tiling_asked

VISIBLE = 0.3  # of a box, or of the largest part of it that a tile can show: less is no example of a defect
EMPTY = 1.0  # tiles without defects for each with one


@dataclass
class Part:
    """What became of one part: images and tiles written, tiles without boxes among them, tiles left out because they show
    too little of a box, objects that are in no tile, and (image, reason) of what could not be read.
    """

    images: int = 0
    tiles: int = 0
    empty: int = 0
    left_out: int = 0
    lost: int = 0
    unreadable: list[tuple[Path, str]] = field(default_factory=list)


def visible(boxes_xyxy: np.ndarray, window: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray]:
    """Boxes (n, 4) clipped to a window, and which share of each is seen there (n,).

    Of an object longer than a tile, the share is of what a tile can show: else no tile would ever keep it.
    """
    clipped = np.concatenate([np.maximum(boxes_xyxy[:, :2], window[:2]), np.minimum(boxes_xyxy[:, 2:], window[2:])], 1)
    seen = np.maximum(clipped[:, 2:] - clipped[:, :2], 0)
    possible = np.maximum(np.minimum(boxes_xyxy[:, 2:] - boxes_xyxy[:, :2], side), 1e-9)
    return clipped, np.prod(seen / possible, axis=1)


def tiles_of(boxes_xyxy: np.ndarray, windows: np.ndarray, side: int) -> tuple[dict[int, tuple[np.ndarray, np.ndarray]], int, int]:
    """Which tiles of an image are kept, with what in them.

    Returns:
        tile -> (indices of its boxes, these clipped, in pixels of the tile); how many tiles were left out; how many boxes
        are in none.
    """
    kept, left_out, held = {}, 0, np.zeros(len(boxes_xyxy), dtype=bool)
    for number, window in enumerate(windows):
        clipped, share = visible(boxes_xyxy, window, side)
        if ((share > 0) & (share < VISIBLE)).any():
            left_out += 1
            continue
        index = np.flatnonzero(share >= VISIBLE)
        held[index] = True
        kept[number] = index, clipped[index] - np.tile(window[:2], 2)
    return kept, left_out, int((~held).sum())


def tile(data: str | Path, out: Path, side: int, overlap: float | None = None, empty: float = EMPTY, seed: int = 0,
         overwrite: bool = False) -> tuple[Tiling, dict[str, Part]]:  # fmt: skip
    """Write a data set of tiles. Returns the tiling and what became of each part.

    Args:
        data: of `data.resolve`; nothing is written beside its files.
        out: new folder; it appears when it is complete.
        side, overlap: of the tiles (`inspection.tiles.tiling_asked`).
        empty: tiles without defects to keep, for each with one.
        seed: decides which.

    Raises:
        UserError: the data set or the tiling is not usable, no image can be read, or `out` cannot be written.
    """
    if not empty >= 0:
        raise UserError(f"--empty {empty:g}: expected a number of at least 0; for example --empty 1")
    tiling_asked(side, overlap)  # a mistake in them costs no reading
    names = list(validate(data).names.values())
    content = resolve(data)
    keep_all_apart(content, out)
    images = {part: [x for entry in part_paths(content, part) for x in _images(entry, out)] for part in PARTS}
    tiling = tiling_asked(side, overlap, np.concatenate([_sizes(image) for image in chain.from_iterable(images.values())]))
    assert tiling is not None  # a side was given
    with staging(out, overwrite) as folder:
        writer = DatasetWriter(folder, names)
        parts = {part: _write(writer, part, files, tiling, empty, seed) for part, files in images.items() if files}
        writer.finish(f"tiles of {side} px, overlap {tiling.overlap:g}, of {Path(data).name}")
    return tiling, parts


def _write(writer: DatasetWriter, part: str, images: list[Path], tiling: Tiling, empty: float, seed: int) -> Part:
    """Write the tiles of one part: those with boxes, and by name a sample of the others, after all are known."""
    done = Part()
    plans = {}
    for image, stem in zip(images, unique_stems([x.with_suffix("").as_posix().lstrip("/") for x in images]), strict=True):
        try:
            width, height = image_size(image)
        except Unreadable as error:
            done.unreadable.append((image, str(error)))
            continue
        rows, windows = label_rows(image), tiling.windows(height, width)
        kept, left_out, lost = tiles_of(rows_to_xyxy(rows, width, height), windows, tiling.side)
        done.left_out, done.lost = done.left_out + left_out, done.lost + lost
        plans[image] = stem, rows, windows, kept
    blank = [(image, number) for image, (*_, kept) in plans.items() for number, (index, _) in kept.items() if not len(index)]
    full = sum(len(kept) for *_, kept in plans.values()) - len(blank)
    blank.sort(key=lambda one: zlib.crc32(f"{seed} {plans[one[0]][0]} {one[1]}".encode()))
    chosen = set(blank[: max(round(empty * full), 0 if full else 1)])
    for image, (stem, rows, windows, kept) in plans.items():
        wanted = {number: found for number, found in kept.items() if len(found[0]) or (image, number) in chosen}
        if wanted and _cut(writer, part, image, stem, rows, windows, wanted, done):
            done.images, done.tiles = done.images + 1, done.tiles + len(wanted)
            done.empty += sum(not len(index) for index, _ in wanted.values())
    if not done.tiles:
        first = f" ({done.unreadable[0][0]}: {done.unreadable[0][1]})" if done.unreadable else ""
        raise UserError(f"{images[0].parent}: expected images that give tiles, got none{first}; see `python -m data.check`")
    return done


def _cut(writer: DatasetWriter, part: str, image: Path, stem: str, rows: np.ndarray, windows: np.ndarray,
         wanted: dict[int, tuple[np.ndarray, np.ndarray]], done: Part) -> bool:  # fmt: skip
    try:
        pixels = read_pixels(image)
    except Unreadable as error:
        done.unreadable.append((image, str(error)))
        return False
    suffix = ".jpg" if image.suffix.lower() in {".jpg", ".jpeg"} else ".png"
    for number, (index, boxes) in wanted.items():
        x1, y1, x2, y2 = windows[number]
        labels = xyxy_to_rows(rows[index, 0], boxes, x2 - x1, y2 - y1)
        writer.add_pixels(np.ascontiguousarray(pixels[y1:y2, x1:x2]), suffix, part, f"{stem}__{x1}_{y1}", labels)
    return True


def _images(entry: Path, out: Path) -> list[Path]:
    images = list_images(entry)
    return leave_out_earlier(images, entry, out) if entry.is_dir() else images  # what a list names is meant


def _sizes(image: Path) -> np.ndarray:
    """Longer sides of an image's boxes in pixels (n,); none where it cannot be read."""
    rows = label_rows(image)
    try:
        return (rows[:, 3:5] * image_size(image)).max(1) if len(rows) else np.zeros(0)
    except Unreadable:
        return np.zeros(0)


def lines(parts: dict[str, Part]) -> Iterator[str]:
    """What became of each part, for people."""
    for name, part in parts.items():
        yield f"{name}: {part.tiles} tiles, {part.empty} of them without defects, from {part.images} images"
        if part.left_out:
            yield f"{name}: {part.left_out} tiles left out, which show less than {VISIBLE:.0%} of a defect"
        if part.lost:
            yield f"{name}: {part.lost} defects are in no tile; a larger --overlap would keep more"
        yield from (f"left out {image}: {reason}" for image, reason in part.unreadable)


def main(argv: list[str] | None = None) -> int:
    """Command line of this module; status 1 when an image could not be read."""
    parser = argparse.ArgumentParser(prog="python -m data.tile", description=__doc__.split("\n\n")[0])
    parser.add_argument("--data", required=True, help="data YAML")
    parser.add_argument("--out", type=Path, required=True, help="new folder")
    parser.add_argument("--tile", type=int, default=640, help="side of a tile in pixels (default: 640)")
    parser.add_argument("--overlap", type=float, help="share of a tile that its neighbour shows too (default: 0.2, or more where "
                        "the defects are longer)")  # fmt: skip
    parser.add_argument("--empty", type=float, default=EMPTY, help="tiles without defects, for each with one (default: 1)")
    parser.add_argument("--seed", type=int, default=0, help="decides which of them (default: 0)")
    parser.add_argument("--overwrite", action="store_true", help="replace the data set in --out")
    options = read_arguments(parser, argv)
    _, parts = tile(options.data, options.out, options.tile, options.overlap, options.empty, options.seed, options.overwrite)
    print("\n".join(lines(parts)))
    print(f"written: {options.out / 'data.yaml'}")
    return 1 if any(part.unreadable for part in parts.values()) else 0


if __name__ == "__main__":
    sys.exit(guard(main))
