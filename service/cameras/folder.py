"""A folder into which a line drops images: each has one outcome, also across restarts. Nothing in the folder is changed."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from stat import S_ISREG
from threading import Event
from typing import TYPE_CHECKING

import numpy as np

from data.decode import Unreadable, cut_off
from service.backoff import Backoff
from service.cameras.ledger import Ledger
from service.cameras.options import CameraState, FolderOptions
from service.cameras.scan import FolderScan, Version
from service.cameras.settling import Settling
from service.telling import Teller

if TYPE_CHECKING:
    from service.events import Submit

POLL, POLL_SHARE = 0.1, 4.0  # seconds between two looks, and at least so many times what one takes
MOST_BYTES = 2**30  # of a file; a larger one is not read, and so its outcome is UNDEFINED
NAMED = 3  # files that are told by name where many cannot be read
WHOLE_SECOND = 10**9  # ns: a file system whose times are that coarse cannot tell a renamed file from a new one

Answered = Callable[[str, float], bool]  # whether an image of this source name was accepted since then (seconds, `time.time`)


def _never(source: str, since: float) -> bool:
    return False


class FolderCamera:
    """Watches a folder, its sub-folders and links.

    An image is a file's path, size and time of last change. Overwritten, it is a new image; renamed, it is the same.

    Args:
        options: which folder.
        ledger: what has had its outcome.
        teller: takes what happens.
        answered: asked at the start about the one image that an earlier process may not have ended; where it was
            accepted, it has its outcome from the service, else it is submitted (again).

    Attributes:
        submitted: images that have had their outcome since the start.
        renamed: images that came again under another name.
    """

    def __init__(self, options: FolderOptions, ledger: Ledger, teller: Teller, answered: Answered = _never) -> None:
        self.name, self.root = options.shown, options.path
        self.ledger, self.teller = ledger, teller
        self.scan = FolderScan(options.path, self._known)
        self.settling = Settling(self.scan.look)
        self.submitted = self.renamed = 0
        self.reason: str | None = None
        self._backoff = Backoff(1.0)
        self._others = 0
        if (begun := ledger.begun()) and answered(begun[0], begun[2]):
            ledger.add(begun[1])
        if ledger.fresh:
            earlier = self.scan.everything() if options.new_only else ()
            ledger.start(self._file_key(version) for versions in earlier for version in versions)

    def run(self, submit: Submit, stop: Event) -> None:
        """Submit images in the order in which they were written, until `stop` is set."""
        while not stop.is_set():
            began = time.monotonic()
            try:
                for version in self.scan.changed():
                    self.settling.note(version)
                self._reached()
                took = time.monotonic() - began
                for version in self.settling.ready():
                    if stop.is_set():
                        return
                    self._take(version, submit)
                self._tell_left_out()
            except Exception as error:  # the folder is gone, or the service does not take images now
                if stop.is_set():
                    return
                self._unreachable(error)
                stop.wait(self._backoff.next())
                continue
            stop.wait(max(POLL, POLL_SHARE * took))

    def healthy(self) -> bool:
        """Whether the folder can be read, its images too, and the ledger written."""
        return self.reason == "" and not self.ledger.fault

    def state(self) -> CameraState:
        """How it is now."""
        reason = "not read yet" if self.reason is None else self.reason
        faults = [text for text in (reason, self.ledger.fault and f"ledger: {self.ledger.fault}") if text]
        return CameraState(self.submitted, len(self.settling), self.settling.vanished, "; ".join(faults))

    def _take(self, version: Version, submit: Submit) -> None:
        """Have one file inspected, where it can be read and was not before."""
        try:
            data = _read(os.path.join(self.root, version.path), version)
        except FileNotFoundError:
            self.settling.vanished += 1
            self.settling.done(version.path)
            return
        except OSError as error:
            self.settling.retry(version)
            self.scan.leave_out(version.path, (error.strerror or str(error)).lower())
            return
        if data is None or (isinstance(data, bytes) and cut_off(data) and self.settling.postpone(version)):
            return  # it changed while it was read, which the next look shows; or its end is missing
        self._inspect(version, data, submit)
        self.settling.done(version.path)
        self.scan.remember(version.path)

    def _inspect(self, version: Version, data: bytes | Unreadable, submit: Submit) -> None:
        keys = [self._file_key(version)]
        if isinstance(data, bytes) and version.mtime_ns % WHOLE_SECOND:
            keys.append(self.ledger.content_key(data, version.mtime_ns))
            if keys[1] in self.ledger:
                self.renamed += 1
                self.ledger.add(keys[:1])
                return
        source = shown(os.path.join(os.path.basename(self.root), version.path))
        self.ledger.begin(source, keys)
        submit(data, source)
        self.ledger.add(keys)
        self.submitted += 1
        if self.ledger.fault:
            self.teller.repeated("ledger", f"the ledger cannot be written ({self.ledger.fault}): after a restart images would be "
                                 "inspected twice; free space")  # fmt: skip

    def _file_key(self, version: Version) -> int:
        return self.ledger.file_key(os.fsencode(version.path), version.size, version.mtime_ns)

    def _known(self, versions: Sequence[Version]) -> np.ndarray:
        """Which of N versions have had their outcome, or wait for it, (N,) bool."""
        waiting = np.fromiter((version in self.settling for version in versions), bool, len(versions))
        known: np.ndarray = waiting | self.ledger.known(map(self._file_key, versions))
        return known

    def _reached(self) -> None:
        self._backoff.reset()
        if self.reason:
            self.teller.change("the folder is read again")
        self.reason = ""
        if self.scan.others and not self._others:
            self.teller.change(f"{self.scan.others} files without the suffix of an image are left alone")
        self._others = self.scan.others

    def _tell_left_out(self) -> None:
        """Say what has had no outcome although a line may wait for one, and why."""
        waiting = dict.fromkeys(self.settling.being_written, "still being written")
        if left_out := waiting | self.scan.closed | self.scan.left_out:
            named = [f"{shown(path)} ({reason})" for path, reason in list(left_out.items())[:NAMED]]
            more = f" and {len(left_out) - NAMED} more" if len(left_out) > NAMED else ""
            text = f"not inspected: {', '.join(named)}{more}; tried again"
            self.teller.repeated(text, text)

    def _unreachable(self, error: Exception) -> None:
        reason = f"{type(error).__name__}: {error}"
        if isinstance(error, OSError):
            reason = f"the folder cannot be read ({(error.strerror or str(error)).lower()})"
        if reason != self.reason:
            self.reason = reason
            self.teller.change(f"{reason}; tried again")


def shown(path: str) -> str:
    """A path as text that can be written anywhere: names may be any bytes."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _read(path: str, version: Version) -> bytes | Unreadable | None:
    """The content of a file in one version; None where it is another by now. Raises `OSError`."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a pipe that has taken its place is not waited for
    with os.fdopen(descriptor, "rb") as file:
        if version.size > MOST_BYTES:
            return Unreadable(f"expected a file of at most {MOST_BYTES:,} bytes, got {version.size:,}")
        before = os.fstat(descriptor)
        if not S_ISREG(before.st_mode) or (before.st_size, before.st_mtime_ns) != (version.size, version.mtime_ns):
            return None
        data = file.read()
        after = os.fstat(descriptor)
    return data if (len(data), after.st_mtime_ns) == (version.size, version.mtime_ns) else None
