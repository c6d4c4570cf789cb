"""The outcome of a detection run, and the text that ends it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from cfg.class_names import shown

STAGES = ("reading", "preprocess", "inference", "postprocess", "writing")


@dataclass
class Summary:
    """Outcome of a run: images seen, objects by class name, run folder, times, and what was not done.

    Attributes:
        skipped: files that could not be read.
        losses: files read in part only, and times that frames of a stream were lost.
        undrawn: images that were looked at but whose drawing is missing.
        undecided: images that were looked at but whose verdict is UNDEFINED.
        full: images with as many objects as ``--max-det`` allows, which may hold more.
        passed_over: frames of cameras that came while the network was busy with an earlier one.
        milliseconds: by stage. Stages overlap: images are read ahead and drawn behind, in threads that are not counted
            under writing.
        seconds: from the first image read to the last file written, without loading the model.
        verdicts: how many there are of each, where there is a decision plan.
    """

    folder: Path
    images: int = 0
    skipped: int = 0
    losses: int = 0
    undrawn: int = 0
    undecided: int = 0
    full: int = 0
    passed_over: int = 0
    objects: Counter[str] = field(default_factory=Counter)
    milliseconds: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    verdicts: str = ""

    @property
    def complete(self) -> bool:
        """Whether every image was inspected and, if requested, decided about and drawn."""
        return not (self.skipped or self.losses or self.undrawn or self.undecided)

    def lines(self) -> list[str]:
        """Return the text that ends a run."""
        classes = ", ".join(f"{shown(name)} {number}" for name, number in self.objects.most_common()) or "none"
        text = [f"{self.images} images, {self.objects.total()} objects: {classes}"]
        if self.images:
            parts = (f"{self.milliseconds[stage] / self.images:.1f} ms {stage}" for stage in STAGES)
            text.append(f"Speed: {', '.join(parts)} per image; {self.images / self.seconds:.1f} images/s")
        if self.passed_over:
            text.append(f"Cameras: {self.passed_over} more frames came while the network was busy with an earlier one")
        if self.full:
            text.append(f"Full: {self.full} images with as many objects as --max-det allows; they may hold more")
        if self.skipped:
            text.append(f"Skipped: {self.skipped} unreadable, listed above")
        if self.losses:
            text.append(f"Images lost: {self.losses} times, listed above")
        if self.undrawn:
            text.append(f"Not drawn: {self.undrawn} images, listed above; their results are complete")
        if self.undecided:
            text.append(f"Undecided: {self.undecided} images, listed above as UNDEFINED with the reason")
        if self.verdicts:
            text.append(self.verdicts)
        return [*text, f"Results: {self.folder}"]
