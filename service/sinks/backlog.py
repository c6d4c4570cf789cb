"""The results that one sink still has to deliver: on disk within a bound, in memory where the disk refuses."""

from __future__ import annotations

import fcntl
import os
import time
from collections import deque
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path
from threading import Condition

from cfg.errors import UserError
from service.sinks.segments import Place, SegmentFiles, decode, encode
from service.telling import Teller

PARTS = 64  # segments that fill the bound: dropping the oldest costs 1/64 of what waits
LEAST_SEGMENT = 16 * 1024  # bytes
ASIDE_BYTES = 16 * 2**20  # of results that the other side refused for good
MEMORY_BYTES = 16 * 2**20  # of results that wait while the disk refuses
SPILLED = 256  # of these that are moved to the disk at once
DISK_AGAIN = 5.0  # seconds until a disk that refused is tried again


@dataclass(frozen=True)
class Message:
    """One result that waits, as JSON, and its place on disk, None in memory."""

    body: bytes
    place: Place | None


class Backlog:
    """A queue of results. `put` is for any thread; the others are for the one that delivers.

    A full one drops its oldest results, counts them and says so: what the line sees now matters more than what it saw.

    Args:
        folder: of this sink alone; it is made where it is missing.
        limit: most bytes on disk.
        teller: takes what happens.

    Attributes:
        dropped: results that were given up because the bound was reached.
        damaged: lines of earlier processes that cannot be read any more.
        folder: where it is.
        fault: why the disk refuses at present, empty where it does not.
        aside: the file of results that the other side will not take.

    Raises:
        UserError: the folder cannot be used, or another process uses it.
    """

    def __init__(self, folder: Path, limit: int, teller: Teller) -> None:
        self.limit, self.teller = limit, teller
        self.folder = folder
        self.aside = folder / "refused.jsonl"
        self.segment_bytes = max(LEAST_SEGMENT, limit // PARTS)
        self.dropped = self.damaged = 0
        self.fault, self._tried = "", 0.0
        self._news = Condition()
        self._memory: deque[bytes] = deque()
        self._memory_bytes = 0
        self._ahead: deque[Message] = deque()  # read, not yet removed
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._lock = _lock(folder)
            self._files = SegmentFiles(folder)
        except OSError as error:
            raise UserError(f"{folder}: expected a folder for results that wait, got: {error.strerror}; make it "
                            "writable or choose another") from None  # fmt: skip
        self._read = self._files.start
        self._reader: BufferedReader | None = None
        self._closed = False

    @property
    def waiting(self) -> int:
        """Results that were not delivered yet."""
        with self._news:
            return self._on_disk + len(self._memory)

    @property
    def _on_disk(self) -> int:
        return sum(segment.waiting for segment in self._files.segments)

    def put(self, body: bytes) -> None:
        """Add a result: one `write` to the disk's cache, never to the network. Does not raise.

        Args:
            body: JSON without line ends.
        """
        with self._news:
            if self._closed:
                self.dropped += 1
                return
            if self._memory or not self._write(body):
                self._remember(body)
            self._news.notify()

    def first(self, most: int, timeout: float) -> list[Message]:
        """Return the oldest results, at most `most`; wait for one for at most `timeout` seconds."""
        with self._news:
            if self._closed:  # its thread was held up by the network beyond the end
                return []
            self._spill()
            self._fill(most)
            if not self._ahead and not self._memory:
                self._news.wait(timeout)
                if self._closed:
                    return []
                self._fill(most)
            found = list(self._ahead)[:most]
            return found + [Message(body, None) for body in list(self._memory)[: most - len(found)]]

    def remove(self, message: Message) -> None:
        """Take out a result that was delivered, the oldest one."""
        with self._news:
            if self._closed:
                return
            if message.place is None:
                if self._memory and self._memory[0] is message.body:
                    self._forget()
                else:
                    self.dropped -= 1  # dropped while it was on its way, and delivered after all
                return
            segment = next((s for s in self._files.segments if s.number == message.place.segment), None)
            if segment is None:
                self.dropped -= 1
                return
            self._ahead.popleft()
            segment.waiting -= 1
            self._note(message.place)
            self._clean()

    def set_aside(self, body: bytes) -> bool:
        """Keep a result that the other side will not take, for people to look at; False where there is no room."""
        try:
            with self.aside.open("ab") as file:
                if file.tell() + len(body) > ASIDE_BYTES:
                    return False
                file.write(body + b"\n")
        except OSError:
            return False
        return True

    def sync(self) -> None:
        """Have the disk keep what was put until now; the power may fail."""
        with self._news:
            descriptor = -1 if self._closed else self._files.to_sync()
        if descriptor < 0:
            return
        try:
            os.fsync(descriptor)
        except OSError as error:
            self._refused(error)
        finally:
            os.close(descriptor)

    def wake(self) -> None:
        """Have `first` return."""
        with self._news:
            self._news.notify_all()

    def close(self) -> None:
        """Let go of the files; what waits on disk waits for the next process, what only memory held is lost. Says so."""
        with self._news:
            self._tried = 0.0
            self._spill(len(self._memory))
            self._closed = True
            self.dropped += len(self._memory)
            if on_disk := self._on_disk:
                self.teller.change(f"{on_disk} results wait on disk for the next start")
            if self._memory:
                self.teller.change(f"{len(self._memory)} results are lost: the disk refuses them ({self.fault})")
            if self._reader:
                self._reader.close()
            self._clean(0)
            self._files.close()
            os.close(self._lock)

    def _write(self, body: bytes) -> bool:
        """Put a result on the disk; False where the disk refuses."""
        line = encode(body)
        try:
            writing = self._files.writing
            while self._files.segments and self._files.size + len(line) > self.limit:
                self._drop_first()
                writing = self._files.writing
            if writing is None or writing.size + len(line) > self.segment_bytes:
                self._files.begin()
                self._clean()
            self._files.append(line)
        except OSError as error:
            self._refused(error)
            return False
        if self.fault:
            self.teller.change("the disk takes results again")
            self.fault = ""
        return True

    def _refused(self, error: OSError) -> None:
        self._tried = time.monotonic()
        reason = (error.strerror or str(error)).lower()
        if reason != self.fault:
            self.fault = reason
            self.teller.change(f"the disk refuses results that wait ({reason}); up to {MEMORY_BYTES >> 20} MiB wait in memory, "
                               "and are lost if the process ends; free space")  # fmt: skip

    def _remember(self, body: bytes) -> None:
        self._memory.append(body)
        self._memory_bytes += len(body)
        while self._memory_bytes > MEMORY_BYTES:
            self._forget()
            self._count_dropped(1)

    def _forget(self) -> None:
        self._memory_bytes -= len(self._memory.popleft())

    def _spill(self, most: int = SPILLED) -> None:
        """Move what waits in memory to the disk, where that takes results again; some at a time, as `put` waits meanwhile."""
        if time.monotonic() - self._tried < DISK_AGAIN:
            return
        for _ in range(min(most, len(self._memory))):
            if not self._write(self._memory[0]):
                return
            self._forget()

    def _drop_first(self) -> None:
        segment = self._files.segments[0]
        self._files.delete_first()
        self._ahead = deque(message for message in self._ahead if message.place and message.place.segment != segment.number)
        self._count_dropped(segment.waiting)

    def _count_dropped(self, number: int) -> None:
        self.dropped += number
        if number:
            self.teller.repeated("dropped", f"the backlog is full; {self.dropped} results were dropped, the oldest first")

    def _fill(self, most: int) -> None:
        """Read ahead until there are `most` results."""
        while len(self._ahead) < most and (line := self._next_line()):
            body = decode(line)
            if body is not None:
                self._ahead.append(Message(body, self._read))
                continue
            self.damaged += 1
            self.teller.repeated("damaged", f"{self.damaged} results that waited on disk are damaged, and are left out")
            if line.endswith(b"\n"):
                next(s for s in self._files.segments if s.number == self._read.segment).waiting -= 1

    def _next_line(self) -> bytes:
        """The next line on disk, empty where there is none."""
        for segment in self._files.segments:
            if segment.number < self._read.segment:
                continue
            begun = self._reader if segment.number == self._read.segment else None
            if line := (begun or self._open(segment.number)).readline():
                self._read = Place(segment.number, self._read.end + len(line))
                return line
        return b""

    def _open(self, number: int) -> BufferedReader:
        if self._reader:
            self._reader.close()
        start = self._read.end if number == self._read.segment else 0
        self._reader = self._files.path(number).open("rb")
        self._reader.seek(start)
        self._read = Place(number, start)
        return self._reader

    def _clean(self, keep: int = 1) -> None:
        """Delete segments of which nothing waits any more, but not the last `keep`."""
        try:
            while len(self._files.segments) > keep and not self._files.segments[0].waiting:
                self._files.delete_first()
        except OSError as error:
            self._refused(error)

    def _note(self, place: Place) -> None:
        try:
            self._files.note_position(place)
        except OSError as error:  # then it would be delivered again after a crash, which MeasId shows
            self._refused(error)


def _lock(folder: Path) -> int:
    descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise UserError(f"{folder}: expected a backlog of this service alone, another process uses it; end that, or "
                        "choose another folder") from None  # fmt: skip
    return descriptor
