"""The service's inside: every accepted image gets one outcome, whatever fails, hangs, ends or is full."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import threading
import time
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

for needed in ("starlette", "uvicorn", "httptools", "prometheus_client"):
    pytest.importorskip(needed, reason=f"the service needs {needed}: pip install -r requirements-serve.txt")

from cfg import UserError  # noqa: E402
from inspection.rules import Code, Verdict  # noqa: E402
from service.events import Box, Inspected  # noqa: E402
from service.inspector import Outcome  # noqa: E402
from service.intake import Intake, Refused  # noqa: E402
from service.journal import Journal  # noqa: E402
from service.line import LOST, Busy, Duplicate, Ids, Line  # noqa: E402
from service.metrics import Metrics  # noqa: E402
from service.pool import Full, Pool  # noqa: E402
from service.server import bind  # noqa: E402

OK = Outcome(Verdict(Code.OK, "no box counts"), (), 4, 3)
EVENT = Inspected("m", "2026-01-01T00:00:00Z", "http", "p", "r", "x", Code.NG, "scratch", 0.5, (Box(1, 2, 3, 4, 0.5, 0, "scratch"),), 8, 9, 1.5)

NO_IDS = Ids()


class Inspector:
    """Answers with what it is given; waits for `gate`."""

    def __init__(self, answer=OK) -> None:
        self.answer, self.gate = answer, threading.Event()
        self.gate.set()

    def inspect(self, picture):
        self.gate.wait(30)
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


class Sink:
    name = "sink"
    keeps = True

    def __init__(self, fault: Exception | None = None) -> None:
        self.told, self.fault = [], fault

    def publish(self, event: Inspected) -> None:
        self.told.append(event)
        if self.fault:
            raise self.fault

    def healthy(self) -> bool:
        return self.fault is None

    def close(self, timeout: float) -> None:
        self.closed = True


@pytest.fixture
def make_line():
    lines = []

    def make(inspector: Inspector, capacity: int = 4, patience: float = 20, journal: Journal | None = None, sinks=()) -> Line:
        lines.append((Line(inspector, Pool(capacity, 1, patience), Metrics(), journal, sinks), inspector))
        return lines[-1][0]

    yield make
    for line, inspector in lines:
        inspector.gate.set()
        line.close(1)


def ask(line: Line, ids: Ids = NO_IDS) -> Future[Inspected]:
    """Have an image looked at; the future gets its outcome."""
    outcome: Future[Inspected] = Future()
    line.accept(b"x", "http", outcome.set_result, ids)
    return outcome


def test_an_outcome_as_json():
    told = EVENT.as_json()
    assert json.loads(json.dumps(told)) == told and told["Verdict"] == "NG" and told["ResultEvaluation"] == 2
    assert told["Boxes"] == [{"Class": "scratch", "ClassIndex": 0, "Score": 0.5, "Box": [1, 2, 3, 4]}]


def test_an_outcome_reaches_sender_sinks_and_figures(make_line):
    sink = Sink()
    line = make_line(Inspector(), sinks=[sink])
    event = ask(line, Ids("m1", "p1")).result(10)
    assert (event.verdict, event.meas_id, event.part_id, event.width, event.height) == (Code.OK, "m1", "p1", 4, 3)
    assert sink.told == [event] and line.recent[-1]["MeasId"] == "m1"
    figures = line.metrics.text()
    assert b'tandem_pictures_total{source="http",verdict="OK"} 1.0' in figures and b'tandem_sink_up{sink="sink"} 1.0' in figures


@pytest.mark.parametrize("fault", [RuntimeError("no memory"), MemoryError()])
def test_a_fault_is_undefined(make_line, fault, capsys):
    event = ask(make_line(Inspector(fault))).result(10)
    assert event.verdict is Code.UNDEFINED and event.rule.startswith(f"fault: {type(fault).__name__}")
    assert "Traceback" in capsys.readouterr().err


def test_a_sink_that_fails_keeps_no_verdict_back(make_line, capsys):
    line = make_line(Inspector(), sinks=[Sink(OSError("gone")), second := Sink()])
    second.name = "other"
    assert ask(line).result(10).verdict is Code.OK and second.told
    assert "sink sink" in capsys.readouterr().err and line.ready["sink sink"] is False


def test_a_network_that_hangs_is_undefined_and_told(make_line):
    inspector = Inspector()
    inspector.gate.clear()
    line = make_line(inspector, patience=0.3)
    waiting = [ask(line) for _ in range(3)]
    events = [one.result(10) for one in waiting]
    assert all(event.verdict is Code.UNDEFINED and "not decided within 0.3 s" in event.rule for event in events)
    end = time.monotonic() + 10
    while line.pool.alive and time.monotonic() < end:
        time.sleep(0.05)
    assert not line.pool.alive and not line.ready["workers"]
    inspector.gate.set()
    while not line.pool.alive and time.monotonic() < end:
        time.sleep(0.05)
    assert line.pool.alive and ask(line).result(10).verdict is Code.OK


def test_a_full_queue_refuses_and_a_camera_waits(make_line):
    inspector = Inspector()
    inspector.gate.clear()
    line = make_line(inspector, capacity=2)
    accepted = [ask(line, Ids("first"))]
    while line.pool.waiting:
        time.sleep(0.01)
    with pytest.raises(Duplicate):
        ask(line, Ids("first"))
    accepted += [ask(line) for _ in range(2)]
    began = time.monotonic()
    with pytest.raises(Busy, match="the queue is full"):
        ask(line)
    assert time.monotonic() - began < 1
    told = []
    camera = threading.Thread(target=lambda: told.append(line.submit(np.zeros((2, 2, 3), np.uint8), "camera 1")))
    camera.start()
    camera.join(0.2)
    assert not told
    inspector.gate.set()
    camera.join(10)
    assert told[0].source == "camera 1" and [one.result(10).verdict for one in accepted] == [Code.OK] * 3


def test_the_end_settles_what_is_open(make_line):
    inspector = Inspector()
    inspector.gate.clear()
    line = make_line(inspector, sinks=[sink := Sink()])
    waiting = [ask(line) for _ in range(3)]
    line.close(0.2)
    assert all(one.result(1).verdict is Code.UNDEFINED for one in waiting) and len(sink.told) == 3 and sink.closed
    with pytest.raises(Busy):
        ask(line)
    with pytest.raises(Full):
        line.pool.submit(print)


def test_the_journal_tells_what_was_left(make_line, tmp_path):
    first = Journal(tmp_path)
    first.accept({"MeasId": "a", "PartId": "p1", "CreationTime": "t1", "Source": "http"})
    first.accept({"MeasId": "b", "PartId": "p2", "CreationTime": "t2", "Source": "camera"})
    first.settle(EVENT)
    with pytest.raises(UserError, match="another service writes"):
        Journal(tmp_path)
    with (tmp_path / "journal.jsonl").open("ab") as file:
        file.write(b'{"MeasId": "cut')  # a power failure
    first._guard.close()  # as the end of its process does
    second = Journal(tmp_path)
    line = make_line(Inspector(), journal=second, sinks=[sink := Sink()])
    assert [(e.meas_id, e.part_id, e.time, e.source, e.verdict, e.rule) for e in sink.told] == [
        ("a", "p1", "t1", "http", Code.UNDEFINED, LOST), ("b", "p2", "t2", "camera", Code.UNDEFINED, LOST)]  # fmt: skip
    ask(line, Ids("d")).result(10)
    assert [entry["MeasId"] for entry in line.recent] == ["m", "a", "b", "d"]
    line.close(1)
    third = Journal(tmp_path)
    assert third.left == [] and [entry["MeasId"] for entry in third.last] == ["m", "a", "b", "d"]
    third.close()


def test_a_journal_begins_anew_without_losing_what_is_open(tmp_path):
    journal = Journal(tmp_path, largest=2000)
    journal.accept({"MeasId": "open"})
    journal.settle(EVENT, to_be_told=True)
    for number in range(100):
        journal.accept({"MeasId": str(number)})
        journal.settle(done := replace(EVENT, meas_id=str(number)), to_be_told=bool(number % 2))
        journal.told(done)
    assert (tmp_path / "journal.jsonl").stat().st_size < 3000 and (tmp_path / "journal.old.jsonl").is_file()
    journal.close()
    again = Journal(tmp_path)
    assert [entry["MeasId"] for entry in again.left] == ["open"] and again.untold == [EVENT]
    again.close()


@pytest.mark.parametrize("at", [1, 2])
def test_a_kill_between_two_files_loses_nothing(tmp_path, monkeypatch, at):
    journal, calls = Journal(tmp_path, largest=500), []

    def killed(source, target):
        calls.append(target)
        if len(calls) == at:
            raise KeyboardInterrupt
        os.rename(source, target)

    monkeypatch.setattr("service.journal.os.replace", killed)
    with pytest.raises(KeyboardInterrupt):
        for number in range(100):
            journal.accept({"MeasId": str(number)})
    journal._guard.close()
    monkeypatch.undo()
    again = Journal(tmp_path)
    assert [entry["MeasId"] for entry in again.left] == list(map(str, range(number + 1)))
    again.close()


def test_a_disk_that_is_full_for_a_new_file_leaves_the_old_one_in_use(tmp_path, monkeypatch):
    def full(path, data):
        raise OSError(28, "No space left on device")

    journal = Journal(tmp_path, largest=500)
    monkeypatch.setattr("service.journal.write_through", full)
    for number in range(100):
        journal.accept({"MeasId": str(number)})
    assert journal.broken == "No space left on device"
    monkeypatch.undo()
    journal.accept({"MeasId": "last"})
    journal.accept({"MeasId": "very last"})
    assert journal.broken == ""
    journal.close()
    again = Journal(tmp_path)
    assert len(again.left) == 102
    again.close()


def test_a_sink_of_the_latest_outcome_is_not_told_of_an_earlier_service(make_line, tmp_path):
    """An old OK would pass for the verdict on the part that lies there now."""
    first = Journal(tmp_path)
    first.accept({"MeasId": "lost"})
    first.accept({"MeasId": "m"})
    first.settle(EVENT, to_be_told=True)
    first.close()
    every, latest = Sink(), Sink()
    latest.keeps = False
    line = make_line(Inspector(), journal=Journal(tmp_path), sinks=[every, latest])
    assert [event.meas_id for event in every.told] == ["lost", "m"] and latest.told == []
    ask(line, Ids("new")).result(10)
    assert [event.meas_id for event in latest.told] == ["new"]
    line.close(1)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_accepts_nothing(make_line, tmp_path):
    journal = Journal(tmp_path)
    line = make_line(Inspector(), journal=journal)
    good = journal._file
    journal._file = os.open("/dev/full", os.O_WRONLY)
    with pytest.raises(Busy, match="the journal cannot be written"):
        ask(line, Ids("m1"))
    assert line.ready["journal"] is False
    os.close(journal._file)
    journal._file = good
    assert ask(line, Ids("m1")).result(10).verdict is Code.OK and line.ready["journal"]


def request(chunks: list, length: int | None = None, **headers: str) -> SimpleNamespace:
    """A request whose body comes in pieces; None in their place waits for ever."""

    async def stream():
        for chunk in chunks:
            if chunk is None:
                await asyncio.sleep(60)
            else:
                yield chunk
                await asyncio.sleep(0)

    declared = {} if length is None else {"content-length": str(length)}
    return SimpleNamespace(stream=stream, headers=declared | headers)


async def receive(intake: Intake, given: SimpleNamespace, hold: float = 0.0) -> bytes | int:
    """The body, or the status with which it is refused."""
    try:
        async with intake.body(given) as body:
            await asyncio.sleep(hold)
            return body
    except Refused as error:
        return error.status


def test_bodies_within_and_beyond_their_limits():
    async def check() -> None:
        intake = Intake(most=100, budget=1000, seconds=0.2)
        assert await receive(intake, request([b"ab", b"c"])) == b"abc"
        assert await receive(intake, request([], length=101)) == 413
        assert await receive(intake, request([], length=10**30)) == 413
        assert await receive(intake, request([b"x" * 60, b"x" * 60])) == 413
        assert await receive(intake, request([b"x", None])) == 408
        assert await receive(intake, request([b"x"], **{"content-encoding": "gzip"})) == 415
        assert intake.held == 0

    asyncio.run(check())


def test_the_largest_unfinished_body_makes_room_for_usual_ones():
    async def check() -> None:
        intake = Intake(most=1000, budget=1200, seconds=5)
        hostile = asyncio.create_task(receive(intake, request([b"x" * 900, None])))
        usual = [asyncio.create_task(receive(intake, request([b"y" * 100] * 2), hold=0.1)) for _ in range(3)]
        assert await asyncio.gather(*usual) == [b"y" * 200] * 3
        assert await hostile == 503 and intake.held == 0

    asyncio.run(check())


def test_answers_do_not_wait_for_receipts():
    """Only sockets of a named protocol get TCP_NODELAY from asyncio: without it head and body of an answer are 40 ms apart."""
    with bind("127.0.0.1", 0, None) as listener:
        assert listener.proto == socket.IPPROTO_TCP
