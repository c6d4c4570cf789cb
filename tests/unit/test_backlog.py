"""What waits for a sink: on disk in order, within its bound, through crashes, damage and a full disk."""

from __future__ import annotations

import errno
import logging
import os
from pathlib import Path

import pytest

from cfg.errors import UserError
from service.sinks import backlog as backlog_module
from service.sinks.backlog import Backlog
from service.sinks.segments import decode, encode
from service.telling import Teller

LARGE = 2**30


def opened(folder: Path, limit: int = LARGE) -> Backlog:
    return Backlog(folder, limit, Teller("sink"))


def drain(backlog: Backlog, most: int = 7) -> list[bytes]:
    """Take everything out, `most` at a time."""
    found = []
    while batch := backlog.first(most, 0.0):
        for message in batch:
            found.append(message.body)
            backlog.remove(message)
    return found


def bodies(numbers: range) -> list[bytes]:
    return [b'{"MeasId":"%d"}' % number for number in numbers]


def test_a_line_is_its_message_or_damaged() -> None:
    line = encode(b"abc")
    assert decode(line) == b"abc"
    assert all(decode(bad) is None for bad in (line[:-1], line[:4], b"", b"\n", line.replace(b"b", b"x"), bytes(len(line))))


def test_first_in_first_out_through_segments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backlog_module, "LEAST_SEGMENT", 100)
    backlog = opened(tmp_path, limit=6400)
    expected = bodies(range(100))
    for body in expected:
        backlog.put(body)
    assert backlog.waiting == 100 and len(list(tmp_path.glob("*.log"))) > 10
    assert drain(backlog) == expected and backlog.waiting == 0 and backlog.dropped == 0
    assert len(list(tmp_path.glob("*.log"))) == 1, "delivered segments are deleted"
    backlog.close()
    assert not list(tmp_path.glob("*.log"))


def test_what_was_not_delivered_waits_for_the_next_process(tmp_path: Path) -> None:
    for start in range(0, 30, 10):
        backlog = opened(tmp_path)
        for body in bodies(range(start, start + 10)):
            backlog.put(body)
        for message in backlog.first(4, 0.0):
            backlog.remove(message)
        backlog.close()
    backlog = opened(tmp_path)
    assert backlog.waiting == 18 and drain(backlog) == bodies(range(12, 30))
    backlog.close()


def test_a_full_backlog_drops_the_oldest_and_counts_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog) -> None:
    monkeypatch.setattr(backlog_module, "LEAST_SEGMENT", 100)
    backlog = opened(tmp_path, limit=6400)
    on_the_way = None
    for body in bodies(range(1000)):
        backlog.put(body)
        if on_the_way is None:
            on_the_way = backlog.first(1, 0.0)[0]
    assert sum(path.stat().st_size for path in tmp_path.glob("*.log")) <= 6400
    assert 0 < backlog.dropped < 1000 and backlog.dropped + backlog.waiting == 1000
    assert sum("results were dropped, the oldest first" in text for text in caplog.messages) == 1
    dropped = backlog.dropped
    backlog.remove(on_the_way)
    assert backlog.dropped == dropped - 1, "it was delivered while it was dropped"
    assert drain(backlog) == bodies(range(dropped, 1000))
    backlog.close()


def test_damaged_lines_cost_themselves(tmp_path: Path, caplog) -> None:
    backlog = opened(tmp_path)
    for body in bodies(range(6)):
        backlog.put(body)
    backlog.close()
    file = next(tmp_path.glob("*.log"))
    lines = file.read_bytes().splitlines(keepends=True)
    lines[2] = lines[2].replace(b"2", b"7")
    file.write_bytes(b"".join(lines) + lines[0][:9])
    backlog = opened(tmp_path)
    backlog.put(b"new")
    assert drain(backlog) == [*bodies(range(2)), *bodies(range(3, 6)), b"new"]
    assert backlog.damaged == 2 and backlog.waiting == 0 and "damaged" in caplog.text
    backlog.close()


def test_a_disk_that_is_full_is_said_once_and_memory_takes_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog) -> None:
    backlog, write, full = opened(tmp_path), os.write, True

    def writing(descriptor: int, data: bytes) -> int:
        if full and data.endswith(b"\n"):
            return write(descriptor, data[:5])  # some of it fits
        return write(descriptor, data)

    monkeypatch.setattr(backlog_module.os, "write", writing)
    monkeypatch.setattr(backlog_module, "MEMORY_BYTES", 60 * len(bodies(range(10, 11))[0]))
    full = False
    for body in bodies(range(10, 15)):
        backlog.put(body)
    full = True
    for body in bodies(range(15, 90)):
        backlog.put(body)
    assert backlog.fault == os.strerror(errno.ENOSPC).lower() and backlog.waiting == 65 and backlog.dropped == 15
    assert sum("the disk refuses" in text for text in caplog.messages) == 1
    assert [message.body for message in backlog.first(8, 0.0)] == [*bodies(range(10, 15)), *bodies(range(30, 33))]
    full = False
    monkeypatch.setattr(backlog_module, "DISK_AGAIN", 0.0)
    assert drain(backlog) == [*bodies(range(10, 15)), *bodies(range(30, 90))]
    assert not backlog.fault and "takes results again" in caplog.text
    backlog.close()


def test_what_the_disk_never_took_is_said_at_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog) -> None:
    backlog = opened(tmp_path)
    monkeypatch.setattr(backlog_module.os, "write", lambda *args: 0)
    backlog.put(b"x")
    backlog.close()
    assert backlog.dropped == 1 and "1 results are lost" in caplog.text and "wait on disk for" not in caplog.text


def test_a_folder_is_of_one_process(tmp_path: Path) -> None:
    backlog = opened(tmp_path / "new/one")
    with pytest.raises(UserError, match="another process uses it"):
        opened(tmp_path / "new/one")
    backlog.close()
    opened(tmp_path / "new/one").close()
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="expected a folder"):
        opened(tmp_path / "file/x")


def test_a_thread_that_outlives_the_end_touches_nothing(tmp_path: Path) -> None:
    backlog = opened(tmp_path)
    backlog.put(b"x")
    message = backlog.first(1, 0.0)[0]
    backlog.close()
    backlog.remove(message), backlog.sync(), backlog.put(b"y")
    assert backlog.first(1, 0.0) == [] and backlog.dropped == 1
    assert drain(opened(tmp_path)) == [b"x"]


def test_repeated_lines_are_said_once_a_minute(caplog) -> None:
    teller = Teller("mqtt://h:1/t")
    with caplog.at_level(logging.WARNING):
        for number in range(5):
            teller.repeated("a", f"{number} lost")
        teller.repeated("b", "other")
    assert caplog.messages == ["mqtt://h:1/t: 0 lost", "mqtt://h:1/t: other"]
