"""`--report`: the HTML report of a detection run, image by image, and of a validation."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import numpy as np

from cfg.class_names import shown
from cfg.version import VERSION
from data.decode import Unreadable
from data.images import read_pixels
from data.review.suspects import Objects, find_suspects
from engine.validation.coco_metrics import Boxes, as_found
from inspection.evidence import Image, defective
from inspection.plan import Plan
from inspection.report.content import UNEVENTFUL, Content, Seen
from inspection.report.page import promise_lines, write_report
from inspection.report.thumbnails import Thumbnails
from inspection.rules import Found, Verdict, decide

FILE, PICTURES = "report.html", "report-pictures"
SHOWN = 0.25  # lowest score of the boxes that a report of a validation shows without a plan, as in detect.py
WEAKEST = 0.05  # with one: boxes far below every limit tell nothing


class RunReport:
    """Collects what a run sees and writes ``report.html`` when it is closed.

    Args:
        folder: of the run.
        title: of the page.
        names: class names of the model.
        facts: (what, value) of the run.
        plan: decides about each image that comes without a verdict; None for no decisions.
        promise: sentences about what is promised (default: those of the plan).
        doubts: why the plan's promise does not hold in this run.
    """

    def __init__(self, folder: Path, title: str, names: Mapping[int, str], facts: Mapping[str, str], plan: Plan | None,
                 promise: Sequence[str] = (), doubts: Sequence[str] = ()) -> None:  # fmt: skip
        self.promise = promise or (promise_lines(plan, doubts) if plan else ())
        self.path, self.title, self.plan = folder / FILE, title, plan
        self.names = [names[index] for index in sorted(names)]
        self.facts = [*facts.items(), *_about_plan(plan), ("Tandem", VERSION), ("Python", platform.python_version()),
                      ("written", f"{datetime.now():%Y-%m-%d %H:%M}")]  # fmt: skip
        self.thumbnails = Thumbnails(folder / PICTURES)
        self.seen: list[Seen] = []
        self.skipped: list[tuple[str, str]] = []

    def add(self, name: str, pixels_bgr: np.ndarray, found: Found, verdict: Verdict | None = None) -> None:
        """Take one image (H, W, 3) with the boxes found in it. Raises OSError when the disk refuses."""
        height, width = pixels_bgr.shape[:2]
        if verdict is None and self.plan is not None:
            verdict = decide(self.plan, found, height, width)
        picture = Seen(name, height, width, found, verdict)
        thumbnail = "" if picture.group in UNEVENTFUL else self.thumbnails.add(pixels_bgr)
        self.seen.append(replace(picture, thumbnail=thumbnail))

    def skip(self, source: Path | str, reason: str) -> None:
        """Note what could not be looked at."""
        self.skipped.append((str(source), reason))

    def close(self, suspects: Sequence[tuple[str, str]] = ()) -> Path:
        """Write the page; return its path. Raises OSError when the disk refuses."""
        content = Content(self.title, self.names, self.seen, self.plan, self.promise, self.facts, suspects, self.skipped)
        write_report(self.path, content, self.thumbnails)
        return self.path


def report_validation(report: RunReport, images: Sequence[Image], files: Sequence[str]) -> Path:
    """Write the report of labelled images; images are read again for those that are shown.

    Args:
        report: empty.
        images: labels and found boxes, down to a low score.
        files: where the images lie, in the same order.
    """
    images = [replace(image, name=name) for image, name in zip(images, short_names(files), strict=True)]
    for image, file in zip(images, files, strict=True):
        verdict = decide(report.plan, image.found, image.height, image.width) if report.plan else None
        found, verdict = _above(image.found, verdict)
        ng = bool(defective(report.plan, image).any()) if report.plan else len(image.labels.classes) > 0
        picture = Seen(image.name, image.height, image.width, found, verdict, image.labels, ng)
        thumbnail = "" if picture.group in UNEVENTFUL else _thumbnail(report, file)
        report.seen.append(replace(picture, thumbnail=thumbnail))
    return report.close(_suspects(images, report.names))


def short_names(files: Sequence[str]) -> list[str]:
    """Paths below the folder that holds all the images; in full where there is none, on several drives."""
    paths = [Path(file).parent.resolve() / Path(file).name for file in files]
    try:
        common = os.path.commonpath([path.parent for path in paths])
    except ValueError:
        return [path.as_posix() for path in paths]
    return [path.relative_to(common).as_posix() for path in paths]


def labelled_images(files: Sequence[str], shapes: Sequence[tuple[int, int]], truths: Sequence[Boxes],
                    found: Sequence[Boxes]) -> list[Image]:  # fmt: skip
    """What a validation kept, as `inspection` takes it. `shapes`: (height, width) in pixels of each image."""
    images = []
    for file, (height, width), truth, boxes in zip(files, shapes, truths, found, strict=True):
        images.append(Image(Path(file).name, height, width, as_found(truth), as_found(boxes)))
    return images


def _above(found: Found, verdict: Verdict | None) -> tuple[Found, Verdict | None]:
    """The boxes that are shown, and the verdict with the indices that its boxes have among them."""
    keep = found.scores >= (SHOWN if verdict is None else WEAKEST)
    if verdict is not None:
        keep[verdict.boxes] = True
        verdict = replace(verdict, boxes=(np.cumsum(keep) - 1)[verdict.boxes])
    return Found(found.boxes_xyxy[keep], found.scores[keep], found.classes[keep]), verdict


def _thumbnail(report: RunReport, file: str) -> str:
    try:
        return report.thumbnails.add(read_pixels(Path(file)))
    except Unreadable as error:
        print(f"report: no image of {file}: {error}", file=sys.stderr)
        return ""


def _suspects(images: Sequence[Image], names: Sequence[str]) -> list[tuple[str, str]]:
    labels, found = ([Objects(b.boxes_xyxy, b.classes, b.scores) for b in boxes] for boxes in
                     ([image.labels for image in images], [image.found for image in images]))  # fmt: skip
    told = []
    for suspect in find_suspects(labels, found, len(names)):
        objects, index = (found, suspect.found) if suspect.label is None else (labels, suspect.label)
        name = shown(names[int(objects[suspect.image].classes[index])])
        told.append((images[suspect.image].name, f"{suspect.kind}: {name}, suspicion {suspect.suspicion:.2f}"))
    return told


def _about_plan(plan: Plan | None) -> list[tuple[str, str]]:
    if plan is None:
        return []
    limits = ", ".join(f"{shown(name)} {t:.4g}" for name, t in zip(plan.names, plan.thresholds, strict=True) if t <= 1)
    facts = [("thresholds", limits)]
    if plan.model:
        facts.append(("model file", f"{plan.model.kind}, SHA-256 {plan.model.sha256[:16]}"))
    if plan.promise:
        facts.append(("plan made on", f"{plan.promise.data} {plan.promise.split}, {plan.promise.date}"))
    return facts
