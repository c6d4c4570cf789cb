"""Threads that read ahead and write behind: bounded, in order, and gone when the caller is."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Generic, TypeVar

from cfg.cpus import available_cpus

Key = TypeVar("Key")
Value = TypeVar("Value")
THREADS = min(4, available_cpus())  # decoding and encoding leave the interpreter to others; more rarely finish earlier
HELD_BYTES = 2**28  # what is read and not yet taken: one image of 256 MB, or thousands of small ones


def read_ahead(
    load: Callable[[Key], Value], keys: Iterable[Key], ahead: int, size: Callable[[Value], int], threads: int = THREADS
) -> Iterator[tuple[Key, Future[Value]]]:
    """Yield each key with its loaded value, in the order of `keys`, while threads load the next ones.

    Args:
        load: called in a thread; what it raises is raised by the future's ``result()``.
        keys: taken lazily, `ahead` at most before they are yielded.
        ahead: most values loaded or being loaded; fewer where they would hold more than `HELD_BYTES`.
        size: bytes of a value.
        threads: how many load.

    Nothing is loaded any more once the generator is closed.
    """
    waiting: deque[tuple[Key, Future[Value]]] = deque()
    largest = 0
    with ThreadPoolExecutor(threads, thread_name_prefix="reader") as pool:
        try:
            for key in keys:
                # One for each thread until a size is known, then as if all that wait were as large as the largest.
                while len(waiting) >= (max(1, min(ahead, HELD_BYTES // largest)) if largest else threads):
                    yield waiting[0]
                    _, taken = waiting.popleft()
                    largest = max(largest, 0 if taken.exception() else size(taken.result()), 1)
                waiting.append((key, pool.submit(load, key)))
            while waiting:
                yield waiting.popleft()
        finally:
            for _, future in waiting:
                future.cancel()


class WriteBehind(Generic[Key]):
    """Runs jobs in threads. Two jobs of the same key never overlap and run in the order in which they came.

    Args:
        done: called with the key and what the job returned, in the thread that submits.
    """

    def __init__(self, done: Callable[[Key, Any], None]) -> None:
        self.done = done
        self.pool = ThreadPoolExecutor(THREADS, thread_name_prefix="writer")
        self.waiting: deque[tuple[Key, Future[Any]]] = deque()

    def submit(self, key: Key, job: Callable[..., Any], *given: Any) -> None:
        """Start a job soon; wait for earlier ones when there are too many, or for one of the same key.

        Raises:
            What an earlier job raised.
        """
        while len(self.waiting) >= 2 * THREADS or any(key == other for other, _ in self.waiting):
            self._finish_first()
        self.waiting.append((key, self.pool.submit(job, *given)))

    def close(self) -> None:
        """Finish all jobs. Raises what the first of them raised that failed."""
        with self.pool:
            while self.waiting:
                self._finish_first()

    def _finish_first(self) -> None:
        key, job = self.waiting.popleft()
        self.done(key, job.result())
