"""Reading ahead and writing behind: order, bounds, errors, and threads that end."""

from __future__ import annotations

import threading
import time

import pytest

from engine.detection import pipeline
from engine.detection.pipeline import THREADS, WriteBehind, read_ahead


def ignore(key: object, returned: object) -> None:
    """What a job returned is of no interest here."""


def alive(kind: str) -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith(kind)]


def test_values_come_in_the_order_of_the_keys_whatever_they_take() -> None:
    def load(key: int) -> int:
        time.sleep(0.002 * (key % 3 == 0))
        return key * key

    pairs = [(key, future.result()) for key, future in read_ahead(load, range(30), 8, lambda value: 1)]
    assert pairs == [(key, key * key) for key in range(30)] and not alive("reader")


def test_keys_are_taken_no_further_ahead_than_asked() -> None:
    taken: list[int] = []

    def keys():
        for key in range(50):
            taken.append(key)
            yield key

    most = 0
    for key, _ in read_ahead(lambda key: key, keys(), 5, lambda value: 1):
        most = max(most, len(taken) - key)
    assert most == 6, "five waiting, and the one that finds no room"


def test_large_values_are_not_piled_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "HELD_BYTES", 300)
    loaded: list[int] = []
    for key, future in read_ahead(loaded.append, range(40), 30, lambda value: 100):
        future.result()
        time.sleep(0.002)  # time enough to load all that was started
        assert len(loaded) <= key + max(THREADS, 3)


def test_an_error_is_raised_where_its_key_is_taken() -> None:
    def load(key: int) -> int:
        if key == 3:
            raise ValueError("three")
        return key

    seen = []
    for key, future in read_ahead(load, range(6), 4, lambda value: 1):
        if key == 3:
            with pytest.raises(ValueError, match="three"):
                future.result()
        else:
            seen.append(future.result())
    assert seen == [0, 1, 2, 4, 5]


def test_nothing_is_loaded_once_the_reader_is_closed() -> None:
    loaded: list[int] = []

    def load(key: int) -> None:
        time.sleep(0.01)
        loaded.append(key)

    reading = read_ahead(load, range(1000), 100, lambda value: 1)
    next(reading)
    reading.close()
    assert len(loaded) < 100 and not alive("reader")


def test_jobs_of_one_key_run_one_after_another() -> None:
    written: list[int] = []
    running = threading.Lock()

    def job(number: int) -> None:
        assert running.acquire(blocking=False), "two at once"
        time.sleep(0.002)
        written.append(number)
        running.release()

    writing: WriteBehind[str] = WriteBehind(ignore)
    for number in range(8):
        writing.submit("same", job, number)
    writing.close()
    assert written == list(range(8)) and not alive("writer")


def test_jobs_wait_when_there_are_too_many() -> None:
    gate = threading.Event()
    writing: WriteBehind[int] = WriteBehind(ignore)
    for key in range(2 * THREADS):
        writing.submit(key, gate.wait)
    late = threading.Thread(target=writing.submit, args=(99, gate.wait))
    late.start()
    late.join(0.05)
    assert late.is_alive(), "more jobs are held than there is room for"
    gate.set()
    late.join(5)
    writing.close()


def test_what_a_job_raised_is_raised_and_the_others_are_finished() -> None:
    def fail() -> None:
        raise OSError(28, "No space left on device")

    done: list[int] = []
    writing: WriteBehind[int] = WriteBehind(ignore)
    writing.submit(0, fail)
    writing.submit(1, done.append, 1)
    with pytest.raises(OSError, match="No space"):
        writing.close()
    assert done == [1] and not alive("writer")


def test_what_a_job_returned_is_handed_on_by_the_thread_that_submits() -> None:
    returned: list[tuple[int, int, str]] = []
    writing: WriteBehind[int] = WriteBehind(lambda key, value: returned.append((key, value, threading.current_thread().name)))
    for key in range(20):
        writing.submit(key, pow, key, 2)
    writing.close()
    assert returned == [(key, key * key, threading.current_thread().name) for key in range(20)]
