"""Detection on images, videos and streams, written as it goes: what detect.py does."""

from __future__ import annotations

import math
from collections.abc import Generator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cfg.errors import UserError
from cfg.version import VERSION
from data.large_tiff import read_large
from engine.decision.plans import find_plan
from engine.detection.deciding import Sorter
from engine.detection.detect_run import Run
from engine.detection.items import Source
from engine.detection.listing import FileList
from engine.detection.options import DetectOptions
from engine.detection.settled import Settled, cut, settle
from engine.detection.sources import MediaSource, open_source
from engine.detection.summary import Summary
from engine.detection.suppression import use_compiled_suppression
from engine.heatmaps.pictures import Heatmaps
from engine.locate import locate_weights
from engine.tiling.pictures import TiledSource, joined
from engine.weights import open_backend, pick_device, tell_precision
from inspection.plan import Plan
from inspection.rules import NO_NUMBERS
from inspection.seams import found_from
from inspection.tiles import tiling_asked

from ultralytics.engine.results import Results
from ultralytics.models.yolo.detect import DetectionPredictor
from ultralytics.nn.autobackend import AutoBackend
from ultralytics.utils.files import increment_path
from ultralytics.utils.nms import non_max_suppression


class Predictor(DetectionPredictor):
    """ultralytics' predictor on our sources: its results carry the `Item` they come from as ``item``.

    Args:
        backend: the loaded model.
        source: what it looks at.
        options: thresholds and the like.
        size: (height, width) or (side,) of the input; a side that is no multiple of the stride is rounded up, and said.
        classes: indices of the classes to report, None for all.
    """

    def __init__(
        self,
        backend: AutoBackend,
        source: Source,
        options: DetectOptions,
        size: list[int],
        classes: list[int] | None,
    ) -> None:
        overrides = {
            "task": "detect",
            "mode": "predict",
            "conf": options.conf,
            "iou": options.iou,
            "max_det": options.max_det,
            "classes": classes,
            "agnostic_nms": options.agnostic_nms,
            "rect": True,
            "save": False,
            "verbose": False,
            "save_dir": options.project,  # nothing is saved by the base class, and so it makes no folder
        }
        super().__init__(overrides=overrides)
        self.model, self.device, self.media = backend, backend.device, source
        self.imgsz = size
        self.sound: list[bool] = []  # images of the batch of which the network's output is finite
        use_compiled_suppression()
        source.prepare = self.letterbox

    def letterbox(self, picture_bgr: np.ndarray) -> np.ndarray:
        """Return an image as the network takes it, (h, w, 3) uint8. Called by the source, which may do so in threads."""
        prepared: np.ndarray = super().pre_transform([picture_bgr])[0]
        return prepared

    def pre_transform(self, im: list[np.ndarray]) -> list[np.ndarray]:
        """Return the batch as its source has prepared it."""
        return [item.prepared for item in self.batch[2]]

    def setup_source(self, source: Any = None, stride: int | None = None) -> None:
        """Use the source and size given at construction; called by `stream_inference`."""
        self.dataset, self.source_type = self.media, self.media.source_type

    def postprocess(self, preds: Any, img: torch.Tensor, orig_imgs: list[np.ndarray], **kwargs: Any) -> list[Results]:
        """As the base class, but without its time limit, after which it loses what the rest of a batch shows."""
        given = self.args
        raw = preds[0] if isinstance(preds, (list, tuple)) else preds
        self.sound = torch.isfinite(raw).flatten(1).all(1).tolist()
        kept = non_max_suppression(
            preds,
            given.conf,
            given.iou,
            given.classes,
            given.agnostic_nms,
            max_det=given.max_det,
            max_time_img=math.inf,
            end2end=getattr(self.model, "end2end", False),
        )
        return self.construct_results(kept, img, orig_imgs, **kwargs)

    def construct_results(self, preds: list[Any], img: Any, orig_imgs: list[np.ndarray]) -> list[Results]:
        """As the base class, with `item`, the network's `input_size` (height, width) and its `fault`, if any, on each result."""
        results: list[Results] = super().construct_results(preds, img, orig_imgs)
        for result, item, sound in zip(results, self.batch[2], self.sound, strict=True):
            result.item, result.input_size, result.fault = item, tuple(img.shape[2:]), "" if sound else NO_NUMBERS
        return results


