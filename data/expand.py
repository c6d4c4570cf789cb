"""`python -m data.expand --data data.yaml --out DIR`: enlarge the training part threefold, as the paper does.

The aluminium paper "brightens the image and then flips and pans the image" (section 4.3; 412 images become 1,236):
each training image is joined by a brightened and flipped copy and by a brightened and translated copy.
Differs from the paper: it enlarged the set before dividing it, so that copies of a training image were in the test set;
here the data set is divided first and only its training part is enlarged.
"""

from __future__ import annotations

import argparse
import sys
import zlib
from pathlib import Path

import cv2
import numpy as np

from cfg import UserError, guard
from cfg.command_line import read_arguments
from data.dataset import keep_all_apart, part_paths, resolve, validate
from data.earlier import leave_out_earlier
from data.files import list_images
from data.images import read_pixels
from data.layout import PARTS, DatasetWriter, label_rows, rows_to_xyxy, staging, unique_stems, xyxy_to_rows

FILL = 114  # grey of the uncovered border, the same that letterboxing uses
GAIN = (1.1, 1.4)  # range of the brightness factor
SHIFT = (0.05, 0.15)  # range of the translation, fractions of the side
VISIBLE = 0.2  # a box of which less remains in the image is dropped


def brighten(pixels: np.ndarray, gain: float) -> np.ndarray:
    """Return pixels (H, W, C), uint8, multiplied by `gain` and limited to 255."""
    return cv2.convertScaleAbs(pixels, alpha=gain)


def flip(pixels: np.ndarray, boxes_xyxy: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mirror left and right: x1 becomes W - x2. Pixels (H, W, C), boxes (n, 4) in pixels."""
    width = pixels.shape[1]
    return pixels[:, ::-1], np.column_stack([width - boxes_xyxy[:, 2], boxes_xyxy[:, 1],
                                             width - boxes_xyxy[:, 0], boxes_xyxy[:, 3]])


def translate(pixels: np.ndarray, boxes_xyxy: np.ndarray, dx: int, dy: int) -> tuple[np.ndarray, ...]:
    """Move the image by whole pixels, right and down where positive; the uncovered border is grey.

    Returns:
        pixels (H, W, C); the boxes (m, 4) that keep at least `VISIBLE` of their area, clipped; which these are, (n,).
    """
    height, width = pixels.shape[:2]
    moved = np.full_like(pixels, FILL)
    moved[max(dy, 0):height + min(dy, 0), max(dx, 0):width + min(dx, 0)] = \
        pixels[max(-dy, 0):height - max(dy, 0), max(-dx, 0):width - max(dx, 0)]
    shifted = boxes_xyxy + (dx, dy, dx, dy)
    clipped = np.clip(shifted, 0, (width, height, width, height))
    keep = _area(clipped) >= VISIBLE * _area(shifted)
    return moved, clipped[keep], keep


def _area(boxes_xyxy: np.ndarray) -> np.ndarray:
    area: np.ndarray = (boxes_xyxy[:, 2] - boxes_xyxy[:, 0]) * (boxes_xyxy[:, 3] - boxes_xyxy[:, 1])
    return area


def copies(pixels: np.ndarray, rows: np.ndarray, rng: np.random.Generator) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return the two copies of a training image: suffix -> (pixels (H, W, 3), label rows (m, 5))."""
    height, width = pixels.shape[:2]
    boxes = rows_to_xyxy(rows, width, height)
    gains, shifts, signs = rng.uniform(*GAIN, 2), rng.uniform(*SHIFT, 2), rng.choice((-1, 1), 2)
    flipped, flipped_boxes = flip(brighten(pixels, gains[0]), boxes)
    dx, dy = (int(round(v)) for v in shifts * signs * (width, height))
    moved, moved_boxes, keep = translate(brighten(pixels, gains[1]), boxes, dx, dy)
    return {"__flip": (flipped, xyxy_to_rows(rows[:, 0], flipped_boxes, width, height)),
            "__shift": (moved, xyxy_to_rows(rows[keep, 0], moved_boxes, width, height))}


def expand(data: str | Path, out: Path, seed: int = 0, link: bool = False, overwrite: bool = False) -> dict[str, int]:
    """Write a copy of a data set whose training part is three times as large. Returns the images of each part.

    Raises:
        UserError: the data set is not usable (see `data.validate`), an image cannot be read, `out` cannot be written.
    """
    names = list(validate(data).names.values())
    content, counts = resolve(data), {}
    keep_all_apart(content, out)
    with staging(out, overwrite) as folder:
        writer = DatasetWriter(folder, names, link)
        for part in PARTS:
            images = [image for entry in part_paths(content, part) for image in _images(entry, out)]
            stems = unique_stems([image.with_suffix("").as_posix().lstrip("/") for image in images])
            used = set(stems)
            counts[part] = len(images) * (3 if part == "train" else 1)
            for image, stem in zip(images, stems):
                rows = label_rows(image)
                writer.add(image, part, stem, rows)
                if part == "train":
                    _add_copies(writer, image, stem, rows, seed, used)
        writer.finish(f"training part enlarged threefold, seed {seed}")
    return {part: count for part, count in counts.items() if count}


def _images(entry: Path, out: Path) -> list[Path]:
    images = list_images(entry)
    return leave_out_earlier(images, entry, out) if entry.is_dir() else images  # what a list names is meant


def _add_copies(writer: DatasetWriter, image: Path, stem: str, rows: np.ndarray, seed: int, used: set[str]) -> None:
    """Write the copies of an image under names that are not `used`, and add these."""
    try:
        pixels = read_pixels(image)
    except ValueError as error:
        raise UserError(f"{image}: {error}; repair or remove it (`python -m data.check` finds all)") from None
    suffix = ".jpg" if image.suffix.lower() in {".jpg", ".jpeg"} else ".png"
    rng = np.random.default_rng((seed, zlib.crc32(stem.encode())))  # by name: other images change nothing
    for ending, (changed, labels) in copies(pixels, rows, rng).items():
        name = stem + ending
        while name in used:  # of a data set that was enlarged before
            name += ending
        used.add(name)
        writer.add_pixels(np.ascontiguousarray(changed), suffix, "train", name, labels)


def main(argv: list[str] | None = None) -> int:
    """Command line of this module."""
    parser = argparse.ArgumentParser(prog="python -m data.expand", description=__doc__.split("\n\n")[0])
    parser.add_argument("--data", required=True, help="data YAML")
    parser.add_argument("--out", type=Path, required=True, help="new folder")
    parser.add_argument("--seed", type=int, default=0, help="decides brightness and direction (default: 0)")
    parser.add_argument("--link", action="store_true", help="link the unchanged images instead of copying them")
    parser.add_argument("--overwrite", action="store_true", help="replace the data set in --out")
    options = read_arguments(parser, argv)
    counts = expand(options.data, options.out, options.seed, options.link, options.overwrite)
    print(", ".join(f"{part}: {count} images" for part, count in counts.items()))
    print(f"written: {options.out / 'data.yaml'}")
    return 0


if __name__ == "__main__":
    sys.exit(guard(main))
