"""The one list of a data set's images and labels: used by check, training, validation, calibration and kd.py.

An image is used when it can be decoded (`data.decode`) and its label file has no error (`data.labels`), else it is left
out with the reason. Decoding every image once takes about as long as an epoch's reading; what was found is kept in a file
beside the labels (`Memory`), so that it is done once per image and not once per run.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from data.decode import Unreadable
from data.files import list_images
from data.images import ImageFacts, inspect_image
from data.labels import LABEL_ERRORS, Labels, read_labels
from data.layout import label_path
from data.memory import Memory

Progress = Callable[[Iterable[Any], int], Iterable[Any]]  # wraps an iterable of known length


@dataclass(frozen=True)
class Sample:
    """One image of a data set with what was read of it.

    Attributes:
        facts: None where the image cannot be used.
        labels: None where there is no label file: an image without objects.
        reason: why the image is left out; empty for one that is used.
    """

    image: Path
    facts: ImageFacts | None
    labels: Labels | None
    reason: str = ""

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels. Raises `ValueError`, with the reason, for an image that is left out."""
        if self.facts is None:
            raise ValueError(f"{self.image}: {self.reason}")
        return self.facts.width, self.facts.height

    @property
    def rows(self) -> np.ndarray:
        """Label rows (n, 5): class, centre x, centre y, width, height, as fractions of the image."""
        return self.labels.rows if self.labels else np.zeros((0, 5))


@dataclass
class Reading:
    """The images of a part of a data set: `samples` that are used and those `left_out`, in the order of the list."""

    samples: list[Sample] = field(default_factory=list)
    left_out: list[Sample] = field(default_factory=list)

    @property
    def background(self) -> int:
        """How many of the used images have no object."""
        return sum(not len(sample.rows) for sample in self.samples)


def read_images(entries: Iterable[Path], nc: int | None, remember: bool = True, first: int | None = None,
                progress: Progress | None = None, labelled: bool = True) -> Reading:  # fmt: skip
    """Read all images and labels behind some entries of a data YAML.

    Args:
        entries: folders or list files, which exist.
        nc: number of classes; None leaves the upper end of the class index unchecked.
        remember: use, and add to, what earlier runs found of the images.
        first: read only so many images.
        progress: shows how far the reading is.
        labelled: False leaves label files unread: no image has an object.

    Raises:
        UserError: a list file cannot be read.
    """
    images = [image for entry in entries for image in list_images(entry)][:first]
    reading = Reading()
    for sample in read_samples(images, nc, remember, progress, labelled):
        (reading.left_out if sample.reason else reading.samples).append(sample)
    return reading


def read_samples(
    images: Sequence[Path], nc: int | None, remember: bool = True, progress: Progress | None = None, labelled: bool = True
) -> Iterator[Sample]:
    """Yield a `Sample` for each image, in order. Arguments as in `read_images`."""
    memory = Memory(memory_place(images[0])) if remember and images else None

    def one(image: Path) -> Sample:
        label = label_path(image)
        labels = read_labels(label, nc) if labelled and label.exists() else None
        try:
            facts = memory.recall(image, inspect_image) if memory else inspect_image(image)
        except Unreadable as error:
            return Sample(image, None, labels, str(error))
        return Sample(image, facts, labels, _label_error(label, labels))

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:  # decoding releases the interpreter lock
        found = pool.map(one, images)
        yield from progress(found, len(images)) if progress else found
    if memory:
        memory.save()


def memory_place(image: Path) -> Path:
    """The folder in which what is known of a data set's images is kept: beside the labels, `labels/train.tandem`."""
    folder = label_path(image).parent
    return folder.with_name(f"{folder.name}.tandem")


def _label_error(path: Path, labels: Labels | None) -> str:
    for problem in labels.problems if labels else ():
        if problem.code in LABEL_ERRORS:
            return f"{path}:{problem.line}: {problem.text}" if problem.line else f"{path}: {problem.text}"
    return ""
