"""Detection on images, videos and streams, written as it goes: what detect.py does."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

import cv2
import numpy as np

import models.environment  # noqa: F401  (must run before ultralytics is imported)
from cfg.errors import UserError, nearest
from cfg.version import VERSION
from engine.drawings import Drawings
from engine.results_files import CocoWriter, CsvWriter, Detections, JsonWriter, LabelWriter, Writer
from engine.sources import MEDIA_SUFFIXES, Item, MediaSource, StreamSource, open_source
from engine.weights import locate_weights, open_backend, pick_device
from ultralytics.engine.results import Results
from ultralytics.models.yolo.detect import DetectionPredictor
from ultralytics.nn.autobackend import AutoBackend
from ultralytics.utils.checks import check_imshow
from ultralytics.utils.files import increment_path

STAGES = ("preprocess", "inference", "postprocess")


@dataclass
class DetectOptions:
    """What detect.py was asked for; the fields are its arguments."""

    weights: str
    source: list[str]
    imgsz: list[int] | None = None
    conf: float = 0.25
    iou: float = 0.45
    max_det: int = 300
    device: str = ""
    batch: int = 1
    classes: list[str] | None = None
    agnostic_nms: bool = False
    half: bool = False
    save_txt: bool = False
    save_conf: bool = False
    save_json: bool = False
    save_csv: bool = False
    save_coco: bool = False
    draw: bool = True
    line_width: int | None = None
    project: str = "runs/detect"
    name: str = "exp"
    exist_ok: bool = False
    view: bool = False


@dataclass
class Summary:
    """Outcome of a run: pictures seen, objects by class name, skipped sources, milliseconds by stage, run folder."""

    folder: Path
    images: int = 0
    skipped: int = 0
    objects: Counter[str] = field(default_factory=Counter)
    milliseconds: Counter[str] = field(default_factory=Counter)

    def lines(self) -> list[str]:
        """Return the text that ends a run."""
        classes = ", ".join(f"{name} {number}" for name, number in self.objects.most_common()) or "none"
        text = [f"{self.images} images, {self.objects.total()} objects: {classes}"]
        if self.images:
            parts = (f"{self.milliseconds[stage] / self.images:.1f} ms {stage}" for stage in (*STAGES, "writing"))
            text.append(f"Speed: {', '.join(parts)} per image")
        if self.skipped:
            text.append(f"Skipped: {self.skipped} unreadable, listed above")
        return [*text, f"Results: {self.folder}"]


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
        source: MediaSource | StreamSource,
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

    def setup_source(self, source: Any = None, stride: int | None = None) -> None:
        """Use the source and size given at construction; called by `stream_inference`."""
        self.dataset, self.source_type = self.media, self.media.source_type

    def construct_results(self, preds: list[Any], img: Any, orig_imgs: list[np.ndarray]) -> list[Results]:
        """As the base class, with `item` and the network's `input_size` (height, width) on each result."""
        results = super().construct_results(preds, img, orig_imgs)
        for result, item in zip(results, self.batch[2], strict=True):
            result.item, result.input_size = item, tuple(img.shape[2:])
        return results


def detect(options: DetectOptions) -> Summary:
    """Run detection over everything in ``options.source``, write what was asked for, print as it goes.

    Unreadable pictures are printed, skipped and counted. Memory does not grow with the number of pictures.

    Raises:
        UserError: weights, source or an option is wrong, or the run folder cannot be written.
        KeyboardInterrupt: after Ctrl-C, when the files have been completed.
    """
    weights = locate_weights(options.weights)
    device = pick_device(options.device)
    folder = Path(increment_path(Path(options.project) / options.name, exist_ok=options.exist_ok)).absolute()
    run = Run(folder, options)
    with ExitStack() as stack:
        # The source first: a mistake in it costs a second then, and not the loading of the model.
        source = open_source(options.source, options.batch, run.skip, exclude=folder)
        stack.callback(getattr(source, "close", _nothing))
        backend, trained_size = open_backend(weights, device, options.half)
        _announce_half(options, backend)
        if isinstance(source, MediaSource):
            source.batch = _batch(options.batch, backend)
        size = input_size(options.imgsz, trained_size, backend)
        classes = class_indices(options.classes, backend.names)
        predictor = Predictor(backend, source, options, size, classes)
        run.open(backend.names, {"tandem": VERSION, "weights": weights.name, "imgsz": size, "conf": options.conf})
        stack.callback(run.close)
        results = predictor.stream_inference()
        stack.callback(results.close)
        run.consume(results)
    return run.summary


def _nothing() -> None:
    """Close a source that has nothing to close."""


