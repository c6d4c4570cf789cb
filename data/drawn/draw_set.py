"""Draw a whole data set's images by several processes; image i depends on the seed and i alone."""

from __future__ import annotations

import signal
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import cv2
import numpy as np

from cfg import UserError, nearest
from data.drawn.materials import GROUPS, MATERIALS
from data.drawn.scene import draw_scene
from data.layout import DatasetWriter

Draw = Callable[[int], tuple[np.ndarray, np.ndarray]]
BATCH = 64  # images that a process takes at a time
SUFFIX = ".jpg"  # sensor noise makes PNG files three times as large


def materials_of(text: str) -> tuple[str, ...]:
    """Return the materials that a list names, separated by commas: materials, groups of them (`metal`), or `all`.

    Raises:
        UserError: one is unknown, or none is named.
    """
    known = {"all": tuple(MATERIALS), **GROUPS, **{name: (name,) for name in MATERIALS}}
    chosen: list[str] = []
    for name in filter(None, (part.strip() for part in text.split(","))):
        if name not in known:
            raise UserError(f"--materials: expected some of {', '.join(known)}, got {name!r}{nearest(name, known)}")
        chosen += known[name]
    if not chosen:
        raise UserError(f"--materials: expected some of {', '.join(known)}, got none")
    return tuple(name for name in MATERIALS if name in chosen)


def draw_picture(materials: Sequence[str], size: int, seed: int, i: int) -> tuple[np.ndarray, np.ndarray]:
    """Return image i of a set, as `draw_scene` does: materials take turns, and the families of each."""
    name = materials[i % len(materials)]
    families = MATERIALS[name].families
    return draw_scene(np.random.default_rng((seed, i)), size, name, families[i // len(materials) % len(families)])


def write_pictures(
    folder: Path, names: Sequence[str], parts: Sequence[str], draw: Draw, stem: str, suffix: str, workers: int = 1
) -> DatasetWriter:
    """Draw and write all images with their labels; returns the writer, for `data.yaml`.

    Args:
        parts: the part of each image.
        draw: gives pixels and label rows of image i. Processes other than this one must be able to import it.
        stem: image i is called `{stem}_{i:04d}`.
        workers: how many processes draw; what is written does not depend on it.
    """
    writer = DatasetWriter(folder, names)
    batches = [range(i, min(i + BATCH, len(parts))) for i in range(0, len(parts), BATCH)]
    write = partial(_write_batch, folder, names, parts, draw, stem, suffix)
    if min(workers, len(batches)) == 1:
        for batch in batches:
            write(batch)
    else:
        _in_processes(write, batches, workers)
    writer.parts.update(parts)
    return writer


def _write_batch(
    folder: Path, names: Sequence[str], parts: Sequence[str], draw: Draw, stem: str, suffix: str, batch: range
) -> None:
    writer = DatasetWriter(folder, names)
    for i in batch:
        pixels, rows = draw(i)
        writer.add_pixels(pixels, suffix, parts[i], f"{stem}_{i:04d}", rows)


def _in_processes(write: Callable[[range], None], batches: Sequence[range], workers: int) -> None:
    """Call `write` for every batch, each in one of `workers` processes; the first error ends all."""
    pool = ProcessPoolExecutor(min(workers, len(batches)), get_context("spawn"), _prepare)
    try:
        for done in as_completed([pool.submit(write, batch) for batch in batches]):
            done.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _prepare() -> None:
    """In a new process: leave Ctrl-C to the parent, which ends this one, and use one core."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    cv2.setNumThreads(1)
