"""The holding registers that a PLC reads, 25 of 16 bits. `docs/line-sinks.md` has the table."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the command line reads COUNT, and waits for no numpy
    from service.events import Inspected

PART_REGISTERS = 16  # for 32 characters
COUNT = 9 + PART_REGISTERS
MOST = 0xFFFF


def values(event: Inspected | None, heartbeat: int, results: int, age: float) -> list[int]:
    """Return what the registers hold, (25,) numbers from 0 to 65535.

    Args:
        event: the latest result, None before the first.
        heartbeat: counts up with each writing.
        results: how many results there were since the start; from 65535 on it goes on at 1, 0 is "none yet".
        age: of the result, in seconds.
    """
    number = (results - 1) % MOST + 1 if results else 0
    if event is None:
        return [heartbeat & MOST, 0, number] + [0] * (COUNT - 3)
    check = zlib.crc32(event.meas_id.encode())
    facts = len(event.boxes), round(10_000 * event.score), round(event.latency_ms), round(1000 * age)
    part = event.part_id.encode("ascii", "replace")[: 2 * PART_REGISTERS].ljust(2 * PART_REGISTERS, b"\0")
    return [
        heartbeat & MOST,
        int(event.verdict),
        number,
        *(min(MOST, max(0, fact)) for fact in facts),
        check >> 16,
        check & MOST,
        *(part[i] << 8 | part[i + 1] for i in range(0, len(part), 2)),
    ]
