"""Work in a bounded queue: done by a few threads, refused when full, given up when it takes too long."""

from __future__ import annotations

import queue
import sys
import threading
import time
import traceback
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass, field
from typing import Any

TICK = 0.25  # seconds between two looks of the watch


class Full(Exception):
    """As much is waiting as may."""


@dataclass(eq=False)
class Job:
    """One piece of work: `run` is called in a thread of the pool, its result goes to `future`."""

    run: Callable[[], Any]
    future: Future[Any] = field(default_factory=Future)
    taken: float = field(default_factory=time.monotonic)


class Pool:
    """Threads that do work in the order in which it came.

    A job that waits and runs for longer than `patience` is given up: its future raises TimeoutError. A thread cannot be
    stopped; while one is stuck so, `alive` is False, and the service should be started anew.

    Args:
        capacity: jobs that may wait.
        threads: how many work.
        patience: seconds.
    """

    def __init__(self, capacity: int, threads: int, patience: float) -> None:
        self.capacity, self.patience = capacity, patience
        self.beat = time.time()  # when all threads were last seen to work
        self._queue: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._room = threading.Semaphore(capacity)
        self._open: dict[Job, None] = {}  # accepted and not done
        self._running: dict[int, Job] = {}
        self._closing = threading.Event()
        self._threads = [threading.Thread(target=self._work, args=(n,), name=f"worker-{n}", daemon=True) for n in range(threads)]
        self._watch = threading.Thread(target=self._look, name="watch", daemon=True)
        for thread in (*self._threads, self._watch):
            thread.start()

    @property
    def waiting(self) -> int:
        """Jobs that wait for a thread."""
        return self._queue.qsize()

    @property
    def full(self) -> bool:
        """Whether `submit` would raise."""
        return self.waiting >= self.capacity

    @property
    def alive(self) -> bool:
        """Whether no thread is stuck."""
        now = time.monotonic()
        return all(now - job.taken < self.patience + 2 * TICK for job in list(self._running.values()) if job.future.done())

    def submit(self, run: Callable[[], Any], wait: bool = False, then: Callable[[Future[Any]], None] | None = None) -> Future[Any]:
        """Put work into the queue.

        Args:
            wait: until there is room, which is for those who bring one image after the other.
            then: called with the future when it is done.

        Raises:
            Full: there is no room, or the pool is closed.
        """
        if not self._room.acquire(blocking=wait):
            raise Full
        if self._closing.is_set():
            self._room.release()
            raise Full("closing")
        job = Job(run)
        if then:
            job.future.add_done_callback(then)
        self._open[job] = None
        self._queue.put(job)  # last of all: the thread that wakes up waits for the interpreter
        return job.future

    def close(self, timeout: float) -> None:
        """Take no more work, and wait for what was taken; then end the threads."""
        self._closing.set()
        end = time.monotonic() + timeout
        while self._open and time.monotonic() < end:
            time.sleep(0.01)
        for job in list(self._open):
            _settle(job, error=TimeoutError("the service ended"))
        for _ in self._threads:
            self._queue.put(None)

    def _work(self, number: int) -> None:
        while (job := self._queue.get()) is not None:
            self._room.release()
            if job.future.done():  # given up while it waited
                continue
            self._running[number] = job
            try:
                _settle(job, job.run())
            except Exception as error:
                traceback.print_exc()
                print(f"a worker failed: {error!r}; the image is UNDEFINED", file=sys.stderr)
                _settle(job, error=error)
            finally:
                del self._running[number]
                self._open.pop(job, None)

    def _look(self) -> None:
        while not self._closing.wait(TICK):
            now = time.monotonic()
            for job in list(self._open):
                if now - job.taken > self.patience:
                    _settle(job, error=TimeoutError(f"not decided within {self.patience:g} s"))
                    self._open.pop(job, None)
            if self.alive:
                self.beat = time.time()


def _settle(job: Job, result: Any = None, error: BaseException | None = None) -> None:
    """Give a job its outcome, unless it has one."""
    try:
        if error is None:
            job.future.set_result(result)
        else:
            job.future.set_exception(error)
    except InvalidStateError:
        pass
