"""Images from a Python program instead of files: arrays, tensors and Pillow images, as `Predictor` takes them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from time import perf_counter
from typing import Any

import numpy as np
import torch
from PIL import Image

from cfg.errors import UserError
from data.decode import Unreadable, as_bgr, pillow_pixels
from engine.detection.items import Batch, Item, Prepare, Report, batched
from engine.detection.listing import FileList
from engine.detection.sources import MediaSource

from ultralytics.data.loaders import SourceTypes

KINDS = "paths, arrays (H, W, 3) in BGR, Pillow images, tensors (3, H, W) or (B, 3, H, W) in RGB"


class MemorySource:
    """Batches of images that are in memory; they are called image0, image1 and so on.

    Args:
        pictures: each (H, W, 3) BGR uint8.

    Attributes:
        batch, prepare: as of `engine.detection.sources.MediaSource`.
    """

    mode = "image"
    source_type = SourceTypes()

    def __init__(self, pictures: Sequence[np.ndarray]) -> None:
        self.pictures, self.batch = pictures, 1
        self.prepare: Prepare = np.asarray

    def __iter__(self) -> Iterator[Batch]:
        return batched(self._items(), self.batch)

    def close(self) -> None:
        """Nothing is held open."""

    def _items(self) -> Iterator[tuple[Item, np.ndarray]]:
        for number, picture in enumerate(self.pictures):
            name, began = f"image{number}", perf_counter()
            prepared = self.prepare(picture)
            label, seconds = f"image {number + 1}/{len(self.pictures)}", perf_counter() - began
            yield Item(Path(name), PurePath(name), "image", label, name, prepared, seconds=seconds), picture


@dataclass(frozen=True)
class Unread:
    """A file that cannot be read, and why."""

    path: Path | str
    reason: str


class OrderedSource(MediaSource):
    """Files; `order` holds what came of each so far, an `Item` for an image or an `Unread`, until someone takes it out."""

    def __init__(self, files: FileList, lose: Report) -> None:
        self.order: deque[Item | Unread] = deque()
        super().__init__(files, lambda path, reason: self.order.append(Unread(path, reason)), lose)

    def _pictures(self) -> Iterator[tuple[Item, np.ndarray]]:
        for item, image in super()._pictures():
            self.order.append(item)
            yield item, image


def listed(images: Any) -> list[str | np.ndarray]:
    """What was handed over as a list of paths and images, (H, W, 3) BGR uint8.

    Args:
        images: one of, or a list of: paths (files, folders, globs, addresses), arrays (H, W), (H, W, 3) or (H, W, 4) in OpenCV's
            order, Pillow images, tensors (3, H, W) or (B, 3, H, W) in RGB. Numbers of 8 or 16 bits, or floats of 0 to 1 or 255.

    Raises:
        UserError: anything else, or values that are no grey levels.
    """
    if isinstance(images, (str, Path, np.ndarray, Image.Image, torch.Tensor)):
        return _parts(images, "images")
    if not isinstance(images, (list, tuple)):
        raise UserError(f"images: expected {KINDS}, or a list of these, got {type(images).__name__}")
    return [part for number, image in enumerate(images) for part in _parts(image, f"images[{number}]")]


def _parts(image: Any, where: str) -> list[str | np.ndarray]:
    """The paths or pixels of one of the images, which `where` names. Raises `UserError`."""
    if isinstance(image, (str, Path)):
        if not str(image):
            raise UserError(f"{where}: expected a path, got an empty text")
        return [str(image)]
    try:
        if isinstance(image, Image.Image):
            return [_checked(pillow_pixels(image))]
        if isinstance(image, torch.Tensor):
            return [_checked(picture.permute(1, 2, 0).flip(2).numpy()) for picture in _tensors(image)]
        if isinstance(image, np.ndarray):
            return [_checked(image)]
    except Unreadable as error:
        raise UserError(f"{where}: {error}") from None
    except Exception as error:  # a closed or cut-off file behind a Pillow image, a tensor without memory: libraries raise anything
        raise UserError(f"{where}: expected a readable image, got one that fails ({' '.join(str(error).split())})") from None
    raise UserError(f"{where}: expected {KINDS}, got {type(image).__name__}")


def _tensors(image: torch.Tensor) -> torch.Tensor:
    """A tensor as a batch (B, 3, H, W) on the CPU, floats as float32. Raises `Unreadable`."""
    batch = image[None] if image.ndim == 3 else image
    if batch.ndim != 4 or batch.shape[1] != 3:
        raise Unreadable(f"expected a tensor (3, H, W) or (B, 3, H, W), got {tuple(image.shape)}; see .permute(2, 0, 1)")
    batch = batch.detach().to_dense().cpu()
    return batch.float() if batch.is_floating_point() else batch


def _checked(pixels: np.ndarray) -> np.ndarray:
    """An array as (H, W, 3) BGR uint8. Raises `Unreadable`."""
    channels = pixels.shape[2] if pixels.ndim == 3 else 1
    if pixels.ndim not in (2, 3) or channels not in (1, 3, 4) or not pixels.size:
        raise Unreadable(f"expected an array (H, W), (H, W, 3) or (H, W, 4), got {pixels.shape}; give several images as a list")
    if pixels.dtype.kind not in "uif":
        raise Unreadable(f"expected numbers of 8 or 16 bits, or floats of 0 to 1, got {pixels.dtype}; convert them")
    return as_bgr(pixels)
