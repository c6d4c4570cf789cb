"""Images on which the value ranges of an INT8 model are measured: training images, prepared as detect.py does it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from cfg.errors import UserError
from data.dataset import part_paths
from data.files import list_images
from data.images import read_pixels
from data.reader import read_samples
from engine.dataset import tell_left_out

from ultralytics.data.augment import LetterBox


def calibration_files(content: dict[str, Any], data: str, wanted: int) -> tuple[list[Path], int]:
    """Return up to `wanted` training images of a resolved data YAML, evenly spaced, so that sorted classes all occur.

    Of these, images that training would leave out are named and left out; the second value is how many.

    Raises:
        UserError: the training part holds no image that can be used.
    """
    files = [file for part in part_paths(content, "train") for file in list_images(part)]
    number = min(wanted, len(files))
    chosen = [files[index * len(files) // number] for index in range(number)]
    samples = list(read_samples(chosen, content.get("nc")))
    used = [sample.image for sample in samples if not sample.reason]
    tell_left_out([sample for sample in samples if sample.reason])
    if not used:
        place = part_paths(content, "train")[0]
        raise UserError(f"--data {data}: expected training images to calibrate on in {place}, got none that can be used; "
                        f"see `python -m data.check --data {data}`")  # fmt: skip
    if len(used) < wanted:
        print(f"--calibration-images {wanted}: the training part has {len(used)} that can be used, which are")
    return used, len(samples) - len(used)


class Calibration:
    """The inputs of calibration, read anew at each pass: arrays (batch, 3, H, W), float32, RGB from 0 to 1.

    Args:
        files: images that can be read.
        size: (height, width) of the input.
        batch: images at once; the last batch is filled up from its beginning.
        padding: None pads to `size`, as detect.py does for a model of fixed size; a stride pads to a multiple of it
            only, as detect.py does for one of any size. Then `batch` is 1, because inputs differ in shape.
    """

    def __init__(self, files: list[Path], size: list[int], batch: int = 1, padding: int | None = None) -> None:
        self.files, self.batch = files, 1 if padding else batch
        self.letterbox = LetterBox(tuple(size), auto=padding is not None, stride=padding or 32)

    def __iter__(self) -> Iterator[np.ndarray]:
        """Yield the inputs."""
        waiting: list[np.ndarray] = []
        for file in self.files:
            image = self.letterbox(image=read_pixels(file))
            waiting.append(image[..., ::-1].transpose(2, 0, 1))
            if len(waiting) == self.batch:
                yield _stack(waiting)
                waiting = []
        if waiting:
            yield _stack([waiting[index % len(waiting)] for index in range(self.batch)])


def _stack(images: list[np.ndarray]) -> np.ndarray:
    """(3, H, W) uint8 each -> (B, 3, H, W) float32 from 0 to 1."""
    return np.stack(images).astype(np.float32) / 255
