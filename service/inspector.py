"""One image from its bytes to its verdict: decoded, looked at whole or in tiles, decided by the plan."""

from __future__ import annotations

import io
import math
import sys
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from PIL import Image

from data.decode import MOST_PIXELS, Unreadable, decode, pages
from inspection.belonging import Settings, as_chosen, plan_of
from inspection.embedded import read_embedded
from inspection.plan import Plan
from inspection.rules import NO_NUMBERS, Found, Verdict, decide, undefined
from inspection.seams import TileBoxes, found_from, merge
from inspection.tiles import tiling_asked
from service.events import Box, Picture
from service.letterbox import Frame, frame, letterbox, scaled_back
from service.network import Network, pictures_through
from service.suppression import boxes_of

CONF, IOU = 0.25, 0.45  # without a plan that says otherwise
NO_PLAN = "no decision plan: boxes are found, nothing is decided"
ROUNDED = 1e-6  # float32 may hold a score just below the plan's limit


@dataclass(frozen=True)
class Limits:
    """What is looked at, and what is kept.

    Attributes:
        settings: size, overlap of boxes and tiles, as asked for.
        conf: lowest score that is reported, None for the plan's lowest limit.
        most: boxes of an image.
        agnostic: boxes of different classes suppress each other.
        pixels: the largest image.
    """

    settings: Settings = field(default_factory=Settings)
    conf: float | None = None
    most: int = 300
    agnostic: bool = False
    pixels: int = 100_000_000


@dataclass(frozen=True)
class Outcome:
    """The verdict on an image, with its boxes and its size in pixels, 0 x 0 where it could not be read."""

    verdict: Verdict
    boxes: tuple[Box, ...] = ()
    width: int = 0
    height: int = 0


