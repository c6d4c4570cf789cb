"""`python -m data.sample --out datasets/sample`: the built-in data set of steel-like images, made in seconds.

`--materials all` draws many materials and families of defects instead (`data.drawn`), to train start weights on.

Everything can be tried without a download. A detector must learn it: the plates differ in brightness and light, the
defects are faint, and streaks, water marks, stains and dust of the same contrast lie beside them. Seeded: the same
arguments give the same files, bit by bit, with the same versions of numpy and OpenCV on one machine.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from cfg import UserError, guard
from cfg.command_line import read_arguments
from cfg.cpus import available_cpus
from data.drawn.boxes import box_of, overlap
from data.drawn.draw_set import SUFFIX, draw_picture, materials_of, write_pictures
from data.drawn.scene import NAMES
from data.layout import staging, xyxy_to_rows
from data.steel import DEFECTS, HARMLESS, Plate, draw_plate

VERSION = 1  # raise it when the images change: samples made by another version are made anew
MATERIALS_VERSION = 1  # the same for images of many materials
MARKER = "sample.json"
CACHES = (".cache", ".tandem")  # ultralytics' and ours
SHARES = {"train": 0.7, "val": 0.2, "test": 0.1}
EMPTY = 0.1  # share of images without defects, of steel


def make_image(
    rng: np.random.Generator, size: int, first: int | None, difficulty: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Draw one plate.

    Args:
        rng: the only source of chance.
        size: side in pixels.
        first: class index of the first defect (so that small samples hold every class), ``None`` for no defects.
        difficulty: from 0, large and clear defects, to 1.

    Returns:
        pixels (size, size), uint8; label rows (n, 5).
    """
    plate = draw_plate(rng, size, difficulty)
    for draw in rng.choice(len(HARMLESS), rng.integers(1, 5)):
        plate.grey += HARMLESS[draw](rng, plate)
    classes: list[int] = []
    boxes: list[np.ndarray] = []
    wanted = 0 if first is None else int(rng.choice((1, 2, 3, 4, 5), p=(0.25, 0.3, 0.2, 0.15, 0.1)))
    for i in range(wanted):
        kind = first if i == 0 and first is not None else int(rng.integers(len(DEFECTS)))
        box = _add_defect(rng, plate, kind, boxes)
        if box is not None:
            classes.append(kind)
            boxes.append(box)
    if rng.random() < 0.4:  # now and then a mark crosses the defects
        plate.grey += HARMLESS[rng.integers(2)](rng, plate)
    plate.grey += rng.normal(0, rng.uniform(0.8, 2.2), plate.grey.shape)
    pixels = np.clip(np.round(plate.grey), 0, 255).astype(np.uint8)
    return pixels, xyxy_to_rows(np.array(classes), np.array(boxes), size, size)


def _add_defect(rng: np.random.Generator, plate: Plate, kind: int, boxes: list[np.ndarray]) -> np.ndarray | None:
    """Draw a defect where it hides no other; return its box (4,) `x1 y1 x2 y2`, ``None`` when no place was found."""
    draw = list(DEFECTS.values())[kind]
    for _ in range(12):
        change = draw(rng, plate, rng.uniform(0.06, 0.94, 2) * plate.size)
        box = box_of(change)
        if box is not None and all(overlap(box, other) < 0.25 for other in boxes):
            plate.grey += change
            return box
    return None


def make_sample(
    out: str | Path, images: int = 300, size: int = 256, seed: int = 0, difficulty: float = 1.0,
    materials: Sequence[str] = (), workers: int = 1, empty: float = EMPTY,
) -> Path:
    """Make the sample data set, or find it made already by the same arguments. Returns the path of its `data.yaml`.

    A sample made by other arguments is replaced, unless a file in it was changed or added since.

    Args:
        out: folder for images/, labels/, data.yaml (train, val, test 70:20:10).
        images: how many, at least 10.
        size: side in pixels, at least 64.
        seed: another seed gives other images.
        difficulty: how small, thin and faint defects of steel may be: from 0, large and clear, to 1.
        materials: names in `data.drawn.materials.MATERIALS`; none for steel, with its own four classes.
        workers: how many processes draw. The files do not depend on it.
        empty: share of images without defects, of steel: 0.95 as on a line that makes good parts.

    Raises:
        UserError: an argument outside its range, or `out` holds something else or cannot be written.
    """
    _check(images, size, seed, difficulty, materials, workers, empty)
    out = Path(out)
    wanted: dict[str, Any] = {"version": VERSION, "images": images, "size": size, "seed": seed, "difficulty": difficulty}
    if materials:
        wanted |= {"version": MATERIALS_VERSION, "materials": list(materials)}
    if empty != EMPTY:
        wanted |= {"empty": empty}
    marker = _read_marker(out)
    present = _digests(out) if marker else {}
    made = marker.pop("files", {}) if marker else {}
    if marker == wanted and made.items() <= present.items():
        return out / "data.yaml"
    changed = [name for name, digest in present.items() if made.get(name) != digest]
    if changed:
        raise UserError(f"{out}: {changed[0]} was not made by data.sample, or changed since ({len(changed)} such files); "
                        "expected a sample as it was made; choose another --out, or remove the folder")
    with staging(out, overwrite=marker is not None) as folder:
        if materials:
            _write_materials(folder, images, size, seed, materials, workers)
        else:
            _write_steel(folder, images, size, seed, difficulty, workers, empty)
        (folder / MARKER).write_text(json.dumps(wanted | {"files": _digests(folder)}) + "\n", encoding="utf-8")
    return out / "data.yaml"


