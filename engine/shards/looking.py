"""A model that is loaded once and run on shard after shard, as detect.py runs on images."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path, PurePath
from typing import Any

from cfg.version import VERSION
from data.shards.folders import as_path, is_address, read_picture
from data.shards.parts import Rows
from engine.decision.plans import find_plan
from engine.detection.detect_run import detections
from engine.detection.options import DetectOptions
from engine.detection.pipeline import THREADS
from engine.detection.predictor import look
from engine.detection.settled import cut, settle
from engine.detection.sources import MediaSource
from engine.locate import locate_weights
from engine.weights import open_backend, pick_device, tell_precision
from inspection.identity import identify
from inspection.plan_file import plan_content
from inspection.tiles import tiling_asked

READERS = 16  # threads that fetch images of a store: most of the time they wait


class Numbers:
    """The images of a shard, called by their numbers in it: two may have one name."""

    def __init__(self, total: int) -> None:
        self.total = total

    def __iter__(self) -> Iterator[tuple[Path, PurePath]]:
        for number in range(self.total):
            yield Path(str(number)), PurePath(str(number))


def source_of(images: list[str], rows: Rows) -> MediaSource:
    """The images of a shard as a source; what cannot be read goes to the rows."""
    return MediaSource(
        Numbers(len(images)),
        skip=lambda number, reason: rows.errors.update({int(str(number)): reason}),
        lose=lambda number, reason: None,  # videos are not listed
        read=lambda number: read_picture(images[int(str(number))]),
        readers=READERS if any(map(is_address, images)) else THREADS,
    )


def absolute(sources: list[str]) -> list[str]:
    """The sources as they are called from any working folder."""
    return [source if is_address(source) else os.path.abspath(as_path(source)) for source in sources]


class Looker:
    """Weights, plan and options, ready to look at images.

    Args:
        options: of detect.py; of `source` only the names count, which are among the facts.

    Attributes:
        facts: all that the results depend on beside the images: a job's (`data.shards.manifest.Job`).

    Raises:
        UserError: weights, plan or options are wrong, or do not fit each other.
    """

    def __init__(self, options: DetectOptions) -> None:
        weights = locate_weights(options.weights)
        tiling_asked(options.tile, options.overlap)
        self.backend, trained = open_backend(weights, pick_device(options.device), options.precision)
        self.names: dict[int, str] = dict(self.backend.names)
        plan = None if options.no_decision else find_plan(weights, options.decision, self.names)
        self.settled = settled = settle(options, self.backend, trained, plan)
        tell_precision(options.precision, self.backend.computes_in)
        options, self.decider = settled.options, settled.decider
        model = identify(weights)
        facts = {
            "weights": f"{model.kind} {model.sha256}", "names": [self.names[index] for index in sorted(self.names)], "imgsz": settled.size,
            "source": absolute(options.source),
            "conf": self.decider.conf if self.decider else settled.conf,
            "iou": settled.iou, "max-det": options.max_det, "classes": settled.classes, "agnostic-nms": options.agnostic_nms,
            "precision": options.precision, "tile": options.tile, "overlap": settled.tiling.overlap if settled.tiling else None,
            "decision": plan_content(plan) if plan else None, "tandem": VERSION,
        } | ({"doubts": list(settled.doubts)} if settled.doubts else {})  # fmt: skip
        self.facts: dict[str, Any] = json.loads(json.dumps(facts))

    def rows(self, images: list[str]) -> Rows:
        """Look at the images of a shard. Raises `UserError` where a store does not answer."""
        rows = Rows(images, self.names, self.decider is not None)
        source = source_of(images, rows)
        with closing(look(self.backend, cut(source, self.settled), self.settled)) as results:
            for result in results:
                number, note = int(str(result.item.relative)), result.item.note
                if result.fault:
                    rows.errors[number] = result.fault
                    continue
                found = detections(result.cpu().numpy(), result.item)
                rows.found[number] = self.decider.judge(found, note)[0] if self.decider else found
                if note:
                    rows.notes[number] = note
        return rows
