"""Tiles on their way through detect.py: images go in as tiles, and the results of their tiles come out as one."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass, field, fields, replace

import numpy as np
import torch

from data.decode import Unreadable
from engine.detection.items import Batch, Item, Prepare, Source, batched
from engine.detection.sources import MediaSource
from inspection.seams import TileBoxes, merge
from inspection.tiles import Tiling

from ultralytics.engine.results import Results


@dataclass(frozen=True)
class TileItem(Item):
    """One tile of an image, with the fields of the image's own `Item`.

    Attributes:
        picture: the image's item.
        pixels: the image, (H, W, 3) BGR uint8, or what reads it piece by piece (`data.large_tiff.StripPicture`).
        windows: (n, 4) `x1 y1 x2 y2` of all tiles of the image.
        number: which of them this one is.
    """

    picture: Item | None = None
    pixels: np.ndarray = field(default_factory=lambda: np.zeros(0), repr=False, compare=False)
    windows: np.ndarray = field(default_factory=lambda: np.zeros((0, 4)), repr=False, compare=False)
    number: int = 0

    @property
    def last(self) -> bool:
        """Whether it is its image's last tile."""
        return self.number == len(self.windows) - 1


class TiledSource:
    """The images of a source as tiles, in batches of the tiles of one image, so that a stream's frame never waits.

    Tiles are cut and prepared when it is their turn: beside the image, memory holds one batch of them. An image that is read
    piece by piece and turns out to be damaged is skipped.

    Attributes:
        batch: most tiles per batch. To be set before the iteration, as is `prepare`.
        prepare: makes of a tile what the network takes.
        cut: images that were more than one tile.
    """

    def __init__(self, source: Source, tiling: Tiling) -> None:
        self.source, self.tiling = source, tiling
        self.mode, self.source_type = source.mode, source.source_type
        self.batch, self.cut = 1, 0
        self.prepare: Prepare = np.asarray
        source.prepare = _whole_picture

    def __iter__(self) -> Iterator[Batch]:
        for _, pictures, items in self.source:
            for item, pixels in zip(items, pictures, strict=True):
                try:
                    yield from batched(self._tiles(item, pixels), self.batch)
                except Unreadable as error:
                    if not isinstance(self.source, MediaSource):  # only files are read piece by piece
                        raise
                    self.source.skip(item.path, str(error))

    def close(self) -> None:
        """Close the source."""
        self.source.close()

    def _tiles(self, item: Item, pixels: np.ndarray) -> Iterator[tuple[Item, np.ndarray]]:
        windows = self.tiling.windows(*pixels.shape[:2])
        self.cut += len(windows) > 1
        shared = {part.name: getattr(item, part.name) for part in fields(item)}
        picture = replace(item, label=f"{item.label}, {len(windows)} tiles") if len(windows) > 1 else item
        for number, (x1, y1, x2, y2) in enumerate(windows):
            tile = pixels[y1:y2, x1:x2]
            own = {"prepared": self.prepare(tile), "picture": picture, "pixels": pixels, "windows": windows}
            yield TileItem(**shared | own, number=number), tile


def _whole_picture(pixels: np.ndarray) -> np.ndarray:
    return pixels  # only tiles are prepared


def joined(results: Generator[Results], conf: float, iou: float, agnostic: bool, most: int) -> Generator[Results]:
    """Yield one result per image from the results of its tiles, which come in order.

    Args:
        results: with boxes in pixels of the tile, from a `TiledSource`, found at `inspection.seams.found_from(conf)`.
        conf: score above which a box counts.
        iou, agnostic, most: as of `inspection.seams.merge`.
    """
    tables: list[np.ndarray] = []
    speeds: list[dict[str, float]] = []
    fault = ""
    with closing(results):
        for result in results:
            if not result.item.number:  # of an image that was skipped half way, parts may be left
                tables, speeds, fault = [], [], ""
            fault = fault or result.fault
            tables.append(result.boxes.data.cpu().numpy().astype(np.float64))
            speeds.append(result.speed)
            if result.item.last:
                whole = _whole(result, tables, speeds, conf, iou, agnostic, most)
                whole.fault = fault
                yield whole


def _whole(last: Results, tables: list[np.ndarray], speeds: list[dict[str, float]], conf: float, iou: float, agnostic: bool,
           most: int) -> Results:  # fmt: skip
    """The result of an image from that of its last tile and what was found in each: the tiles themselves are not held till then."""
    item: TileItem = last.item
    boxes, scores, classes = merge(tile_boxes(tables, item.windows), item.windows, iou, agnostic, most)
    table = np.column_stack([boxes, scores, classes])[scores > conf]
    result = Results(item.pixels, path=str(item.path), names=last.names, boxes=torch.from_numpy(table).float())
    result.item, result.input_size = item.picture, last.input_size
    result.speed = {stage: sum(speed[stage] for speed in speeds) for stage in last.speed}
    return result


def tile_boxes(tables: list[np.ndarray], windows: np.ndarray) -> TileBoxes:
    """Return boxes of the image from (n, 6) tables of each tile: `x1 y1 x2 y2` in pixels of the tile, score, class."""
    tiles = np.repeat(np.arange(len(tables)), [len(table) for table in tables])
    every = np.concatenate([*tables, np.zeros((0, 6))])
    return TileBoxes(every[:, :4] + np.tile(windows[tiles, :2], 2), every[:, 4], every[:, 5].astype(int), tiles)