def _check(
    images: int, size: int, seed: int, difficulty: float, materials: Sequence[str], workers: int, empty: float
) -> None:
    """Refuse (`UserError`) arguments outside their range."""
    if images < 10 or size < 64 or seed < 0:
        raise UserError(f"--images/--size/--seed: expected at least 10, 64 and 0, got {images}, {size} and {seed}")
    if not 0 <= difficulty <= 1:
        raise UserError(f"--difficulty: expected a number from 0 (large, clear defects) to 1, got {difficulty}")
    if materials and difficulty != 1:
        raise UserError(f"--difficulty: expected with steel only, got {difficulty} with --materials; leave one of them out")
    if not 0 <= empty < 1:
        raise UserError(f"--empty: expected a share of at least 0 and below 1, got {empty}")
    if materials and empty != EMPTY:
        raise UserError(f"--empty: expected with steel only, got {empty} with --materials; leave one of them out")
    if workers < 1:
        raise UserError(f"--workers: expected at least 1 process, got {workers}")


def _write_steel(
    folder: Path, images: int, size: int, seed: int, difficulty: float, workers: int, empty: float
) -> None:
    """Draw plates of steel and write them with their labels and `data.yaml`."""
    draw = partial(_draw_steel, size, seed, difficulty, empty)
    writer = write_pictures(folder, list(DEFECTS), _parts(images, seed), draw, "steel", ".png", workers)
    content = f"{images} images, {size} x {size}, seed {seed}, difficulty {difficulty}"
    writer.finish(f"made by data.sample: {content}" + (f", {empty} without defects" if empty != EMPTY else ""))


def _draw_steel(size: int, seed: int, difficulty: float, empty: float, i: int) -> tuple[np.ndarray, np.ndarray]:
    """Return pixels and label rows of plate i."""
    rng = np.random.default_rng((seed, i))
    first = None if rng.random() < empty else i % len(DEFECTS)
    return make_image(rng, size, first, difficulty)


def _write_materials(folder: Path, images: int, size: int, seed: int, materials: Sequence[str], workers: int) -> None:
    """Draw images of `materials` and write them with their labels and `data.yaml`."""
    draw = partial(draw_picture, materials, size, seed)
    writer = write_pictures(folder, NAMES, _parts(images, seed), draw, "surface", SUFFIX, workers)
    writer.finish(f"made by data.sample: {images} images, {size} x {size}, seed {seed}, materials {', '.join(materials)}")


def _read_marker(out: Path) -> dict[str, Any] | None:
    """What `MARKER` says of a sample; None where there is none."""
    try:
        marker = json.loads((out / MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return marker if isinstance(marker, dict) else None


def _digests(folder: Path) -> dict[str, str]:
    """Relative path and digest of every file of a sample but its marker and what runs keep beside labels."""
    found = {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()} - {Path(MARKER)}
    names = sorted(name for name in found if not any(part.endswith(CACHES) for part in name.parts))
    return {name.as_posix(): hashlib.sha1((folder / name).read_bytes()).hexdigest() for name in names}


def _parts(images: int, seed: int) -> list[str]:
    """Return the part of each image, shuffled, in the exact shares (rounded, train takes the rest)."""
    val, test = (max(round(images * SHARES[part]), 1) for part in ("val", "test"))
    parts = ["train"] * (images - val - test) + ["val"] * val + ["test"] * test
    return [parts[i] for i in np.random.default_rng(seed).permutation(images)]


def main(argv: list[str] | None = None) -> int:
    """Command line of this module."""
    parser = argparse.ArgumentParser(prog="python -m data.sample", description=__doc__.split("\n\n")[0])
    parser.add_argument("--out", type=Path, default=Path("datasets/sample"), help="folder (default: datasets/sample)")
    parser.add_argument("--images", type=int, default=300, help="how many (default: 300)")
    parser.add_argument("--size", type=int, default=256, help="side in pixels (default: 256)")
    parser.add_argument("--seed", type=int, default=0, help="another seed gives other images (default: 0)")
    parser.add_argument("--difficulty", type=float, default=1.0, help="0: large, clear defects, 1: all kinds (default: 1)")
    parser.add_argument("--empty", type=float, default=EMPTY, help=f"share of images without defects (default: {EMPTY})")
    parser.add_argument("--materials", help="draw these instead of steel: all, or names separated by commas, as metal,glass")
    parser.add_argument("--workers", type=int, help="processes that draw (default: one for each core)")
    options = read_arguments(parser, argv)
    materials = () if options.materials is None else materials_of(options.materials)
    workers = available_cpus() if options.workers is None else options.workers
    print(make_sample(options.out, options.images, options.size, options.seed, options.difficulty, materials, workers,
                      options.empty))
    return 0


if __name__ == "__main__":
    sys.exit(guard(main))
