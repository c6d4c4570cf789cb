"""A queue of messages in files that are only appended to, so that it survives the end of the process at any moment.

Why not SQLite: a message is in the kernel's hands after one `write` of some microseconds, which a caller on the way to a
verdict can pay; a disk that is full is emptied by deleting files, which needs no space; and a damaged line costs itself.
"""

from __future__ import annotations

import errno
import os
import zlib
from dataclasses import dataclass
from pathlib import Path

SUFFIX = ".log"
CHUNK = 1 << 20


@dataclass
class Segment:
    """One file of the queue: its number, size in bytes, and how many of its messages still wait."""

    number: int
    size: int = 0
    waiting: int = 0


@dataclass(frozen=True)
class Place:
    """Where a message ends: the number of its segment, and the byte behind it."""

    segment: int
    end: int


def encode(body: bytes) -> bytes:
    """Return the line that holds a message without line ends: its CRC-32, a blank, the message."""
    return b"%08x %s\n" % (zlib.crc32(body), body)


def decode(line: bytes) -> bytes | None:
    """Return the message of a line, None where the line is damaged."""
    check, blank, body = line[:8], line[8:9], line[9:].removesuffix(b"\n")
    return body if line.endswith(b"\n") and blank == b" " and check == b"%08x" % zlib.crc32(body) else None


class SegmentFiles:
    """The files of a queue in one folder, and the position up to which they have been delivered.

    Args:
        folder: is there, and belongs to this queue alone.

    Raises:
        OSError: the folder cannot be read or written.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._position = os.open(folder / "position", os.O_RDWR | os.O_CREAT, 0o600)
        self.start = self._read_position()
        numbers = sorted(int(path.stem) for path in folder.glob(f"*{SUFFIX}") if path.stem.isdigit())
        self.segments: list[Segment] = []
        for number in numbers:
            if number < self.start.segment:
                self.path(number).unlink()
            else:
                self.segments.append(self._measure(number))
        self.next_number = max([*numbers, self.start.segment]) + 1
        self._writing = -1
        self.unsynced = False

    def path(self, number: int) -> Path:
        """The file of a segment."""
        return self.folder / f"{number:010d}{SUFFIX}"

    @property
    def size(self) -> int:
        """Bytes of all segments."""
        return sum(segment.size for segment in self.segments)

    def begin(self) -> None:
        """Begin a new segment. Raises `OSError`."""
        self.end_writing()
        self._writing = os.open(self.path(self.next_number), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self.segments.append(Segment(self.next_number))
        self.next_number += 1

    def end_writing(self) -> None:
        """Write no more into the last segment."""
        if self._writing >= 0:
            os.close(self._writing)
            self._writing = -1

    @property
    def writing(self) -> Segment | None:
        """The segment that is being written, the last one; None before the first message."""
        return self.segments[-1] if self._writing >= 0 else None

    def append(self, line: bytes) -> None:
        """Write a line into the last segment. Raises `OSError`, and then nothing of it is left there."""
        segment = self.segments[-1]
        try:
            written = os.write(self._writing, line)
            if written < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError:
            os.ftruncate(self._writing, segment.size)
            raise
        segment.size += len(line)
        segment.waiting += 1
        self.unsynced = True

    def to_sync(self) -> int:
        """Return a descriptor of what was written since the last call, to be synced and closed; -1 where there is nothing."""
        fresh, self.unsynced = self.unsynced and self._writing >= 0, False
        return os.dup(self._writing) if fresh else -1

    def delete_first(self) -> None:
        """Delete the oldest segment. Raises `OSError`."""
        segment = self.segments.pop(0)
        if not self.segments:
            self.end_writing()
        self.path(segment.number).unlink(missing_ok=True)

    def note_position(self, place: Place) -> None:
        """Write down that everything up to a place was delivered. A crash before that sends messages again."""
        os.pwrite(self._position, b"%020d %020d\n" % (place.segment, place.end), 0)

    def close(self) -> None:
        """Let go of the files."""
        self.end_writing()
        os.close(self._position)

    def _read_position(self) -> Place:
        words = os.pread(self._position, 64, 0).split()
        if len(words) == 2 and all(word.isdigit() for word in words):
            return Place(int(words[0]), int(words[1]))
        return Place(0, 0)

    def _measure(self, number: int) -> Segment:
        """Count the lines of a segment that was left by an earlier process."""
        skipped = self.start.end if number == self.start.segment else 0
        with self.path(number).open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(min(skipped, size))
            return Segment(number, size, sum(chunk.count(b"\n") for chunk in iter(lambda: file.read(CHUNK), b"")))
