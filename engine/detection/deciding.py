"""Verdicts in a detection run: what is decided about each image, which boxes are reported, and where files are sorted."""

from __future__ import annotations

import errno
import filecmp
import hashlib
import os
import shutil
import sys
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from pathlib import Path, PurePath
from typing import Any

import numpy as np

from cfg.errors import UserError
from data.result_files import Detections
from engine.detection.items import Item
from engine.detection.listing import FileList
from inspection.plan import Plan
from inspection.rules import Code, Found, Verdict, decide, undefined

SORTED = (Code.OK, Code.NG, Code.REVIEW, Code.UNDEFINED)  # in the order of the folders of `--sort-into`

COPIES = ".tandem-copies"  # in a folder of `--sort-copy`: the copies there, by relative path, a line each
TEXT: dict[str, Any] = {"encoding": "utf-8", "errors": "surrogateescape"}


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

    def judge(self, found: Detections, note: str = "") -> tuple[Detections, np.ndarray]:
        """Return the image's detections with the verdict, those that are reported; and which (N,) of the given ones these are.

        Args:
            note: what of the file was not looked at; such an image is never OK.
        """
        verdict = decide(self.plan, Found(found.boxes_xyxy, found.scores, found.classes), found.height, found.width)
        verdict = undefined(note) if note and verdict.code == Code.OK else verdict
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
    """Puts a link to each image, or a copy of it, into the folder of its verdict; never moves, changes or replaces a file.

    What an earlier run put there of the same image goes from the other folders: links to it, and copies, of which each folder keeps a
    list (`COPIES`). Where a file of another kind or image has its name, it is called NAME-DIGEST.

    Args:
        text: ``--sort-into``: folders for OK, NG, REVIEW and, with a fourth, for what could not be decided; separated by commas;
            relative ones lie in the run folder.
        folder: the run folder.
        copy: copies instead of links.
        files: what is searched, None for streams. No folder may lie in a source, or the next run would find what this one sorted, nor
            hold an image of it.

    Raises:
        UserError: another number of folders, two of one name, or one in a source or with an image of it.
    """

    def __init__(self, text: str, folder: Path, copy: bool, files: FileList | None) -> None:
        names = [name.strip() for name in text.split(",")]
        if len(names) not in (3, 4) or not all(names) or len(set(names)) < len(names):
            raise UserError(f"--sort-into {text}: expected three or four different folders, for OK, NG, REVIEW and undefined; as ok,ng,review")
        self.copy, self.files = copy, files
        self._copies: set[str] | None = None
        self.folders = {code: Path(os.path.abspath(folder / name)) for code, name in zip(SORTED, names, strict=False)}
        if files:
            self._check(text, files)

    def _check(self, text: str, files: FileList) -> None:
        targets = {target: target.resolve() for target in self.folders.values()}
        for target, real in targets.items():
            for root in files.sources:
                if Path(root).is_dir() and real.is_relative_to(Path(root).resolve()):
                    raise UserError(f"--sort-into {text}: expected folders outside of --source {root}, got {target}: the next run would "
                                    "search what this one sorted; give another --project or folder")  # fmt: skip
        for target in targets:
            if own := files.first_in(target):
                raise UserError(f"--sort-into {text}: expected folders without images of --source, got {target}, which holds {own}; "
                                "give another folder")  # fmt: skip

    def put(self, path: Path, relative: PurePath, code: Code) -> None:
        """Link or copy one image. Raises OSError when that is not possible."""
        for other, folder in self.folders.items():
            for entry in _places(folder / relative, path):
                if other != code and self._is_ours(entry, path):
                    entry.unlink()
        if code not in self.folders:
            return
        places = _places(self.folders[code] / relative, path)
        if any(self._is_ours(entry, path) for entry in places):
            return
        target = next((place for place in places if not os.path.lexists(place)), None)
        if target is None:
            raise FileExistsError(errno.EEXIST, f"expected {places[-1]} to be free for {path}; give another folder")
        target.parent.mkdir(parents=True, exist_ok=True)
        if not self.copy:
            try:
                target.symlink_to(path)
                return
            except OSError as error:
                print(f"--sort-into: links are not possible here ({error.strerror}), copying", file=sys.stderr)
                self.copy = True
        part = target.with_name(f".{target.name}.part")
        try:
            shutil.copyfile(path, part)
            os.replace(part, target)
        finally:
            part.unlink(missing_ok=True)
        self._note(target)

    def _is_ours(self, entry: Path, path: Path) -> bool:
        """Whether an entry of a folder was put there for this image: a link to it, or a copy that a run has noted and nobody has changed."""
        if entry.is_symlink():
            return os.readlink(entry) == str(path)
        return entry.is_file() and str(entry) in self._noted() and filecmp.cmp(entry, path, shallow=False)

    def _noted(self) -> set[str]:
        """The copies in all folders that were put there by this or an earlier run."""
        if self._copies is None:
            self._copies = set()
            for folder in self.folders.values():
                with suppress(FileNotFoundError), (folder / COPIES).open(**TEXT) as lines:
                    self._copies |= {str(folder / line.rstrip("\n")) for line in lines}
        return self._copies

    def _note(self, target: Path) -> None:
        self._noted().add(str(target))
        folder = next(folder for folder in self.folders.values() if target.is_relative_to(folder))
        with (folder / COPIES).open("a", **TEXT) as file:
            file.write(f"{target.relative_to(folder)}\n")

    def take(self, item: Item, verdict: Verdict) -> None:
        """Sort the file of an image; frames of videos and streams are no files."""
        if item.kind == "image":
            self.put(item.path, item.relative, verdict.code)

    def skip(self, path: Path) -> None:
        """Sort a file that could not be looked at."""
        if self.files and path.is_file():
            self.put(path, self.files.relative(path), Code.UNDEFINED)


def _places(target: Path, path: Path) -> tuple[Path, Path]:
    """Where an image may be put: under its name, or where that is taken with a digest of its path behind it."""
    digest = hashlib.sha256(os.fsencode(path)).hexdigest()[:8]
    return target, target.with_name(f"{target.stem}-{digest}{target.suffix}")
