"""Which files of a folder are new or have changed. Nothing but names, sizes and times is looked at.

The folder is polled: network shares do not tell of files that other machines write, which is what inotify and the
libraries over it (watchdog, watchfiles) would wait for. What was there before is passed over cheaply: a folder whose
time stands still is not listed, a name that is known is not looked up. As times can be coarse or wrong, everything is
looked up now and then all the same.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from stat import S_ISREG
from typing import NamedTuple

import numpy as np

from data.files import MISSING, is_image, no_file

CHUNK = 4096  # files looked up together
MOST = 10_000  # files that are found at once, to keep memory flat; the rest is found later
STILL = 3.0  # seconds for which a folder's time must stand still to be believed
SWEEP, SWEEP_SHARE = 10.0, 20.0  # seconds between two rounds of looking everything up, and at least so many times what one takes
MOMENT = 0.05  # seconds of looking everything up at a time
NOTHING = np.zeros(0, np.int64)
MOST_LEFT_OUT = 100  # these are looked up each time too: a link may find its file, a pipe may be replaced
RECENT = 32  # files that were looked at last, and are looked up each time: they may be overwritten


class Version(NamedTuple):
    """A file as it was at one moment: its path below the folder, size in bytes, and time of its last change."""

    path: str
    size: int
    mtime_ns: int


@dataclass
class Listed:
    """A folder as it was listed.

    Attributes:
        mtime_ns: its time.
        since: when that time was first seen.
        names: hashes of all names in it, sorted, (N,).
        folders: paths of the folders in it.
        others: how many files it has that are no images by their suffix.
    """

    mtime_ns: int
    since: float
    names: np.ndarray
    folders: list[str]
    others: int


Known = Callable[[Sequence[Version]], np.ndarray]  # which of N versions have had their outcome, (N,) bool


class FolderScan:
    """The files of a folder and its sub-folders, each real folder once: links may form loops. Hidden names are left out.

    Args:
        root: the folder.
        known: says which versions need no further look.

    Attributes:
        closed: folders that cannot be read, and why.
        left_out: what has the name of an image and cannot be read as a file, and why; at most `MOST_LEFT_OUT`.
    """

    def __init__(self, root: str, known: Known) -> None:
        self.root, self.known = root, known
        self._above = os.path.join(root, "")
        self.closed: dict[str, str] = {}
        self.left_out: dict[str, str] = {}
        self._folders: dict[str, Listed] = {}
        self._recent: deque[str] = deque(maxlen=RECENT)
        self._everything: Iterator[list[Version]] | None = None
        self._next_sweep = time.monotonic() + SWEEP
        self._spent = 0.0  # seconds of looking everything up

    @property
    def others(self) -> int:
        """Files that are passed over because their suffix is none of an image."""
        return sum(listed.others for listed in self._folders.values())

    def changed(self) -> list[Version]:
        """Return files that are new or have changed, some `MOST` at most. Raises `OSError`: the folder cannot be read."""
        began = time.monotonic()
        os.scandir(self.root).close()  # below it, folders that cannot be read are noted in `closed`
        again = dict.fromkeys((*self._recent, *self.left_out))
        found = self._unknown([version for path in again if (version := self.look(path))])
        seen: dict[str, Listed] = {}
        for folder, state in self._walk(seen):
            before = self._folders.get(folder)
            if before and before.mtime_ns == state.st_mtime_ns and began - before.since > STILL:
                seen[folder] = before
                continue
            seen[folder] = self._list(folder, state, before, found)
            if len(found) >= MOST:
                self._folders.pop(folder, None)  # it was not listed to its end
                return list(dict.fromkeys(found))
        self._folders = seen
        found += self._sweep()
        return list(dict.fromkeys(found))

    def everything(self) -> Iterator[list[Version]]:
        """Yield all files that are there now, in parts."""
        seen: dict[str, Listed] = {}
        for folder, state in self._walk(seen):
            seen[folder] = Listed(state.st_mtime_ns, 0.0, NOTHING, [], 0)
            for entries in self._chunks(folder):
                yield self._look_all(folder, self._images(folder, entries, seen[folder]))

    def _sweep(self) -> list[Version]:
        """Go on with looking everything up, for a moment: new files do not wait until it is done."""
        began = time.monotonic()
        if self._everything is None:
            if began < self._next_sweep:
                return []
            self._everything, self._spent = self.everything(), 0.0
        found: list[Version] = []
        while time.monotonic() < began + MOMENT:
            versions = next(self._everything, None)
            if versions is None:
                self._everything = None
                self._next_sweep = began + max(SWEEP, SWEEP_SHARE * self._spent)
                break
            found += self._unknown(versions)
        self._spent += time.monotonic() - began
        return found

    def look(self, path: str) -> Version | None:
        """A file as it is now, None where it is none, or gone. `path` is below the root."""
        with suppress(OSError):
            state = os.stat(self._above + path)
            if S_ISREG(state.st_mode):
                self.left_out.pop(path, None)
                return Version(path, state.st_size, state.st_mtime_ns)
        self.leave_out(path, no_file(self._above + path))
        return None

    def leave_out(self, path: str, reason: str) -> None:
        """Note why what has the name of an image is not read at present; `MISSING` is no news."""
        if reason == MISSING:
            self.left_out.pop(path, None)
        elif path in self.left_out or len(self.left_out) < MOST_LEFT_OUT:
            self.left_out[path] = reason

    def remember(self, path: str) -> None:
        """Look this file up each time from now on: it was just inspected, and may be overwritten."""
        if path not in self._recent:
            self._recent.append(path)

    def _walk(self, seen: dict[str, Listed]) -> Iterator[tuple[str, os.stat_result]]:
        """Yield the root, as "", and the folders below it; the caller adds each to `seen` before it asks for the next."""
        real: set[tuple[int, int]] = set()
        waiting = deque([""])
        while waiting:
            folder = waiting.popleft()
            try:
                state = os.stat(os.path.join(self.root, folder))
            except OSError as error:
                self._close(folder, error)
                continue
            if (state.st_dev, state.st_ino) not in real:
                real.add((state.st_dev, state.st_ino))
                yield folder, state
                waiting += seen[folder].folders

    def _list(self, folder: str, state: os.stat_result, before: Listed | None, found: list[Version]) -> Listed:
        """List a folder; add to `found` what is new among the names that were not there before."""
        same = before is not None and before.mtime_ns == state.st_mtime_ns
        before = before or Listed(0, 0.0, NOTHING, [], 0)
        listed = Listed(state.st_mtime_ns, before.since if same else time.monotonic(), NOTHING, before.folders[:], before.others)
        parts = [NOTHING]
        for entries in self._chunks(folder):
            hashes = np.fromiter((hash(entry.name) for entry in entries), np.int64, len(entries))
            parts.append(hashes)
            fresh = [entries[i] for i in np.flatnonzero(~_among(hashes, before.names))]
            found += self._unknown(self._look_all(folder, self._images(folder, fresh, listed)))
            if len(found) >= MOST:
                break
        listed.names = np.sort(np.concatenate(parts))
        return listed

    def _chunks(self, folder: str) -> Iterator[list[os.DirEntry[str]]]:
        """Yield what is in a folder, in parts."""
        try:
            with os.scandir(self._above + folder) as entries:
                while chunk := list(islice(entries, CHUNK)):
                    yield chunk
            self.closed.pop(folder, None)
        except OSError as error:
            self._close(folder, error)

    def _close(self, folder: str, error: OSError) -> None:
        if isinstance(error, FileNotFoundError):  # it was deleted
            self.closed.pop(folder, None)
        else:
            self.closed[folder] = (error.strerror or str(error)).lower()

    def _images(self, folder: str, entries: list[os.DirEntry[str]], listed: Listed) -> list[str]:
        """The names of images among entries of a folder; note folders and what else there is in `listed`."""
        names: list[str] = []
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if _is_folder(entry):
                if (path := os.path.join(folder, entry.name)) not in listed.folders:
                    listed.folders.append(path)
            elif is_image(entry.name):
                names.append(entry.name)
            else:
                listed.others += 1
        return names

    def _look_all(self, folder: str, names: list[str]) -> list[Version]:
        above = os.path.join(folder, "") if folder else ""
        return [version for name in names if (version := self.look(above + name))]

    def _unknown(self, versions: list[Version]) -> list[Version]:
        if not versions:
            return []
        return [version for version, known in zip(versions, self.known(versions), strict=True) if not known]


def _is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether an entry is a folder, whatever it is called, or a link to one."""
    try:
        return entry.is_dir()
    except OSError:  # a link to itself, or to where nothing may be read
        return False


def _among(hashes: np.ndarray, ordered: np.ndarray) -> np.ndarray:
    """Which of N hashes are among sorted ones, (N,) bool."""
    if not len(ordered):
        return np.zeros(len(hashes), bool)
    among: np.ndarray = ordered[np.minimum(np.searchsorted(ordered, hashes), len(ordered) - 1)] == hashes
    return among
