"""Verdicts in a detection run: what is decided about each image, which boxes are reported, and where files are sorted."""

from __future__ import annotations

import os
import shutil
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np

from cfg.errors import UserError
from data.result_files import Detections
from engine.detection.items import Item
from inspection.plan import Plan
from inspection.rules import Code, Found, Verdict, decide

SORTED = (Code.OK, Code.NG, Code.REVIEW, Code.UNDEFINED)  # in the order of the folders of `--sort-into`


class Decider:
    """Decides about images and counts the verdicts.

    Args:
        plan: with thresholds for all classes.
        conf: lowest score that is reported; boxes that decide are reported anyway. None for the lowest limit of the plan.
    """

    def __init__(self, plan: Plan, conf: float | None) -> None:
        self.plan = plan
        self.conf = plan.lowest if conf is None else conf
        self.counts: Counter[Code] = Counter()

    @property
    def floor(self) -> float:
        """The lowest score that the predictor must keep; float32 may hold a score just below the plan's limit."""
        return max(0.0, min(self.conf, self.plan.lowest) - 1e-6)

    def judge(self, found: Detections) -> tuple[Detections, np.ndarray]:
        """Return the image's detections with the verdict, those that are reported; and which (N,) of the given ones these are."""
        verdict = decide(self.plan, Found(found.boxes_xyxy, found.scores, found.classes), found.height, found.width)
        self.counts[verdict.code] += 1
        kept = found.scores >= self.conf
        kept[verdict.boxes] = True
        rows = np.flatnonzero(kept)
        verdict = replace(verdict, boxes=np.searchsorted(rows, verdict.boxes))
        shown = replace(found, boxes_xyxy=found.boxes_xyxy[kept], scores=found.scores[kept], classes=found.classes[kept], verdict=verdict)
        return shown, kept

    def line(self) -> str:
        """One line for the end of a run."""
        total = self.counts.total()
        words = ", ".join(f"{self.counts[code]} {code.name}" for code in SORTED if self.counts[code] or code != Code.UNDEFINED)
        share = f" ({self.counts[Code.NG] / total:.1%} NG)" if total else ""
        return f"Verdicts: {words} of {total} images{share}"


class Sorter:
    """Puts a link to each image, or a copy of it, into the folder of its verdict; never moves or changes the image.

    Args:
        text: ``--sort-into``: folders for OK, NG, REVIEW and, with a fourth, for what could not be decided; separated by commas;
            relative ones lie in the run folder.
        folder: the run folder.
        copy: copies instead of links.
        roots: folders and files that are searched; no folder may lie in them, or the next run would find what this one sorted.

    Raises:
        UserError: another number of folders, two of one name, or one in a source.
    """

    def __init__(self, text: str, folder: Path, copy: bool, roots: list[str]) -> None:
        names = [name.strip() for name in text.split(",")]
        if len(names) not in (3, 4) or not all(names) or len(set(names)) < len(names):
            raise UserError(f"--sort-into {text}: expected three or four different folders, for OK, NG, REVIEW and undefined; as ok,ng,review")
        self.copy = copy
        self.folders = {code: Path(os.path.abspath(folder / name)) for code, name in zip(SORTED, names, strict=False)}
        for target in self.folders.values():
            for root in roots:
                if Path(root).is_dir() and target.resolve().is_relative_to(Path(root).resolve()):
                    raise UserError(f"--sort-into {text}: expected folders outside of --source {root}, got {target}: the next run would "
                                    "search what this one sorted; give another --project or folder")  # fmt: skip

    def put(self, path: Path, relative: Path, code: Code) -> None:
        """Link or copy one image. Raises OSError when that is not possible."""
        for other, folder in self.folders.items():
            old = folder / relative
            if (other != code and old.is_symlink()) or (other != code and self.copy and old.is_file()):
                old.unlink()  # of an earlier run in the same folder
        if code not in self.folders:
            return
        target = self.folders[code] / relative
        target.parent.mkdir(parents=True, exist_ok=True)
        target.unlink(missing_ok=True)
        if not self.copy:
            try:
                target.symlink_to(path)
                return
            except OSError as error:
                print(f"--sort-into: links are not possible here ({error.strerror}), copying", file=sys.stderr)
                self.copy = True
        shutil.copyfile(path, target)

    def take(self, item: Item, verdict: Verdict) -> None:
        """Sort the file of an image; frames of videos and streams are no files."""
        if item.kind == "image":
            self.put(item.path, Path(item.relative), verdict.code)
