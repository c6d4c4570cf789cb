"""An image as the network takes it, and boxes of the network as boxes of the image: as detect.py does, to the last bit."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

GREY = 114  # of the border


@dataclass(frozen=True)
class Frame:
    """How an image of `height` x `width` pixels lies in the network's input of `size` (height, width).

    Attributes:
        inside: (height, width) of the scaled image.
        top, left: pixels of border before it.
    """

    height: int
    width: int
    size: tuple[int, int]
    inside: tuple[int, int]
    top: int
    left: int


def frame(height: int, width: int, size: tuple[int, int], stride: int, any_size: bool) -> Frame:
    """Fit an image into `size` (height, width), its sides in proportion; with `any_size` borders shrink to what `stride` needs."""
    scale = min(size[0] / height, size[1] / width)
    inside = max(round(height * scale), 1), max(round(width * scale), 1)
    spare = [size[0] - inside[0], size[1] - inside[1]]
    if any_size:
        spare = [pixels % stride for pixels in spare]
    top, left = (round(pixels / 2 - 0.1) for pixels in spare)
    return Frame(height, width, (inside[0] + spare[0], inside[1] + spare[1]), inside, top, left)


def letterbox(picture: np.ndarray, fit: Frame, planes: np.ndarray) -> None:
    """Fill `planes` (3, h, w) float32, RGB from 0 to 1, with an image (H, W, 3) BGR uint8, scaled and with grey borders."""
    if (fit.height, fit.width) != fit.inside:
        picture = cv2.resize(picture, fit.inside[::-1], interpolation=cv2.INTER_LINEAR)
    bottom, right = fit.size[0] - fit.inside[0] - fit.top, fit.size[1] - fit.inside[1] - fit.left
    picture = cv2.copyMakeBorder(picture, fit.top, bottom, fit.left, right, cv2.BORDER_CONSTANT, value=(GREY,) * 3)
    for plane, channel in zip(planes, cv2.split(picture)[::-1], strict=True):
        np.divide(channel, np.float32(255), out=plane)


def scaled_back(boxes_xyxy: np.ndarray, fit: Frame) -> np.ndarray:
    """Boxes (N, 4) in pixels of the input -> in pixels of the image, cut at its edges."""
    boxes = boxes_xyxy - np.array([fit.left, fit.top] * 2, np.float32)
    boxes /= np.array([fit.inside[1] / fit.width, fit.inside[0] / fit.height] * 2, np.float32)
    return boxes.clip(0, np.array([fit.width, fit.height] * 2, np.float32))
