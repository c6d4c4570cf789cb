"""Which images were accepted and what became of them, on disk: after a crash none of them is without an outcome.

One line of JSON for each acceptance and one for each outcome; where there are sinks, the outcome is whole (with its boxes), and
a third line says that all sinks have it. Lines reach the operating system before the image is looked at and before its verdict
is answered, so that the end of the process loses none; they reach the disk within `SYNC` seconds.
"""

from __future__ import annotations

import fcntl
import json
import os
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from cfg import UserError
from cfg.whole_files import write_through
from service.events import Inspected

NAME, OLD, NEW = "journal.jsonl", "journal.old.jsonl", "journal.new.jsonl"
LARGEST, SYNC = 64 * 2**20, 1.0  # bytes of a file before a new one is begun; seconds
ROUNDED = 0.001  # seconds: times are written in ms
WHOLE = "Boxes"  # is in an outcome that sinks are to be told
TOLD = "Told"
KEPT = ("MeasId", "PartId", "RecipeId", "ProductId", "CreationTime", "Source", "Verdict", "ResultEvaluation", "Rule", "Score")


class Journal:
    """The journal in a folder; one service at a time writes it.

    Attributes:
        left: what an earlier service had accepted and not decided, as it was written; to be settled by the caller.
        untold: outcomes of an earlier service that its sinks may not have; to be told by the caller.
        broken: why nothing can be written at present, empty while it can.

    Raises:
        UserError: the folder cannot be written, or another service uses it.
    """

    def __init__(self, folder: Path, largest: int = LARGEST) -> None:
        self.path, self.old, self.new, self.largest, self.broken = folder / NAME, folder / OLD, folder / NEW, largest, ""
        self._lock, self._synced = threading.Lock(), time.monotonic()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._guard = (folder / ".lock").open("w")
            fcntl.flock(self._guard, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"--journal {folder}: expected a folder of its own, got one that another service writes; give another") from None
        except OSError as error:
            raise UserError(f"--journal {folder}: cannot be written ({error.strerror}); give another folder") from None
        self._open: dict[str, dict[str, Any]] = {}  # accepted, or settled and not told
        self.last: list[dict[str, Any]] = []
        self._recover()
        for entry in self._read(self.path):
            self._note(entry)
        self.left = [entry for entry in self._open.values() if "Verdict" not in entry]
        self.untold = [Inspected.from_json(entry) for entry in self._open.values() if "Verdict" in entry]
        self._file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o640)
        if self._ends_in_a_line_cut_off():
            os.write(self._file, b"\n")

    def accept(self, entry: dict[str, Any]) -> None:
        """Write that an image was accepted. Raises OSError when that is not possible: it is not accepted then."""
        self._append({key: entry[key] for key in KEPT if key in entry})

    def settle(self, event: Inspected, to_be_told: bool = False) -> None:
        """Write an outcome. A full disk is remembered in `broken`: the image then counts as undecided after a restart.

        Args:
            event: the outcome.
            to_be_told: until `told` is called, it is among `untold` of the next service.
        """
        content = event.as_json(boxes=to_be_told)
        with suppress(OSError):
            self._append(content if to_be_told else {key: content[key] for key in KEPT})

    def told(self, event: Inspected) -> None:
        """Write that the sinks have an outcome. Where the disk is full, they are told again after a restart."""
        if "Verdict" in self._open.get(event.meas_id, ()):  # else the disk refused the outcome: undecided after a restart
            with suppress(OSError):
                self._append({"MeasId": event.meas_id, TOLD: True})

    def accepted(self, source: str, since: float) -> bool:
        """Whether an image of this source was accepted at or after a time (seconds, `time.time`)."""
        for path in (self.path, self.old):
            for entry in self._read(path):
                if entry.get("Source") == source and "Verdict" not in entry and _seconds(entry.get("CreationTime")) >= since - ROUNDED:
                    return True
        return False

    def close(self) -> None:
        """Write all to the disk and let another service have the folder."""
        os.fsync(self._file)
        os.close(self._file)
        self._guard.close()

    def _append(self, entry: dict[str, Any]) -> None:
        line = (json.dumps(entry, ensure_ascii=False) + "\n").encode()
        with self._lock:
            try:
                written = os.write(self._file, line)
                if written < len(line):  # the disk is full: half a line is taken back
                    os.ftruncate(self._file, os.fstat(self._file).st_size - written)
                    raise OSError(28, os.strerror(28))
                self.broken = ""
            except OSError as error:
                self.broken = error.strerror or str(error)
                raise
            self._note(entry)
            try:
                self._keep_up()
            except OSError as error:  # the line itself is written; the file in use stays in use
                self.broken = error.strerror or str(error)

    def _note(self, entry: dict[str, Any]) -> None:
        if "Verdict" in entry:
            self.last = [*self.last[-99:], {key: entry[key] for key in KEPT if key in entry}]
        if TOLD in entry or ("Verdict" in entry and WHOLE not in entry):
            self._open.pop(entry["MeasId"], None)
        else:
            self._open[entry["MeasId"]] = entry

    def _keep_up(self) -> None:
        """Write to the disk now and then; begin a new file when this one is large, with what is open, and keep one old one."""
        now = time.monotonic()
        if now - self._synced > SYNC:
            os.fdatasync(self._file)
            self._synced = now
        if os.fstat(self._file).st_size > self.largest:
            os.fsync(self._file)
            write_through(self.new, "".join(json.dumps(entry) + "\n" for entry in self._open.values()).encode())
            os.replace(self.path, self.old)
            os.replace(self.new, self.path)  # a kill before this: see `_recover`
            os.close(self._file)
            self._file = os.open(self.path, os.O_WRONLY | os.O_APPEND)

    def _recover(self) -> None:
        """Finish what a kill interrupted between two files: without a current one, the new one is whole, or the old one is the latest."""
        if not self.path.exists():
            for latest in (self.new, self.old):
                if latest.exists():
                    latest.rename(self.path)
                    return
        self.new.unlink(missing_ok=True)

    def _read(self, path: Path) -> Iterator[dict[str, Any]]:
        if not path.exists():
            return
        with path.open("rb") as lines:
            for line in lines:
                try:
                    entry = json.loads(line)
                except ValueError:  # cut off by a power failure
                    continue
                if isinstance(entry, dict) and isinstance(entry.get("MeasId"), str):
                    yield entry

    def _ends_in_a_line_cut_off(self) -> bool:
        size = self.path.stat().st_size
        if not size:
            return False
        with self.path.open("rb") as file:
            file.seek(size - 1)
            return file.read(1) != b"\n"


def _seconds(text: Any) -> float:
    """A time as it is written, as seconds; 0 for anything else."""
    try:
        return datetime.fromisoformat(str(text).replace("Z", "+00:00")).timestamp()
    except ValueError:
        return 0.0
