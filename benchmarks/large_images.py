"""Large images in tiles, whole, and whole at a larger size: what is found, what seams cost, how long it takes.

    python -m benchmarks.large_images --weights best.pt --data deeppcb.yaml --tile 640 --grid 4

stitches the validation images into sheets of grid x grid, and writes one row per way of looking at them. The sheets are made in a
temporary folder. With the package `sahi` installed, more rows have the boxes of the same tiles joined by its merging.
"""

from __future__ import annotations

import argparse
import importlib.util
import math
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from benchmarks.machine import commit, machine
from cfg import guard
from cfg.command_line import read_arguments
from data import resolve
from data.dataset import part_paths
from data.files import list_images
from data.images import read_pixels
from data.layout import DatasetWriter, label_rows, rows_to_xyxy, xyxy_to_rows
from inspection.seams import TileBoxes, merge
from inspection.tiles import Tiling

CONF, IOU = 0.25, 0.5  # at which hits and false boxes are counted
COLUMNS = ("images", "how", "input px", "tiles", "cut", "cut found", "mAP50", "mAP50-95", "hits", "false", "ms per image")


def stitch(data: str, grid: int, out: Path) -> Path:
    """Write sheets of grid x grid validation images, all of one size, in the order of their names; return their data YAML."""
    content = resolve(data, require=("val",))
    images = [image for entry in part_paths(content, "val") for image in list_images(entry)]
    writer, count = DatasetWriter(out, list(content["names"].values())), grid * grid
    for number in range(len(images) // count):
        rows, boxes = [], []
        chosen = images[number * count : (number + 1) * count]
        pixels = [read_pixels(image) for image in chosen]
        height, width = pixels[0].shape[:2]
        for at, image in enumerate(chosen):
            labels = label_rows(image)
            boxes.append(rows_to_xyxy(labels, width, height) + np.tile((at % grid * width, at // grid * height), 2))
            rows.append(labels[:, 0])
        sheet = np.concatenate([np.concatenate(pixels[i : i + grid], 1) for i in range(0, count, grid)])
        table = xyxy_to_rows(np.concatenate(rows), np.concatenate(boxes), sheet.shape[1], sheet.shape[0])
        writer.add_pixels(sheet, ".png", "val", f"{number:03}", table)
    writer.finish(f"sheets of {grid} x {grid} images")
    return out / "data.yaml"


def plain(found: TileBoxes, windows: np.ndarray, iou: float, agnostic: bool = False, most: int = 300) -> Any:
    """Suppression alone, without uniting what a seam cuts."""
    return merge(found, windows, iou, agnostic, most)


def sahi_merge(found: TileBoxes, windows: np.ndarray, iou: float, agnostic: bool = False, most: int = 300) -> Any:
    """SAHI's default: greedy merging of boxes by intersection over the smaller."""
    from sahi.postprocess.combine import GreedyNMMPostprocess
    from sahi.prediction import ObjectPrediction

    shape = windows[:, [3, 2]].max(0).tolist()
    given = [
        ObjectPrediction([float(v) for v in box], category_id=int(c), category_name=str(c), score=float(s), full_shape=shape)
        for box, s, c in zip(found.boxes_xyxy, found.scores, found.classes)
        if (box[2:] > box[:2]).all()
    ]
    joined = GreedyNMMPostprocess(match_threshold=0.5, match_metric="IOS", class_agnostic=agnostic)(given)
    joined = sorted(joined, key=lambda one: -one.score.value)[:most]
    boxes = np.array([one.bbox.to_xyxy() for one in joined], dtype=float).reshape(-1, 4)
    return boxes, np.array([one.score.value for one in joined]), np.array([one.category.id for one in joined], dtype=int)


def confident(merger: Callable[..., Any]) -> Callable[..., Any]:
    """The same merging of the boxes above `CONF` alone, as detect.py and SAHI's own scripts are run."""

    def merged(found: TileBoxes, *given: Any, **more: Any) -> Any:
        kept = found.scores > CONF
        return merger(TileBoxes(found.boxes_xyxy[kept], found.scores[kept], found.classes[kept], found.tiles[kept]), *given, **more)

    return merged


@contextmanager
def merging(how: Callable[..., Any] | None) -> Iterator[None]:
    """Have validation merge boxes in another way."""
    with patch("inspection.seams.UNITE_FROM", math.inf if how is plain else 0.1), patch("engine.tiling.validator.merge", how or merge):
        yield


def counted(path: Path, shapes: list[tuple[int, int]], tiling: Tiling | None) -> dict[str, int]:
    """Hits and false boxes at `CONF`, and of the objects that are whole in no tile, how many are hit."""
    from engine.tiling.validator import whole_somewhere
    from engine.validation.box_files import load_boxes

    _, truths, found = load_boxes(path)
    total = dict.fromkeys(("hits", "false", "cut", "cut found"), 0)
    for truth, boxes, shape in zip(truths, found, shapes, strict=True):
        taken = hit(truth, boxes)
        cut = ~whole_somewhere(truth.boxes_xyxy, tiling.windows(*shape)) if tiling else np.zeros(len(taken), dtype=bool)
        total["hits"] += int(taken.sum())
        total["false"] += int((boxes.scores > CONF).sum() - taken.sum())
        total["cut"] += int(cut.sum())
        total["cut found"] += int((cut & taken).sum())
    return total


def hit(truth: Any, boxes: Any) -> np.ndarray:
    """Whether each labelled box is met by a box of its class, best scores first, each label once."""
    taken = np.zeros(len(truth.classes), dtype=bool)
    for index in np.argsort(-boxes.scores, kind="stable"):
        if boxes.scores[index] <= CONF or not len(taken):
            continue
        a, b = truth.boxes_xyxy, boxes.boxes_xyxy[index]
        common = np.prod(np.maximum(np.minimum(a[:, 2:], b[2:]) - np.maximum(a[:, :2], b[:2]), 0), axis=1)
        union = np.prod(a[:, 2:] - a[:, :2], axis=1) + np.prod(b[2:] - b[:2]) - common
        fit = np.where((truth.classes == boxes.classes[index]) & ~taken, common / union, 0)
        if fit.max() >= IOU:
            taken[fit.argmax()] = True
    return taken


def look(weights: str, data: str, images: str, how: str, folder: Path, imgsz: int, tile: int | None = None,
         overlap: float | None = None, merger: Callable[..., Any] | None = None, batch: int = 16) -> dict[str, Any]:  # fmt: skip
    """Validate in one way; return the row."""
    from engine.validation.evaluate import evaluate

    place = folder / f"row{time.monotonic_ns()}"
    options = dict(imgsz=imgsz, batch=batch, device="cpu", plots=False, save_dir=place, tile=tile, overlap=overlap)
    folder.mkdir(exist_ok=True)
    with merging(merger):
        result = evaluate(weights, data, detections=folder / "boxes.npz", **options)
    tiling = Tiling(tile, result["tiling"]["overlap"]) if tile else None
    files = [x for entry in part_paths(resolve(data, require=("val",)), "val") for x in list_images(entry)]
    counts = counted(folder / "boxes.npz", [read_pixels(file).shape[:2] for file in files], tiling)
    speed = result["speed"]
    whole_ms = speed["preprocess_ms"] + speed["inference_ms"] + speed["postprocess_ms"]
    row = {"images": images, "how": how, "input px": imgsz, "tiles": result["tiling"]["tiles"] / len(files) if tile else 1}
    row |= counts | {name: result["metrics"][name] for name in ("mAP50", "mAP50-95")}
    return row | {"ms per image": result["tiling"]["ms_per_image"] if tile else whole_ms}


def rows(weights: str, data: str, tile: int, imgsz: int, grid: int, work: Path) -> Iterator[dict[str, Any]]:
    """All rows of the table."""
    sheets = str(stitch(data, grid, work / "sheets"))
    name, side = f"sheets {grid} x {grid}", grid * tile
    per_side = len(np.unique(Tiling(tile, 0.2).windows(side, side)[:, 0]))
    plan: list[tuple[str, str, dict[str, Any]]] = [
        (name, "whole", {"imgsz": imgsz}),
        (name, "whole, larger: objects as in a tile", {"imgsz": grid * imgsz}),
        (name, "whole, larger: pixels as of all tiles", {"imgsz": per_side * imgsz}),
        (name, f"tiles of {tile}, overlap 0.2", {"imgsz": imgsz, "tile": tile, "overlap": 0.2}),
        (name, f"tiles of {tile}, overlap 0.05", {"imgsz": imgsz, "tile": tile, "overlap": 0.05}),
        (name, "the same, suppression alone", {"imgsz": imgsz, "tile": tile, "overlap": 0.05, "merger": plain}),
    ]
    if importlib.util.find_spec("sahi"):
        plan += [
            (name, f"tiles of {tile}, overlap {o}, {who}", {"imgsz": imgsz, "tile": tile, "overlap": o, "merger": merger})
            for o in (0.2, 0.05)
            for who, merger in (
                ("SAHI's merging", sahi_merge),
                (f"SAHI's merging, boxes above {CONF}", confident(sahi_merge)),
                (f"ours, boxes above {CONF}", confident(merge)),
            )
        ]
    plan += [
        ("boards", "whole", {"imgsz": imgsz}),
        ("boards", "whole, larger: pixels as of all tiles", {"imgsz": 3 * imgsz}),
        ("boards", f"tiles of {tile // 2}, overlap 0.2", {"imgsz": imgsz, "tile": tile // 2, "overlap": 0.2}),
    ]
    for images, how, options in plan:
        yield look(weights, sheets if images == name else data, images, how, work / "runs", **options)


def cost(weights: str, tile: int, imgsz: int, grid: int, repeats: int = 9) -> dict[str, float]:
    """Milliseconds of detect.py's path for one sheet in tiles, and for as many images of a tile's size, both one at a time."""
    from engine.detection.memory import MemorySource
    from engine.detection.options import DetectOptions
    from engine.detection.predictor import look as detected
    from engine.detection.settled import cut, settle
    from engine.weights import open_backend, pick_device

    backend, trained = open_backend(Path(weights), pick_device("cpu"))
    whole = DetectOptions(weights, [], [imgsz], conf=CONF, iou=IOU, batch=1)
    plain, tiled = (settle(options, backend, trained, None) for options in (whole, replace(whole, tile=tile, overlap=0.2)))
    sheet = np.random.default_rng(0).integers(0, 256, (grid * tile, grid * tile, 3), dtype=np.uint8)
    windows = Tiling(tile, 0.2).windows(*sheet.shape[:2])
    one = np.ascontiguousarray(sheet[:tile, :tile])
    times: dict[str, list[float]] = {"sheet": [], "tile": []}
    for _ in range(repeats):
        for name, pictures, settled in (("sheet", [sheet], tiled), ("tile", [one] * len(windows), plain)):
            results = detected(backend, cut(MemorySource(pictures), settled), settled)
            began = time.perf_counter()
            for _ in results:
                pass
            times[name].append(1e3 * (time.perf_counter() - began))
    return {name: float(np.median(values)) for name, values in times.items()} | {"tiles": len(windows)}


def markdown(table: list[dict[str, Any]]) -> str:
    """The rows as a table."""
    kinds = {"mAP50": ".3f", "mAP50-95": ".3f", "ms per image": ".0f", "tiles": ".0f"}
    lines = [f"| {' | '.join(COLUMNS)} |", f"|{'---|' * len(COLUMNS)}"]
    lines += ["| " + " | ".join(format(row[c], kinds.get(c, "")) for c in COLUMNS) + " |" for row in table]
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Command line of this module."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.large_images", description=__doc__.split("\n\n")[0])
    parser.add_argument("--weights", required=True, help="a model trained on images of one tile's size")
    parser.add_argument("--data", required=True, help="data YAML; its validation images are of one size, that of --tile")
    parser.add_argument("--tile", type=int, default=640, help="side of a tile in pixels (default: 640)")
    parser.add_argument("--imgsz", type=int, default=192, help="that the network sees of a tile (default: 192)")
    parser.add_argument("--grid", type=int, default=4, help="images in a row and in a column of a sheet (default: 4)")
    given = read_arguments(parser, argv)
    spent = cost(given.weights, given.tile, given.imgsz, given.grid)
    with tempfile.TemporaryDirectory() as work:
        table = list(rows(given.weights, given.data, given.tile, given.imgsz, given.grid, Path(work)))
    print(f"\n{date.today()}, {machine()}, commit {commit()}\n\n{markdown(table)}\n")
    ratio = spent["sheet"] / spent["tile"]
    print(f"one sheet: {spent['sheet']:.1f} ms; {spent['tiles']} single tiles: {spent['tile']:.1f} ms; ratio {ratio:.3f}")
    return 0


if __name__ == "__main__":
    sys.exit(guard(main))
