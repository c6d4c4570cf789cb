"""What a job has found, in lines, and the same over all shards as the files that detect.py writes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cfg.class_names import shown
from data.result_files import CocoWriter, CsvWriter, Detections, JsonWriter, Writer
from data.shards.folders import is_address
from data.shards.manifest import Job
from data.shards.parts import Row, part_facts, part_name
from inspection.binomial import interval
from inspection.rules import Code

WRITERS = {"json": (JsonWriter, "results.json"), "csv": (CsvWriter, "results.csv"), "coco": (CocoWriter, "coco.json")}
MOST_NAMED = 10  # shards, and reasons


@dataclass
class Summary:
    """Counts over the shards of a job that are done.

    Attributes:
        images: rows; `errors` of them could not be read, `notes` were looked at in part, `undecided` could be read and are UNDEFINED.
        found_in: images in which something was found.
        objects: by class name. verdicts: by name. reasons: of errors.
        seconds: of all workers together, without loading the model.
    """

    job: Job
    missing: list[int] = field(default_factory=list)
    images: int = 0
    errors: int = 0
    notes: int = 0
    undecided: int = 0
    found_in: int = 0
    objects: Counter[str] = field(default_factory=Counter)
    verdicts: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    workers: set[str] = field(default_factory=set)

    def add(self, row: Row) -> None:
        """Count one image."""
        self.images += 1
        self.notes += row.note is not None
        if row.verdict:
            self.verdicts[row.verdict.code.name] += 1
        if row.error is not None:
            self.errors += 1
            self.reasons[row.error if len(self.reasons) < 1000 else "other"] += 1
            return
        self.undecided += row.verdict is not None and row.verdict.code == Code.UNDEFINED
        self.found_in += len(row.found.classes) > 0
        self.objects.update(row.found.classes.tolist())

    def add_shard(self, shard: int) -> bool:
        """Note a shard's facts; False, and noted as missing, where it is not done."""
        facts = part_facts(self.job, shard)
        if facts is None:
            self.missing.append(shard)
            return False
        self.seconds += facts["seconds"]
        self.workers.add(facts["worker"])
        return True

    @property
    def complete(self) -> bool:
        """Whether every image of the job was looked at and, with a plan, decided about."""
        return not (self.missing or self.errors or self.notes or self.undecided)

    def lines(self) -> list[str]:
        """The text of the summary."""
        job, looked_at = self.job, self.images - self.errors
        names = job.facts["names"]
        objects = ", ".join(f"{shown(names[index])} {number:,}" for index, number in self.objects.most_common()) or "none"
        text = [f"{job.folder.place}: {job.images:,} images in {job.shards} shards, {job.shards - len(self.missing)} of them done",
                f"Looked at: {looked_at:,} images; in {self.found_in:,} of them {self.objects.total():,} objects: {objects}"]  # fmt: skip
        if self.verdicts:
            text.append(self._verdicts())
        if self.errors:
            reasons = ", ".join(f"{number:,} {reason}" for reason, number in self.reasons.most_common(MOST_NAMED))
            text.append(f"Unreadable: {self.errors:,} images: {reasons}")
        if self.notes:
            text.append(f"Read in part: {self.notes:,} files of several images, of which only the first was looked at; see the column note")
        if self.undecided:
            text.append(f"Undecided: {self.undecided:,} images with the verdict UNDEFINED; see the column rule")
        if self.images and self.seconds:
            each = self.seconds / self.images
            text.append(f"Time: {1e3 * each:.1f} ms per image and worker, {len(self.workers)} workers; {1e6 * each / 3600:.1f} hours for a million")
        if self.missing:
            some = ", ".join(part_name(shard) for shard in self.missing[:MOST_NAMED])
            more = f" and {len(self.missing) - MOST_NAMED} more" if len(self.missing) > MOST_NAMED else ""
            text.append(f"Missing: {len(self.missing)} shards ({some}{more}); the command that began the job goes on with them")
        return text

    def _verdicts(self) -> str:
        words = ", ".join(f"{self.verdicts[code.name]:,} {code.name}" for code in (Code.OK, Code.NG, Code.REVIEW, Code.UNDEFINED)
                          if self.verdicts[code.name] or code in (Code.OK, Code.NG))  # fmt: skip
        decided = sum(self.verdicts[code.name] for code in (Code.OK, Code.NG, Code.REVIEW))
        if not decided:
            return f"Verdicts: {words}"
        low, high = interval(self.verdicts["NG"], decided, 0.95)
        return f"Verdicts: {words}; NG rate {self.verdicts['NG'] / decided:.2%} (95 % interval {low:.2%} to {high:.2%})"


def open_writers(kinds: Iterable[str], folder: Path, job: Job) -> list[Writer]:
    """The requested result files. Raises OSError."""
    names = dict(enumerate(job.facts["names"]))
    header = {"tandem": job.facts["tandem"], "weights": job.facts["weights"], "imgsz": job.facts["imgsz"], "conf": job.facts["conf"]}
    decided = job.facts["decision"] is not None
    given: dict[str, tuple[Any, ...]] = {"json": (names, header, decided), "csv": (names, decided), "coco": (names, header)}
    return [WRITERS[kind][0](folder / WRITERS[kind][1], *given[kind]) for kind in kinds]


def write_row(writers: Iterable[Writer], row: Row) -> None:
    """Hand one image to the result files."""
    path = Path(row.image)
    for writer in writers:
        if row.error is not None:
            writer.skip(row.image, row.error)
            continue
        found = row.found
        image = Detections(path, path, None, row.height, row.width, found.boxes_xyxy, found.scores, found.classes, row.verdict,
                           row.image if is_address(row.image) else "")  # fmt: skip
        writer.add(image)
        if row.note is not None:
            writer.note(image, row.note)
