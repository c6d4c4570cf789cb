"""The latest result to a PLC: holding registers of a Modbus TCP server, written with pymodbus.

The latest value wins: a PLC that could not be reached learns of the last result, not of those before. The counter of
results tells it that some were passed over. For a record without gaps there are MQTT and webhooks.
"""

from __future__ import annotations

import logging
import time
from threading import Condition, Event, Thread
from typing import TYPE_CHECKING

from pymodbus.client import ModbusTcpClient
from pymodbus.exceptions import ModbusException

from service.backoff import Backoff
from service.sinks.delivery import SinkState, Unavailable
from service.sinks.options import ModbusOptions
from service.sinks.registers import COUNT, values
from service.telling import Teller

if TYPE_CHECKING:
    from service.events import Inspected

HEARTBEAT = 1.0  # seconds
TIMEOUT = 2.0  # seconds for the connection and for each answer
LONGEST_PAUSE = 5.0  # seconds between two attempts: a PLC waits for its heartbeat
logging.getLogger("pymodbus").setLevel(logging.CRITICAL)  # each failure would be told by it too, at each attempt


class ModbusSink:
    """A sink for one PLC. Nothing of it is on disk.

    Args:
        options: where to.
        teller: takes what happens.
    """

    keeps = False

    def __init__(self, options: ModbusOptions, teller: Teller) -> None:
        self.options, self.teller = options, teller
        self.name = options.shown
        self.delivered = self.dropped = 0
        self.reason: str | None = None
        self._news = Condition()
        self._latest: Inspected | None = None
        self._came = time.monotonic()
        self._results = self._written = 0  # counters: of results, and of the last one that was written
        self._heartbeat = 0
        self._client = ModbusTcpClient(options.host, port=options.port, timeout=TIMEOUT, retries=0)
        self._closing = Event()
        self._deadline = float("inf")
        self._thread = Thread(target=self._run, name=self.name, daemon=True)
        self._thread.start()

    def publish(self, event: Inspected) -> None:
        """Take the place of the result before, written or not."""
        with self._news:
            self._latest, self._came = event, time.monotonic()
            self._results += 1
            self._news.notify()

    def healthy(self) -> bool:
        """Whether the PLC took the last writing; there is one each second."""
        return self.reason == ""

    def state(self) -> SinkState:
        """How it is now; `dropped` are results that a later one replaced before they were written."""
        reason = "not connected yet" if self.reason is None else self.reason
        return SinkState(int(self._results > self._written), self.delivered, self.dropped, 0, reason)

    def close(self, timeout: float) -> None:
        """Write the last result, where that can be done within `timeout` seconds, and end. The heartbeat stands still then."""
        self._deadline = time.monotonic() + timeout
        self._closing.set()
        with self._news:
            self._news.notify()
        self._thread.join(timeout)

    def _run(self) -> None:
        backoff = Backoff(longest=LONGEST_PAUSE)
        whole = True  # the PLC has lost its registers, or it is another one: after a failure all are written
        while not self._over():
            try:
                self._write(whole)
                self._reached()
                backoff.reset()
                whole = False
                with self._news:
                    self._news.wait_for(lambda: self._results > self._written or self._closing.is_set(), HEARTBEAT)
            except Exception as error:
                self._client.close()
                self._unreachable(error)
                whole = True
                self._closing.wait(backoff.next())
        self._client.close()

    def _over(self) -> bool:
        done = self._results == self._written or self.reason or time.monotonic() >= self._deadline
        return self._closing.is_set() and bool(done)

    def _write(self, whole: bool) -> None:
        """Write all registers where there is a new result, else the heartbeat. Raises `Unavailable`, `ModbusException`."""
        with self._news:
            event, results, age = self._latest, self._results, time.monotonic() - self._came
        self._heartbeat += 1
        numbers = values(event, self._heartbeat, results, age)
        fresh = results > self._written
        if not self._client.connected and not self._client.connect():
            raise Unavailable("no connection")
        first, unit = self.options.register, self.options.unit
        answer = self._client.write_registers(first, numbers if fresh or whole else numbers[:1], device_id=unit)
        if answer.isError():
            raise Unavailable(f"the server refuses registers {first} to {first + COUNT - 1} of unit {unit} ({_refusal(answer)})")
        if fresh:
            self._count(results)

    def _count(self, results: int) -> None:
        passed_over = results - self._written - 1
        self._written = results
        self.delivered += 1
        self.dropped += passed_over
        if passed_over:
            self.teller.repeated("dropped", f"{self.dropped} results were replaced by later ones before they were written")

    def _reached(self) -> None:
        if self.reason:
            self.teller.change("reached again")
        self.reason = ""

    def _unreachable(self, error: Exception) -> None:
        known = isinstance(error, (Unavailable, ModbusException, OSError))
        reason = str(error) if isinstance(error, Unavailable) else "no answer" if known else f"{type(error).__name__}: {error}"
        if reason != self.reason:
            self.reason = reason
            self.teller.change(f"{reason}; the latest result is written when it is back")


def _refusal(answer: object) -> str:
    codes = {1: "illegal function", 2: "illegal data address", 3: "illegal data value", 4: "device failure", 6: "busy"}
    code = getattr(answer, "exception_code", 0)
    return codes.get(code, f"code {code}")
