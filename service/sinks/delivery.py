"""A sink that delivers every result, at least once and in order: a backlog, a thread, and a way to the other side."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from threading import Event, Thread
from typing import TYPE_CHECKING, Protocol

from service.backoff import Backoff
from service.sinks.backlog import Backlog, Message
from service.telling import Teller

if TYPE_CHECKING:
    from service.events import Inspected

SYNC = 1.0  # seconds after which what waits is on the disk itself


class Unavailable(Exception):
    """The other side does not take results now; the message is the reason. `pause`: seconds that it asks to wait."""

    def __init__(self, reason: str, pause: float = 0.0) -> None:
        super().__init__(reason)
        self.pause = pause


class Refused(Exception):
    """The other side will never take this result; the message is the reason."""


class Transport(Protocol):
    """A way to the other side.

    Attributes:
        batch: most results that are on their way at once.
    """

    batch: int

    def check(self) -> None:
        """Connect where that is needed. Raises `Unavailable`."""

    def deliver(self, bodies: Sequence[bytes]) -> Iterator[None]:
        """Send results, JSON; yield once for each that the other side has taken, in order. Raises `Unavailable`, `Refused`."""

    def close(self) -> None:
        """Let go of the connection."""


@dataclass(frozen=True)
class SinkState:
    """How a sink is: counts since the start of the process, and why it is not healthy, empty where it is.

    Attributes:
        waiting: results that are still to be delivered.
        delivered: results that the other side has taken.
        dropped: results given up because the backlog was full, or overwritten by later ones (Modbus).
        refused: results that the other side will not take.
        reason: what is wrong.
    """

    waiting: int
    delivered: int
    dropped: int
    refused: int
    reason: str


class Delivery:
    """A sink with a backlog. Delivered twice, which a broken connection can lead to, a result has the same `MeasId`.

    Args:
        name: as people know it, without passwords.
        transport: the way to the other side.
        backlog: what waits.
        teller: takes what happens.
    """

    keeps = True

    def __init__(self, name: str, transport: Transport, backlog: Backlog, teller: Teller) -> None:
        self.name, self.transport, self.backlog, self.teller = name, transport, backlog, teller
        self.delivered = self.refused = 0
        self.reason: str | None = None  # why the other side is not reached; None: not yet tried
        self.refusal = ""  # why it did not take the latest result
        self.backoff = Backoff()
        self._closing = Event()
        self._deadline = float("inf")
        self._synced = time.monotonic()
        self._thread = Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def publish(self, event: Inspected) -> None:
        """Put a result into the backlog."""
        self.backlog.put(json.dumps(event.as_json(), ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace"))

    def healthy(self) -> bool:
        """Whether the other side took what it was given last, and the disk takes what waits."""
        return self.reason == "" and not self.refusal and not self.backlog.fault

    def state(self) -> SinkState:
        """How it is now."""
        reason = "not connected yet" if self.reason is None else self.reason
        faults = [text for text in (reason, self.refusal, self.backlog.fault and f"backlog: {self.backlog.fault}") if text]
        return SinkState(self.backlog.waiting, self.delivered, self.backlog.dropped, self.refused, "; ".join(faults))

    def close(self, timeout: float) -> None:
        """Deliver what is left for at most `timeout` seconds; the rest waits on disk for the next start."""
        self._deadline = time.monotonic() + timeout
        self._closing.set()
        self.backlog.wake()
        self._thread.join(timeout)
        self.backlog.close()

    def _run(self) -> None:
        while not self._over():
            try:
                batch = self.backlog.first(self.transport.batch, SYNC if self.reason == "" else 0.0)
                if batch:
                    self._deliver(batch)
                else:
                    self.transport.check()
                    self._reached()
            except Unavailable as error:
                self._unreachable(error)
            except Exception as error:  # of a library, or a bug of ours: the results wait, and the thread must live on
                self._unreachable(Unavailable(f"{type(error).__name__}: {error}"))
            self._sync()
        self.transport.close()

    def _over(self) -> bool:
        late = time.monotonic() >= self._deadline
        return self._closing.is_set() and (late or self.reason != "" or not self.backlog.waiting)

    def _deliver(self, batch: list[Message]) -> None:
        taken = self.transport.deliver([message.body for message in batch])
        for message in batch:
            try:
                next(taken)
            except Refused as error:
                self._refuse(message, error)
                return
            self.backlog.remove(message)
            self.delivered += 1
            self.refusal = ""
            self._reached()

    def _refuse(self, message: Message, error: Refused) -> None:
        self.refusal = str(error)
        kept = self.backlog.set_aside(message.body)
        what = f"kept in {self.backlog.aside}" if kept else f"lost: {self.backlog.aside} cannot take more"
        self.teller.repeated("refused", f"{error}; {self.refused + 1} results were given up, the last one is {what}")
        self.backlog.remove(message)
        self.refused += 1

    def _reached(self) -> None:
        self.backoff.reset()
        if self.reason:
            self.teller.change(f"reached again; {self.backlog.waiting} results still wait")
        self.reason = ""

    def _unreachable(self, error: Unavailable) -> None:
        pause = max(self.backoff.next(), error.pause)
        if self.reason != str(error):
            self.reason = str(error)
            self.teller.change(f"{error}; results wait on disk and are sent later")
        self._closing.wait(pause)

    def _sync(self) -> None:
        if time.monotonic() - self._synced >= SYNC:
            self._synced = time.monotonic()
            self.backlog.sync()