class Inspector:
    """Looks at images and decides about them. May be used from several threads: the network runs in one at a time.

    Args:
        network: the model.
        plan: what decides; None: every verdict is UNDEFINED.
        limits: see there.

    Raises:
        UserError: tiles that are too small, or no tiles (`inspection.tiles.tiling_asked`).
    """

    def __init__(self, network: Network, plan: Plan | None, limits: Limits) -> None:
        self.network, self.plan, self.limits = network, plan, limits
        self.exported = network.exported
        asked = replace(limits.settings, max_det=limits.most, agnostic_nms=limits.agnostic)
        settings = as_chosen(plan, asked)[0] if plan else asked
        self.iou = IOU if settings.iou is None else settings.iou
        self.tiling = tiling_asked(settings.tile, settings.overlap)
        if self.tiling:
            self.tiling.check_stride(self.exported.stride)
        self.size = input_size(settings.imgsz, network)
        self.conf = limits.conf if limits.conf is not None else plan.lowest if plan else CONF
        self.floor = max(0.0, min(self.conf, plan.lowest) - ROUNDED) if plan else self.conf
        self._turn = threading.Lock()

    def inspect(self, picture: Picture) -> Outcome:
        """The outcome of an image. Never raises for what it holds."""
        try:
            if isinstance(picture, Unreadable):
                raise picture
            pixels = picture if isinstance(picture, np.ndarray) else self.read(picture)
            found = self.find(pixels)
        except Unreadable as error:
            return Outcome(undefined(str(error)))
        height, width = pixels.shape[:2]
        verdict = decide(self.plan, found, height, width) if self.plan else undefined(NO_PLAN)
        return Outcome(verdict, self._reported(found, verdict), width, height)

    def read(self, data: bytes) -> np.ndarray:
        """Decode an image file, (H, W, 3) BGR uint8. Raises `Unreadable`, before decoding where it says that it is too large."""
        declared = declared_size(data)
        if declared and declared[0] * declared[1] > self.limits.pixels:
            raise Unreadable(f"expected at most {self.limits.pixels:,} pixels, got {declared[0] * declared[1]:,} or more")
        pixels = decode(data)
        if pixels.shape[0] * pixels.shape[1] > self.limits.pixels:
            raise Unreadable(f"expected at most {self.limits.pixels:,} pixels, got {pixels.shape[0] * pixels.shape[1]:,}")
        if (count := pages(data)) > 1:
            raise Unreadable(f"{count} images in one file: expected one; send them one by one")
        return pixels

    def find(self, pixels: np.ndarray) -> Found:
        """The boxes in an image (H, W, 3) BGR uint8, by falling score, with scores from `floor` on. Raises `Unreadable` as `_boxes`."""
        height, width = pixels.shape[:2]
        if self.tiling is None:
            table = self._tables([pixels], self.floor)[0]
        else:
            table = self._in_tiles(pixels, self.tiling.windows(height, width))
        return Found(table[:, :4], table[:, 4], table[:, 5].astype(int))

    def _in_tiles(self, pixels: np.ndarray, windows: np.ndarray) -> np.ndarray:
        at_once = 1 if self.exported.dynamic else self.exported.batch
        tables: list[np.ndarray] = []
        for start in range(0, len(windows), at_once):
            views = [pixels[y1:y2, x1:x2] for x1, y1, x2, y2 in windows[start : start + at_once]]
            tables += self._tables(views, found_from(self.floor))
        tiles = np.repeat(np.arange(len(tables)), [len(table) for table in tables])
        every = np.concatenate([*tables, np.zeros((0, 6))]).astype(np.float64)
        found = TileBoxes(every[:, :4] + np.tile(windows[tiles, :2], 2), every[:, 4], every[:, 5].astype(int), tiles)
        boxes, scores, classes = merge(found, windows, self.iou, self.limits.agnostic, self.limits.most)
        return np.column_stack([boxes, scores, classes])[scores > self.floor].astype(np.float32)

    def _tables(self, views: list[np.ndarray], conf: float) -> list[np.ndarray]:
        """Boxes (n, 6) of each image, `x1 y1 x2 y2` in its pixels, score, class."""
        fits = [frame(view.shape[0], view.shape[1], self.size, self.exported.stride, self.exported.dynamic) for view in views]
        inputs = np.empty((len(views), 3, *fits[0].size), np.float32)
        for view, fit, planes in zip(views, fits, inputs, strict=True):
            letterbox(view, fit, planes)
        with self._turn:
            outputs = pictures_through(self.network, inputs)
        return [self._boxes(output, fit, conf) for output, fit in zip(outputs, fits, strict=True)]

    def _boxes(self, output: np.ndarray, fit: Frame, conf: float) -> np.ndarray:
        """Boxes as of `_tables`. Raises `Unreadable` where the output holds values that are no numbers, which suppression would drop."""
        if not math.isfinite(output.sum(dtype=np.float64)):
            raise Unreadable(NO_NUMBERS)
        table = boxes_of(output, self.exported.suppressed, conf, self.iou, self.limits.agnostic, self.limits.most)
        return np.column_stack([scaled_back(table[:, :4], fit), table[:, 4:]])

    def _reported(self, found: Found, verdict: Verdict) -> tuple[Box, ...]:
        kept = found.scores >= self.conf
        kept[verdict.boxes] = True
        rows = np.column_stack([found.boxes_xyxy, found.scores])[kept].tolist()
        classes = found.classes[kept].tolist()
        names = self.exported.names
        return tuple(Box(x1, y1, x2, y2, score, index, names.get(index, str(index)))
                     for (x1, y1, x2, y2, score), index in zip(rows, classes, strict=True))  # fmt: skip

    def infer(self, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """Run the network on arrays of its inputs by name, for clients that do the rest themselves."""
        with self._turn:
            return self.network.run(feeds)


def find_plan(weights: Path, decision: str | None, names: Mapping[int, str]) -> Plan | None:
    """The plan of exported weights. Args, messages and errors as of `inspection.belonging.plan_of`."""
    return plan_of(weights, decision, None if decision else read_embedded(weights), names)


def input_size(asked: list[int] | None, network: Network) -> tuple[int, int]:
    """(height, width) of the network's input: the only one it takes, else what was asked for or exported, in multiples of the stride.

    Says on stderr where it is not what was asked for.
    """
    exported = network.exported
    wanted = (asked[0], asked[-1]) if asked else exported.size
    size = exported.size
    if exported.dynamic:
        height, width = (math.ceil(side / exported.stride) * exported.stride for side in wanted)
        size = height, width
    if size != wanted:
        reason = f"multiples of {exported.stride} are needed" if exported.dynamic else "the only size that the model takes; export with --dynamic"
        print(f"--imgsz {list(wanted)}: {list(size)} is used, {reason}", file=sys.stderr)
    return size


def declared_size(data: bytes) -> tuple[int, int] | None:
    """(width, height) that an image file says it has, before anything is decoded; None where Pillow cannot tell."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            size: tuple[int, int] = image.size
            return size
    except Image.DecompressionBombError:  # more than twice what data.decode takes
        return MOST_PIXELS, 2
    except Exception:  # whatever is wrong with it is told by the decoder
        return None

