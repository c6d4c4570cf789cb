"""Cut a data set down to a few images of each class beside many without defects, as a line that makes good parts gives them.

NEU-DET has no image without a defect. Images of good surface are made from the squares between its boxes: the largest that
keep away from every box, brought to the image's size by reflection, so that the texture keeps its scale.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from cfg import UserError
from data.dataset import part_paths, resolve
from data.files import list_images
from data.images import read_pixels
from data.labels import read_labels
from data.layout import DatasetWriter, label_path, rows_to_xyxy, staging

MARGIN = 4  # pixels between a good square and the nearest box: labels are not exact
SIDES = (200, 160, 128, 112, 96, 80)  # of good squares in pixels, the largest that fits is taken
PER_IMAGE = 3  # good squares from one image at most
GOOD_SHARE = 4  # good images for each image with defects


@dataclass(frozen=True)
class Labelled:
    """An image and its label rows (n, 5)."""

    image: Path
    rows: np.ndarray

    @property
    def kind(self) -> int:
        """The class that the image counts for: of its first box."""
        return int(self.rows[0, 0])


def cut(data: str | Path, out: Path, shots: int, seed: int, held_out: bool = False) -> Path:
    """Write a data set of `shots` images a class and `GOOD_SHARE` times as many good images; return its `data.yaml`.

    Its validation part is the source's, with the good images that can be cut from it.

    Args:
        data: data YAML of the source.
        out: new folder.
        seed: decides which images are taken, and which good images.
        held_out: validate on as many other images of the training part, to make choices by.

    Raises:
        UserError: a class has too few images, or there is too little good surface.
    """
    content, rng = resolve(data), np.random.default_rng(seed)
    train, val = (_labelled(content, part) for part in ("train", "val"))
    chosen, rest = _choose(train, shots, rng)
    if held_out:
        val, rest = _choose(rest, len(val) // content["nc"], rng)
    with staging(out) as folder:
        writer = DatasetWriter(folder, [content["names"][i] for i in range(content["nc"])])
        for part, images in (("train", chosen), ("val", val)):
            for one in images:
                writer.add(one.image, part, one.image.stem, one.rows)
        wanted = GOOD_SHARE * len(chosen)
        made = _add_good(writer, "train", chosen + rest, wanted, rng)
        if made < wanted:
            raise UserError(f"{data}: expected good surface for {wanted} images, got {made}; take fewer --shots")
        _add_good(writer, "val", val, len(val), rng)
        writer.finish(f"{shots} images a class, {wanted} good images, seed {seed}{', held out' if held_out else ''}")
    return out / "data.yaml"


def _labelled(content: dict, part: str) -> list[Labelled]:
    """Images of a part that have boxes."""
    images = [image for entry in part_paths(content, part) for image in list_images(entry)]
    pairs = [Labelled(image, read_labels(label_path(image), content["nc"]).rows) for image in images]
    return [pair for pair in pairs if len(pair.rows)]


def _choose(images: Sequence[Labelled], shots: int, rng: np.random.Generator) -> tuple[list[Labelled], list[Labelled]]:
    """Draw `shots` images of each class; return them and the others."""
    taken: set[int] = set()
    for kind in sorted({one.kind for one in images}):
        indices = [i for i, one in enumerate(images) if one.kind == kind]
        if len(indices) < shots:
            raise UserError(f"--shots {shots}: class {kind} has only {len(indices)} images; take fewer")
        taken |= set(rng.choice(indices, shots, replace=False).tolist())
    return [images[i] for i in sorted(taken)], [one for i, one in enumerate(images) if i not in taken]


def _add_good(
    writer: DatasetWriter, part: str, images: Sequence[Labelled], wanted: int, rng: np.random.Generator
) -> int:
    """Write up to `wanted` good images cut from `images`, taken in a random order; return how many there are."""
    made = 0
    for i in rng.permutation(len(images)):
        for picture in good_squares(read_pixels(images[i].image), images[i].rows):
            if made == wanted:
                return made
            writer.add_pixels(picture, ".png", part, f"good_{made:04d}", np.zeros((0, 5)))
            made += 1
    return made


def good_squares(pixels: np.ndarray, rows: np.ndarray) -> Iterator[np.ndarray]:
    """Yield images (H, W, 3) of the surface between the boxes, as large as `pixels`, each from a square of its own."""
    height, width = pixels.shape[:2]
    taken = np.zeros((height, width), np.uint8)
    for x1, y1, x2, y2 in rows_to_xyxy(rows, width, height).round().astype(int):
        taken[max(y1 - MARGIN, 0) : y2 + MARGIN, max(x1 - MARGIN, 0) : x2 + MARGIN] = 1
    for _ in range(PER_IMAGE):
        place = _free_square(taken)
        if place is None:
            return
        x, y, side = place
        taken[y : y + side, x : x + side] = 1
        yield _spread(pixels[y : y + side, x : x + side], height, width)


def _free_square(taken: np.ndarray) -> tuple[int, int, int] | None:
    """Return x, y and side of the first of the largest squares that meet nothing taken, None where there is none."""
    sums = cv2.integral(taken)
    for side in SIDES:
        if side > min(taken.shape):
            continue
        counts = sums[side:, side:] - sums[:-side, side:] - sums[side:, :-side] + sums[:-side, :-side]
        free = np.argwhere(counts == 0)
        if len(free):
            y, x = free[0]
            return int(x), int(y), side
    return None


def _spread(square: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return a square brought to a size by reflection at its edges."""
    side = len(square)
    rows, columns = (side - 1 - np.abs(np.arange(n) % (2 * side - 2) - (side - 1)) for n in (height, width))  # 0 1 .. side-1 .. 1 0 1
    return square[rows][:, columns]
