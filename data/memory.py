"""What is known of images from an earlier run: sizes and digests, as plain data in a folder of ours beside the labels.

ultralytics keeps such things as a pickle, `labels/train.cache`, and runs whatever is in it. Ours is JSON, checked entry by
entry: one that does not look as it should, or whose image has another size or date by now, is measured anew.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from data.images import ImageFacts

FILE, VERSION = "images.json", 1


class Memory:
    """Facts of images by file name, size and date; kept on the disk where that can be written, else for this run only.

    Args:
        folder: a folder of ours; made when there is something to keep.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE
        self.known = _read(self.path)
        self.new: dict[str, list[Any]] = {}

    def recall(self, image: Path, measure: Callable[[Path], ImageFacts]) -> ImageFacts:
        """Return what is known of an image, or what `measure` finds of it. Raises as `measure`."""
        stamp, name = _stamp(image), os.path.relpath(image, self.path.parent)
        if stamp and (facts := _facts(self.known.get(name), stamp)):
            return facts
        facts = measure(image)
        if stamp:
            self.new[name] = [*stamp, facts.width, facts.height, facts.digest.hex(), facts.note]
        return facts

    def save(self) -> None:
        """Write what is new; a data set that cannot be written stays as it is."""
        if not self.new:
            return
        part = self.path.with_name(f".{FILE}.{os.getpid()}")
        try:
            self.path.parent.mkdir(exist_ok=True)
            part.write_text(json.dumps({"version": VERSION, "images": self.known | self.new}), encoding="utf-8")
            os.replace(part, self.path)
        except OSError:
            with suppress(OSError):
                part.unlink(missing_ok=True)


def _read(path: Path) -> dict[str, Any]:
    """Entries of a file of ours; none where it is missing, damaged, or something else."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    valid = isinstance(content, dict) and content.get("version") == VERSION and isinstance(content.get("images"), dict)
    return content["images"] if valid else {}


def _stamp(image: Path) -> tuple[int, int] | None:
    """Size in bytes and date in nanoseconds; None where there is no such file."""
    try:
        stat = image.stat()
    except OSError:
        return None
    return stat.st_size, stat.st_mtime_ns


def _facts(entry: Any, stamp: tuple[int, int]) -> ImageFacts | None:
    """An entry as facts; None where it is not of that stamp, or is no entry of ours."""
    try:
        size, date, width, height, digest, note = entry
        facts = ImageFacts(width, height, bytes.fromhex(digest), note)
        whole = all(type(x) is int and x > 0 for x in (width, height)) and isinstance(note, str) and len(facts.digest) == 16
    except (TypeError, ValueError):
        return None
    return facts if whole and (size, date) == stamp else None
