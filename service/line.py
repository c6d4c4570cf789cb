"""The line: images come in, each gets exactly one outcome, and everyone who should know is told."""

from __future__ import annotations

import sys
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import Any

from inspection.rules import Code
from service.events import Camera, Inspected, Picture, Sink
from service.inspector import Inspector, Outcome
from service.journal import Journal
from service.metrics import Metrics
from service.pool import Full, Pool

REMEMBERED = 100  # last outcomes, for the page
LOST = "the service ended before this image was decided about"


class Busy(Exception):
    """An image is not accepted; the message says why."""


class Duplicate(Exception):
    """An image of the same MeasId is being looked at."""


@dataclass(frozen=True)
class Ids:
    """What a sender says about an image; empty where nothing."""

    meas_id: str = ""
    part_id: str = ""
    recipe_id: str = ""
    product_id: str = ""


class Line:
    """Takes images, has them looked at, and hands on what comes of it.

    Args:
        inspector: looks at an image.
        pool: does the work.
        metrics: counts.
        journal: remembers what was accepted, None for no memory.
        sinks: are told every outcome.
    """

    def __init__(self, inspector: Inspector, pool: Pool, metrics: Metrics, journal: Journal | None = None, sinks: Sequence[Sink] = ()) -> None:
        self.inspector, self.pool, self.metrics, self.journal = inspector, pool, metrics, journal
        self.sinks, self.cameras = list(sinks), list[Camera]()
        self.recent: deque[dict[str, Any]] = deque(journal.last if journal else (), maxlen=REMEMBERED)
        self._open: set[str] = set()
        self._lock, self._stop = threading.Lock(), threading.Event()
        self._threads: list[threading.Thread] = []
        metrics.watch(self)
        for entry in journal.left if journal else ():
            self._end(_lost(entry), late=True)
        for event in journal.untold if journal and sinks else ():
            self._publish(event, late=True)

    @property
    def ready(self) -> dict[str, bool]:
        """Whether each part works. Images are decided about without sinks and cameras."""
        parts = {"workers": self.pool.alive, "journal": not (self.journal and self.journal.broken)}
        return parts | {f"sink {one.name}": one.healthy() for one in self.sinks} | {f"camera {one.name}": one.healthy() for one in self.cameras}

    def accept(self, picture: Picture, source: str, answer: Callable[[Inspected], None], ids: Ids = Ids(), wait: bool = False) -> None:
        """Take an image: from here on it gets an outcome, UNDEFINED if nothing else.

        Args:
            picture: see `service.events.Picture`.
            source: `http`, or the name of a camera or file.
            answer: called with the outcome, in another thread.
            ids: of the sender.
            wait: for room in the queue.

        Raises:
            Busy: there is no room, or the journal cannot be written.
            Duplicate: another image of this MeasId has no outcome yet.
        """
        began = time.perf_counter()
        now = datetime.now(timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        event = Inspected(ids.meas_id or uuid.uuid4().hex, now, source, ids.part_id, ids.recipe_id, ids.product_id, Code.UNDEFINED,
                          "", 0.0, (), 0, 0, 0.0)  # fmt: skip
        self._admit(event, wait)
        try:
            self.pool.submit(lambda: self.inspector.inspect(picture), wait, then=lambda job: self._settle(event, job, began, answer))
        except Full:
            self._end(replace(event, rule="refused: the queue is full"), told=False)
            raise Busy("the queue is full") from None

    def submit(self, picture: Picture, source: str) -> Inspected:
        """Take a camera's image and wait for its outcome (`service.events.Submit`)."""
        while True:
            outcome: Future[Inspected] = Future()
            try:
                self.accept(picture, source, outcome.set_result, wait=True)
                return outcome.result()
            except Busy:  # the disk of the journal is full, or the service ends
                if self._stop.wait(1.0):
                    raise

    def start(self, cameras: Sequence[Camera]) -> None:
        """Let cameras bring images, each on a thread of its own."""
        self.cameras += cameras
        for camera in cameras:
            thread = threading.Thread(target=camera.run, args=(self.submit, self._stop), name=f"camera {camera.name}", daemon=True)
            thread.start()
            self._threads.append(thread)

    def close(self, timeout: float) -> None:
        """Stop the cameras, decide what was accepted, deliver it, and end; in about `timeout` seconds."""
        if self._stop.is_set():
            return
        self._stop.set()
        end = time.monotonic() + timeout
        self.pool.close(timeout)
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))
        for sink in self.sinks:
            sink.close(max(1.0, end - time.monotonic()))
        if self.journal:
            self.journal.close()

    def _admit(self, event: Inspected, wait: bool) -> None:
        with self._lock:
            if event.meas_id in self._open:
                raise Duplicate(event.meas_id)
            if self.pool.full and not wait:
                raise Busy("the queue is full")
            self._open.add(event.meas_id)
        if self.journal:
            entry = event.as_json()
            for name in ("Verdict", "ResultEvaluation", "Rule", "Score"):
                del entry[name]
            try:
                self.journal.accept(entry)
            except OSError as error:
                self._open.discard(event.meas_id)
                raise Busy(f"the journal cannot be written ({error.strerror})") from None

    def _settle(self, event: Inspected, job: Future[Outcome], began: float, answer: Callable[[Inspected], None]) -> None:
        """Give an image its outcome, whatever became of the work, and tell everyone."""
        if error := job.exception():
            reason = str(error) if isinstance(error, TimeoutError) else f"fault: {type(error).__name__}: {error}"
            event = replace(event, rule=" ".join(reason.split())[:300])
        else:
            found = job.result()
            event = replace(event, verdict=found.verdict.code, rule=found.verdict.rule, score=found.verdict.score, boxes=found.boxes,
                            width=found.width, height=found.height)  # fmt: skip
        event = replace(event, latency_ms=(time.perf_counter() - began) * 1e3)
        try:
            self._end(event)
        finally:
            answer(event)

    def _end(self, event: Inspected, told: bool = True, late: bool = False) -> None:
        """Write an outcome and tell it. What a kill leaves written and untold is told after the restart: each sink that `keeps` outcomes has it
        at least once.

        Args:
            late: it is of an image that an earlier service had accepted.
        """
        if self.journal:
            self.journal.settle(event, to_be_told=told and bool(self.sinks))
        if told:
            self._tell(event, late)
        self._open.discard(event.meas_id)

    def _tell(self, event: Inspected, late: bool) -> None:
        self.metrics.count(event)
        self.recent.append(event.as_json(boxes=False))
        if self.sinks:
            self._publish(event, late)

    def _publish(self, event: Inspected, late: bool = False) -> None:
        for sink in self.sinks:
            if late and not sink.keeps:
                continue
            try:
                sink.publish(event)
            except Exception as error:  # a verdict is answered whatever becomes of a sink
                print(f"sink {sink.name}: {error!r}", file=sys.stderr)
        if self.journal:
            self.journal.told(event)


def _lost(entry: dict[str, Any]) -> Inspected:
    """The outcome of an image that an earlier service had accepted."""
    names = ("MeasId", "CreationTime", "Source", "PartId", "RecipeId", "ProductId")
    meas_id, created, source, part, recipe, product = (str(entry.get(name, "")) for name in names)
    return Inspected(meas_id, created, source, part, recipe, product, Code.UNDEFINED, LOST, 0.0, (), 0, 0, 0.0)
