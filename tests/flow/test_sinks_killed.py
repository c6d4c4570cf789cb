"""The service is killed on the way from an outcome to its sinks, at each point there is: every sink has it after the restart."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path

import pytest

for needed in ("prometheus_client", "PIL"):
    pytest.importorskip(needed, reason=f"the service needs {needed}: pip install -r requirements-serve.txt")

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]

from inspection.rules import Code, Verdict  # noqa: E402
from service.events import Box  # noqa: E402
from service.inspector import Outcome  # noqa: E402
from service.journal import Journal  # noqa: E402
from service.line import Ids, Line  # noqa: E402
from service.metrics import Metrics  # noqa: E402
from service.pool import Pool  # noqa: E402
from service.sinks.backlog import Backlog  # noqa: E402
from service.sinks.delivery import Delivery  # noqa: E402
from service.telling import Teller  # noqa: E402

SINKS = ("first", "second")
POINTS = {  # who is killed at which of its methods, before it or after it
    "before the outcome is written": ("journal", "settle", True),
    "before the sinks": ("journal", "settle", False),
    "between two sinks": ("first", "publish", False),
    "before the sinks are noted": ("journal", "told", True),
}
KILLED = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); from test_sinks_killed import inspect; inspect(*sys.argv[1:])"


class Away:
    """The other side is never reached: what it is to have stays in the backlog."""

    batch = 1

    def check(self) -> None:
        raise ConnectionError

    def deliver(self, bodies: Sequence[bytes]) -> None:
        raise ConnectionError

    def close(self) -> None:
        pass


class Inspector:
    def inspect(self, picture: bytes) -> Outcome:
        return Outcome(Verdict(Code.NG, "scratch 0.91 >= 0.42", score=0.91), (Box(1, 2, 3, 4, 0.91, 0, "scratch"),), 8, 9)


def parts(folder: Path, sinks: Sequence[str]) -> tuple[Journal, list[Delivery]]:
    journal = Journal(folder / "kept")
    return journal, [Delivery(name, Away(), Backlog(folder / name, 2**20, Teller(name)), Teller(name)) for name in sinks]


def start(journal: Journal, sinks: list[Delivery]) -> Line:
    return Line(Inspector(), Pool(4, 1, 20.0), Metrics(), journal, sinks)


def inspect(folder: str, point: str) -> None:
    """Inspect one image and be killed; runs in a process of its own."""
    journal, sinks = parts(Path(folder), SINKS)
    who, name, before = POINTS[point]
    holder = journal if who == "journal" else sinks[0]
    work = getattr(holder, name)

    def killed(*args: object, **named: object) -> None:
        if not before:
            work(*args, **named)
        os.kill(os.getpid(), signal.SIGKILL)

    setattr(holder, name, killed)
    done: Future = Future()
    start(journal, sinks).accept(b"x", "http", done.set_result, Ids("m1", "p1"))
    done.result(20)


def after_a_start(folder: Path, sinks: Sequence[str] = SINKS) -> list[list[dict]]:
    """Start the service and end it; the results that wait for each sink then."""
    start(*parts(folder, sinks)).close(0.1)
    lines = [[line for path in sorted((folder / sink).glob("*.log")) for line in path.read_bytes().splitlines()] for sink in sinks]
    return [[json.loads(line[9:]) for line in some] for some in lines]


@pytest.mark.parametrize("point", POINTS)
def test_each_sink_has_the_outcome_at_least_once(tmp_path: Path, point: str) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, tmp_path, point], cwd=ROOT, check=False, timeout=60)
    assert done.returncode == -signal.SIGKILL
    verdict = "UNDEFINED" if point == "before the outcome is written" else "NG"
    if verdict == "NG":
        after_a_start(tmp_path, sinks=())  # what sinks have not been told is kept for them
    told = after_a_start(tmp_path)
    for results in told:
        assert results and {(one["MeasId"], one["PartId"], one["Verdict"]) for one in results} == {("m1", "p1", verdict)}
        assert all(one == results[0] for one in results), "a repeat is the same result"
        assert verdict == "UNDEFINED" or results[0]["Boxes"] == [{"Class": "scratch", "ClassIndex": 0, "Score": 0.91, "Box": [1, 2, 3, 4]}]
    assert after_a_start(tmp_path) == told, "told once more at each start"
