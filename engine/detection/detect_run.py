"""The output side of a detection run: drawings, result files, lines on the screen, summary."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path, PurePath
from time import perf_counter
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np

from cfg.class_names import shown
from cfg.errors import UserError
from data.result_files import CocoWriter, CsvWriter, Detections, JsonWriter, LabelWriter, Writer
from data.streams.addresses import is_stream
from engine.detection.deciding import Decider, Sorter
from engine.detection.drawings import Draw, Drawings, attempt
from engine.detection.items import Item
from engine.detection.listing import MEDIA_SUFFIXES
from engine.detection.options import DetectOptions
from engine.detection.summary import Summary
from engine.heatmaps.pictures import Heatmaps
from engine.plots import drawable
from inspection.rules import Code, Found

from ultralytics.engine.results import Results
from ultralytics.utils.checks import check_imshow

if TYPE_CHECKING:  # few runs write a report
    from engine.reporting import RunReport

ENDED_EARLY = "the run ended before all of it was looked at"


class Run:
    """Takes the results of one run and writes, prints and counts them.

    Args:
        folder: run folder, made by `open`.
        options: what to write.

    Attributes:
        decider, sorter: what decides about the images and sorts them, None for neither; to be set before `open`.
        doubts: why the plan's promise does not hold in this run; to be set before `open`.
    """

    decider: Decider | None = None
    sorter: Sorter | None = None
    doubts: tuple[str, ...] = ()

    def __init__(self, folder: Path, options: DetectOptions) -> None:
        self.folder, self.options = folder, options
        self.summary = Summary(folder)
        self.writers: list[Writer] = []
        self.drawings = Drawings(folder, self.undrawn) if options.draw else None
        self.view = options.view and check_imshow(warn=True)
        self.last_frames: dict[PurePath, int] = {}
        self.last_undrawn = ("", "")
        self.began = perf_counter()
        self.drawn_names: dict[int, str] = {}
        self.report: RunReport | None = None
        self.finished = False  # whether all of the source was looked at
        self.heatmaps: Heatmaps | None = None

    def open(self, names: dict[int, str], header: dict[str, Any]) -> None:
        """Make the folder and start the result files. Raises `UserError` when that is not possible."""
        chosen, folder, decided = self.options, self.folder, self.decider is not None
        self.drawn_names = drawable(names)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if chosen.save_txt:
                self.writers.append(LabelWriter(folder / "labels", MEDIA_SUFFIXES, chosen.save_conf))
            if chosen.save_json:
                self.writers.append(JsonWriter(folder / "results.json", names, header, decided))
            if chosen.save_csv:
                self.writers.append(CsvWriter(folder / "results.csv", names, decided))
            if chosen.save_coco:
                self.writers.append(CocoWriter(folder / "coco.json", names, header))
            if chosen.report:
                from engine.reporting import RunReport

                facts = {"model": str(header["weights"]), "source": ", ".join(chosen.source)}
                facts |= {"input size": "x".join(map(str, header["imgsz"])), "lowest score": f"{header['conf']:g}"}
                plan = self.decider.plan if self.decider else None
                self.report = RunReport(folder, "Inspection report", names, facts, plan, doubts=self.doubts)
        except OSError as error:
            raise self._unwritable(error) from None
        self.began = perf_counter()

    @property
    def needs_pixels(self) -> bool:
        """Whether anything is drawn on whole images, which then must be held."""
        chosen = self.options
        return bool(chosen.draw or chosen.view or chosen.report or chosen.heatmap)

    def skip(self, source: Path | str, reason: str) -> None:
        """Report, note and count a file that cannot be read."""
        print(f"skipped {source}: {reason}", flush=True)
        self.summary.skipped += 1
        if self.report:
            self.report.skip(source, reason)
        if self.decider:
            self.decider.counts[Code.UNDEFINED] += 1
        if self.sorter:
            self.sorter.skip(Path(source))
        for writer in self.writers:
            writer.skip(source, reason)

    def lose(self, source: Path | str, reason: str) -> None:
        """Report, note and count that not all frames of a video or stream came."""
        self._tell_loss(source, reason)
        for writer in self.writers:
            writer.skip(source, reason)

    def _tell_loss(self, source: Path | str, reason: str) -> None:
        print(f"{source}: {reason}", flush=True)
        self.summary.losses += 1
        if self.report:
            self.report.skip(source, reason)

    def undrawn(self, source: str, reason: str, number: int = 1) -> None:
        """Count images whose drawing is missing; report a reason once where a video repeats it."""
        if (source, reason) != self.last_undrawn:
            print(f"not drawn {source}: {reason}", flush=True)
        self.last_undrawn = source, reason
        self.summary.undrawn += number

    def consume(self, results: Iterator[Results]) -> None:
        """Write every result as it comes. Raises `UserError` when the folder cannot be written."""
        try:
            for result in results:
                if not self._take(result):
                    break
            else:
                self.finished = True
        except OSError as error:
            raise self._unwritable(error) from None

    def _take(self, result: Results) -> bool:
        """Write one result; False when the viewer was closed with q."""
        began = perf_counter()
        item: Item = result.item
        if result.fault:
            self.skip(item.path, result.fault)
            return True
        plain = result.cpu().numpy()  # no tensors in the threads that draw
        found = detections(plain, item)
        full = len(found.classes) >= self.options.max_det
        if self.decider:
            found, kept = self.decider.judge(found, item.note)
            plain = plain[kept]
        if self.sorter and found.verdict:
            self.sorter.take(item, found.verdict)
        plain.names = self.drawn_names
        for writer in self.writers:
            writer.add(found)
            if item.note:
                writer.note(found, item.note)
        if item.note:
            self._tell_loss(item.path, item.note)
        if self.report:
            place = found.relative.as_posix() + (f" #{found.frame}" if found.frame is not None else "")
            self.report.add(place, result.orig_img, Found(found.boxes_xyxy, found.scores, found.classes), found.verdict)
        if self.heatmaps:
            drawn = attempt(partial(self.heatmaps.drawn, item, result.orig_img, found))
            if isinstance(drawn, str):
                self.undrawn(item.source, f"heat map: {drawn}")
            else:
                self.heatmaps.save(item, drawn)
        goes_on = self._draw(item, partial(plain.plot, line_width=self.options.line_width))
        self._count_passed_over(item)
        self.summary.images += 1
        self.summary.undecided += bool(found.verdict and found.verdict.code == Code.UNDEFINED)
        self.summary.full += full
        self.summary.objects.update(result.names[int(index)] for index in found.classes)
        writing = (perf_counter() - began) * 1e3
        self.summary.milliseconds.update({**result.speed, "reading": item.seconds * 1e3, "writing": writing})
        print(line(result, found), flush=True)
        return goes_on

    def _draw(self, item: Item, draw: Draw) -> bool:
        """Show and save a drawing, as requested; False when q was pressed in the viewer. No failure ends the run."""
        goes_on = True
        if self.view:
            drawing = attempt(draw)
            if isinstance(drawing, str):
                self.undrawn(item.source, drawing)
                return True
            draw = partial(np.asarray, drawing)
            told = attempt(partial(show, item, drawing))
            if isinstance(told, str):
                print(f"--view: switched off, the window failed ({told})", flush=True)
            self.view, goes_on = not isinstance(told, str), told is not False
        if self.drawings:
            self.drawings.save(item, draw)
        return goes_on

    def _count_passed_over(self, item: Item) -> None:
        if item.kind == "stream" and item.frame is not None:
            self.summary.passed_over += item.frame - 1 - self.last_frames.get(item.relative, item.frame - 1)
            self.last_frames[item.relative] = item.frame

    def close(self) -> None:
        """Complete all files, also after an error, and print the summary."""
        try:
            if not self.finished and not any(map(is_stream, self.options.source)):  # a stream ends when it is stopped
                for source in self.options.source:
                    self.lose(source, ENDED_EARLY)
            for writer in self.writers:
                writer.close()
            if self.drawings:
                self.drawings.close()
            if self.report:
                print(f"Report: {self.report.close()}")
        except OSError as error:
            raise self._unwritable(error) from None
        finally:
            if self.view:
                cv2.destroyAllWindows()
            self.summary.seconds = perf_counter() - self.began
            self.summary.verdicts = self.decider.line() if self.decider else ""
            print("\n".join(self.summary.lines()), flush=True)

    def _unwritable(self, error: OSError) -> UserError:
        reason = error.strerror or error
        return UserError(f"{self.folder}: cannot be written ({reason}); free space or give another --project")


def line(result: Results, found: Detections) -> str:
    """Return the progress line of an image: place, size of the network's input, objects by class, inference time."""
    per_class = Counter(found.classes.tolist())
    counted = (f"{per_class[index]} {shown(result.names[index])}" for index in sorted(per_class))
    objects = ", ".join(counted) or "(no detections)"
    if found.verdict:
        objects += f" -> {found.verdict.code.name}: {found.verdict.rule}"
    height, width = result.input_size
    return f"{result.item.label} {result.item.source}: {height}x{width} {objects}, {result.speed['inference']:.1f}ms"


def show(item: Item, drawing_bgr: np.ndarray) -> bool:
    """Show a drawing in a window; False when q was pressed. An image stays for 0.3 s."""
    cv2.imshow(item.source if item.kind == "stream" else str(item.relative), drawing_bgr)
    return cv2.waitKey(300 if item.kind == "image" else 1) & 0xFF != ord("q")


def detections(result: Results, item: Item) -> Detections:
    """Return the plain numbers of an ultralytics result that holds arrays."""
    boxes = result.boxes
    height, width = result.orig_shape
    return Detections(
        path=item.path,
        relative=item.relative,
        frame=item.frame,
        height=height,
        width=width,
        boxes_xyxy=boxes.xyxy,
        scores=boxes.conf,
        classes=boxes.cls.astype(int),
    )
