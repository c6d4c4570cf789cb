"""Images on their way through the detector, and the batches in which they go."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Protocol

import numpy as np

from engine.detection.pipeline import HELD_BYTES

from ultralytics.data.loaders import SourceTypes

Batch = tuple[list[str], list[np.ndarray], list["Item"]]
Report = Callable[["Path | str", str], None]  # takes a file or stream, and what is wrong with it
Prepare = Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Item:
    """One image on its way through the detector.

    Attributes:
        path: the file or stream it comes from.
        relative: where its outputs go below the run folder, with the source's own file name.
        kind: ``image``, ``video`` or ``stream``.
        label: how a progress line calls it, such as ``image 3/120``.
        source: name of the file or stream in messages.
        frame: number from 1 among the frames that were received of a video or stream, None for an image.
        fps: frames per second that a video or stream says it has, 0 for an image.
        prepared: the image as the network takes it, (h, w, 3) BGR uint8.
        seconds: how long reading and preparing took.
        note: what of the file is not looked at, empty where all of it is.
    """

    path: Path
    relative: PurePath
    kind: str
    label: str
    source: str
    prepared: np.ndarray = field(repr=False, compare=False)
    frame: int | None = None
    fps: float = 0.0
    seconds: float = 0.0
    note: str = ""


class Source(Protocol):
    """Where images come from: batches in the form that ultralytics' predictor iterates over.

    Attributes:
        batch: most images per batch. To be set before the iteration, as is `prepare`.
        prepare: makes of an image what the network takes.
    """

    mode: str
    source_type: SourceTypes
    batch: int
    prepare: Prepare

    def __iter__(self) -> Iterator[Batch]: ...

    def close(self) -> None:
        """End what is held open."""


def batched(pictures: Iterable[tuple[Item, np.ndarray]], most: int) -> Iterator[Batch]:
    """Yield images in batches of one prepared size, in their order, in the form that ultralytics' predictor takes.

    Args:
        pictures: each with its item, (H, W, 3) BGR uint8.
        most: images in a batch; fewer where they are huge.
    """
    batch: Batch = ([], [], [])
    for item, image in pictures:
        paths, images, items = batch
        if items and item.prepared.shape != items[0].prepared.shape:
            yield batch
            batch = paths, images, items = [], [], []
        paths.append(str(item.path))
        images.append(image)
        items.append(item)
        if len(items) == most or len(items) * image.nbytes > HELD_BYTES:
            yield batch
            batch = ([], [], [])
    if batch[0]:
        yield batch
