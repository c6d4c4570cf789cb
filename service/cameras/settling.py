"""Files that were found and may still be written: which of them stand still long enough to be read."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

from service.cameras.scan import Version

SETTLED = 0.3  # seconds without a change of size or time
PATIENCE = 10.0  # the same for a file that is empty, cut off or not readable: its writer may be slow


class Waiting(NamedTuple):
    """A file that waits: its version, when it was first seen and when it last changed, and from when on it is read."""

    version: Version
    first: float
    since: float
    due: float


class Settling:
    """The files that wait to be read.

    Args:
        look: gives a file as it is now, None where it is gone.

    Attributes:
        vanished: files that were deleted or renamed before they were read.
    """

    def __init__(self, look: Callable[[str], Version | None]) -> None:
        self.look = look
        self.vanished = 0
        self._waiting: dict[str, Waiting] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def __contains__(self, version: Version) -> bool:
        waiting = self._waiting.get(version.path)
        return waiting is not None and waiting.version == version

    @property
    def being_written(self) -> list[str]:
        """Paths of the files that still change, `PATIENCE` after they were first seen."""
        return [path for path, waiting in self._waiting.items() if waiting.since - waiting.first >= PATIENCE]

    def note(self, version: Version) -> None:
        """Have a file wait, unless it waits in this version already."""
        waiting = self._waiting.get(version.path)
        if waiting is None or waiting.version != version:
            now = time.monotonic()
            first = waiting.first if waiting else now
            self._waiting[version.path] = Waiting(version, first, now, now + (SETTLED if version.size else PATIENCE))

    def postpone(self, version: Version) -> bool:
        """Have a file that cannot be used yet wait until its patience ends; False where that has ended."""
        waiting = self._waiting[version.path]
        if time.monotonic() >= waiting.since + PATIENCE:
            return False
        self._waiting[version.path] = waiting._replace(due=min(time.monotonic() + 1.0, waiting.since + PATIENCE))
        return True

    def retry(self, version: Version) -> None:
        """Have a file wait for another `PATIENCE`."""
        now = time.monotonic()
        self._waiting[version.path] = Waiting(version, now, now, now + PATIENCE)

    def done(self, path: str) -> None:
        """Have a file wait no longer."""
        self._waiting.pop(path, None)

    def ready(self) -> list[Version]:
        """The files that stand still, the one that was written first at the front."""
        now, ready = time.monotonic(), []
        for version, _, _, due in list(self._waiting.values()):
            current = self.look(version.path)
            if current is None:
                self.done(version.path)
                self.vanished += 1
            elif current != version:
                self.note(current)
            elif now >= due:
                ready.append(version)
        return sorted(ready, key=lambda version: (version.mtime_ns, version.path))