def detect(options: DetectOptions) -> Summary:
    """Run detection over everything in ``options.source``, write the requested files, print progress.

    What cannot be read, received or drawn is printed and counted, and ends nothing else. Memory does not grow with the
    number of images.

    Raises:
        UserError: weights, source or an option is wrong, or the run folder cannot be written.
        KeyboardInterrupt: after Ctrl-C, when the files have been completed.
    """
    weights = locate_weights(options.weights)
    tiling_asked(options.tile, options.overlap)  # a mistake in them costs no loading
    device = pick_device(options.device)
    folder = Path(increment_path(Path(options.project) / options.name, exist_ok=options.exist_ok)).absolute()
    run = Run(folder, options)
    with ExitStack() as stack:
        # The source first: a mistake in it costs a second then, and not the loading of the model.
        source = open_source(options.source, run.skip, run.lose, folder, options.reconnect)
        files = files_of(source)
        if files and folder.exists() and (own := files.first_in(folder)):
            raise UserError(f"--project {options.project} --name {options.name}: expected a run folder without images of --source, got {own} in it, "
                            "which drawings and labels could replace; give another name")  # fmt: skip
        stack.callback(source.close)
        backend, trained_size = open_backend(weights, device, options.precision)
        plan = None if options.no_decision else find_plan(weights, options.decision, backend.names)
        settled = settle(options, backend, trained_size, plan)
        tell_precision(options.precision, backend.computes_in)
        if settled.tiling and isinstance(source, MediaSource) and not run.needs_pixels:
            source.read = read_large
        pictures = cut(source, settled)
        run.decider, run.sorter, run.doubts = settled.decider, sorter(options, folder, plan, files), settled.doubts
        options, size, lowest = settled.options, settled.size, settled.conf
        header = {"tandem": VERSION, "weights": weights.name, "imgsz": size, "conf": run.decider.conf if run.decider else lowest}
        run.heatmaps = heatmaps(settled, backend, folder / "heatmaps")
        run.open(backend.names, header)
        stack.callback(run.close)
        results = look(backend, pictures, settled)
        stack.callback(results.close)
        run.consume(results)
    if isinstance(pictures, TiledSource) and run.summary.images and not pictures.cut:
        print(f"--tile {pictures.tiling.side}: no image is larger than a tile; each was looked at whole, as without --tile")
    return run.summary


def heatmaps(settled: Settled, backend: AutoBackend, folder: Path) -> Heatmaps | None:
    """What draws heat maps of this model, None where nobody asked. Raises `UserError` where there are none of that kind."""
    options = settled.options
    if not options.heatmap:
        return None
    if options.tile:
        raise UserError("--heatmap: expected whole images, got tiles (of --tile or the plan), of which each tile has a map of its own; leave "
                        "one of them out")  # fmt: skip

    def boxes(pixels: torch.Tensor) -> np.ndarray:
        """(n, 6) x1 y1 x2 y2 score class, of low scores too, in an image (1, 3, H, W)."""
        end2end = getattr(backend, "end2end", False)
        with torch.inference_mode():
            kept = non_max_suppression(backend(pixels), 0.01, settled.iou, max_det=options.max_det, max_time_img=math.inf, end2end=end2end)
        table: np.ndarray = kept[0].cpu().numpy()
        return table

    network = backend.backend.model if backend.format == "pt" else None
    return Heatmaps(options.heatmap, network, boxes, backend.device, folder)


def files_of(source: Source) -> FileList | None:
    """The files that a source reads; None for streams."""
    return source.files if isinstance(source, MediaSource) and isinstance(source.files, FileList) else None


def sorter(options: DetectOptions, folder: Path, plan: Plan | None, files: FileList | None) -> Sorter | None:
    """What sorts the images by verdict, None where nobody asked. Raises `UserError`."""
    return Sorter(options.sort_into, folder, options.sort_copy, files) if plan and options.sort_into else None


def look(backend: AutoBackend, source: Source, settled: Settled) -> Generator[Results]:
    """Yield what is found in each image of a source, whole or in tiles (`cut`).

    A result with a `fault` says nothing about its image: it is to be treated as one that cannot be read.
    """
    options, conf, iou, in_tiles = settled.options, settled.conf, settled.iou, isinstance(source, TiledSource)
    options = replace(options, conf=found_from(conf) if in_tiles else conf, iou=iou)
    found: Generator[Results] = Predictor(backend, source, options, settled.size, settled.classes).stream_inference()
    return joined(found, conf, iou, options.agnostic_nms, options.max_det) if in_tiles else found
