"""Images on which the value ranges of an INT8 model are measured: training images, prepared as detect.py does it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from ultralytics.data.augment import LetterBox

from cfg.errors import UserError
from data.dataset import part_paths
from data.layout import list_images
from engine.detection.sources import Unreadable, read_image


def calibration_files(content: dict[str, Any], data: str, wanted: int) -> list[Path]:
    """Return up to `wanted` training images of a resolved data YAML, evenly spaced, so that sorted classes all occur.

    Raises:
        UserError: the training part holds no image.
    """
    files = [file for part in part_paths(content, "train") for file in list_images(part)]
    if not files:
        place = part_paths(content, "train")[0]
        raise UserError(f"--data {data}: expected training images to calibrate on in {place}, got none; put them there")
    if len(files) < wanted:
        print(f"--calibration-images {wanted}: the training part has {len(files)}, which are used")
    number = min(wanted, len(files))
    return [files[index * len(files) // number] for index in range(number)]


class Calibration:
    """The inputs of calibration, read anew at each pass: arrays (batch, 3, H, W), float32, RGB from 0 to 1.

    Args:
        files: images; what cannot be read is left out.
        size: (height, width) of the input.
        batch: images at once; the last batch is filled up from its beginning.
        padding: None pads to `size`, as detect.py does for a model of fixed size; a stride pads to a multiple of it
            only, as detect.py does for one of any size. Then `batch` is 1, because inputs differ in shape.
    """

    def __init__(self, files: list[Path], size: list[int], batch: int = 1, padding: int | None = None) -> None:
        self.files, self.batch = files, 1 if padding else batch
        self.letterbox = LetterBox(tuple(size), auto=padding is not None, stride=padding or 32)

    def __iter__(self) -> Iterator[np.ndarray]:
        """Yield the inputs. Raises `UserError` when no image can be read."""
        waiting: list[np.ndarray] = []
        found = False
        for file in self.files:
            try:
                image = self.letterbox(image=read_image(file))
            except Unreadable:
                continue
            found = True
            waiting.append(image[..., ::-1].transpose(2, 0, 1))
            if len(waiting) == self.batch:
                yield _stack(waiting)
                waiting = []
        if waiting:
            yield _stack([waiting[index % len(waiting)] for index in range(self.batch)])
        if not found:
            raise UserError(f"{self.files[0]}: expected an image to calibrate on, but none of {len(self.files)} can be "
                            "read; see `python -m data.check`")  # fmt: skip


def _stack(images: list[np.ndarray]) -> np.ndarray:
    """(3, H, W) uint8 each -> (B, 3, H, W) float32 from 0 to 1."""
    return np.stack(images).astype(np.float32) / 255