class Run:
    """The output side of one run: drawings, result files, lines on the screen, summary.

    Args:
        folder: run folder, made by `open`.
        options: what to write.
    """

    def __init__(self, folder: Path, options: DetectOptions) -> None:
        self.folder, self.options = folder, options
        self.summary = Summary(folder)
        self.writers: list[Writer] = []
        self.drawings = Drawings(folder) if options.draw else None
        self.view = options.view and check_imshow(warn=True)

    def open(self, names: dict[int, str], header: dict[str, Any]) -> None:
        """Make the folder and start the result files. Raises `UserError` when that is not possible."""
        chosen, folder = self.options, self.folder
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if chosen.save_txt:
                self.writers.append(LabelWriter(folder / "labels", MEDIA_SUFFIXES, chosen.save_conf))
            if chosen.save_json:
                self.writers.append(JsonWriter(folder / "results.json", names, header))
            if chosen.save_csv:
                self.writers.append(CsvWriter(folder / "results.csv", names))
            if chosen.save_coco:
                self.writers.append(CocoWriter(folder / "coco.json", names, header))
        except OSError as error:
            raise self._unwritable(error) from None

    def skip(self, path: Path, reason: str) -> None:
        """Report, note and count a picture that cannot be read."""
        print(f"skipped {path}: {reason}", flush=True)
        self.summary.skipped += 1
        for writer in self.writers:
            writer.skip(path, reason)

    def consume(self, results: Iterator[Results]) -> None:
        """Write every result as it comes. Raises `UserError` when the folder cannot be written."""
        try:
            for result in results:
                if not self._take(result):
                    break
        except OSError as error:
            raise self._unwritable(error) from None

    def _take(self, result: Results) -> bool:
        """Write one result; False when the viewer was closed with q."""
        began = perf_counter()
        item: Item = result.item
        found = detections(result)
        for writer in self.writers:
            writer.add(found)
        drawing = result.plot(line_width=self.options.line_width) if self.drawings or self.view else None
        if self.drawings:
            self.drawings.save(item, drawing)
        self.summary.images += 1
        self.summary.objects.update(result.names[int(index)] for index in found.classes)
        self.summary.milliseconds.update({**result.speed, "writing": (perf_counter() - began) * 1e3})
        print(line(result, found), flush=True)
        return not self.view or show(item, drawing)

    def close(self) -> None:
        """Complete all files, also after an error, and print the summary."""
        try:
            for part in (*self.writers, *([self.drawings] if self.drawings else [])):
                part.close()
        except OSError as error:
            raise self._unwritable(error) from None
        finally:
            if self.view:
                cv2.destroyAllWindows()
            print("\n".join(self.summary.lines()), flush=True)

    def _unwritable(self, error: OSError) -> UserError:
        return UserError(f"{self.folder}: cannot be written ({error.strerror or error}); free space or give another --project")


def line(result: Results, found: Detections) -> str:
    """Return the progress line of a picture: what it is, size of the network's input, objects by class, inference time."""
    per_class = Counter(found.classes.tolist())
    objects = ", ".join(f"{per_class[index]} {result.names[index]}" for index in sorted(per_class)) or "(no detections)"
    height, width = result.input_size
    return f"{result.item.label} {result.item.path}: {height}x{width} {objects}, {result.speed['inference']:.1f}ms"


def show(item: Item, drawing_bgr: np.ndarray) -> bool:
    """Show a drawing in a window; False when q was pressed. An image stays for 0.3 s."""
    cv2.imshow(str(item.path if item.kind == "stream" else item.relative), drawing_bgr)
    return cv2.waitKey(300 if item.kind == "image" else 1) & 0xFF != ord("q")


def detections(result: Results) -> Detections:
    """Return the plain numbers of an ultralytics result."""
    boxes = result.boxes.cpu().numpy()
    height, width = result.orig_shape
    return Detections(
        path=result.item.path,
        relative=result.item.relative,
        frame=result.item.frame,
        height=height,
        width=width,
        boxes_xyxy=boxes.xyxy,
        scores=boxes.conf,
        classes=boxes.cls.astype(int),
    )


def input_size(asked: list[int] | None, trained: list[int], backend: AutoBackend) -> list[int]:
    """Return (height, width) of the network's input and print where it differs from what was asked.

    Args:
        asked: ``--imgsz``; None for the size the model was trained or exported with.
        trained: that size.
        backend: a fixed-size export keeps its own size, everything else takes multiples of its stride.
    """
    if backend.format != "pt" and not backend.dynamic:
        fixed = square(trained)
        if asked is not None and square(asked) != fixed:
            print(f"--imgsz {asked}: the exported model is fixed at {fixed}, which is used; export with --dynamic for others")
        return fixed
    size = square(asked or trained)
    rounded = round_up(size, int(backend.stride))
    if rounded != size:
        print(f"--imgsz {size}: not a multiple of the model's largest stride {int(backend.stride)}, using {rounded}")
    return rounded


def square(size: list[int]) -> list[int]:
    """Return (height, width) from one or two sides."""
    return [size[0], size[-1]]


def round_up(size: list[int], stride: int) -> list[int]:
    """Return each side rounded up to a multiple of the stride."""
    return [math.ceil(side / stride) * stride for side in size]


def class_indices(chosen: list[str] | None, names: dict[int, str]) -> list[int] | None:
    """Return the indices of classes given by index or name. Raises `UserError` on an unknown one."""
    if chosen is None:
        return None
    by_name = {name: index for index, name in names.items()} | {str(index): index for index in names}
    for given in chosen:
        if given not in by_name:
            known = ", ".join(f"{index} {name}" for index, name in names.items())
            hint = nearest(given, names.values())
            raise UserError(f"--classes {given}: expected an index or name of the model's classes ({known}){hint}")
    return [by_name[given] for given in chosen]


def _announce_half(options: DetectOptions, backend: AutoBackend) -> None:
    if options.half and not backend.fp16:
        print("--half: not possible with these weights on this device, running in float32")


def _batch(asked: int, backend: AutoBackend) -> int:
    """Return the batch size: a fixed-size export takes no more pictures at once than it was exported for."""
    fixed = backend.format != "pt" and not backend.dynamic
    if fixed and asked > backend.batch:
        print(f"--batch {asked}: the exported model takes {backend.batch} at once, which is used; export with --batch")
    return min(asked, backend.batch) if fixed else asked
