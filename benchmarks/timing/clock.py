"""Time spent in the parts of something, without the parts inside a part."""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Iterator
from typing import Any

import torch

# By the clock on the wall, or the processor time of this process, on which other programs have less influence.
READ = {"wall": time.perf_counter, "cpu": time.process_time}


class Clock:
    """Sums milliseconds by part while it is switched on; waits for a GPU at each border then."""

    def __init__(self, device: torch.device, kind: str = "wall") -> None:
        self.device, self.read, self.active = device, READ[kind], False
        self.parts: dict[str, float] = {}
        self._open: list[str] = []
        self._since = 0.0

    def restart(self, active: bool = True) -> None:
        """Forget all, and go on or stay off."""
        self.parts, self._open, self.active = {}, [], active

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """What runs inside is part `name`; the part around it stands still meanwhile."""
        if not self.active:
            yield
            return
        self._settle()
        self._open.append(name)
        try:
            yield
        finally:
            self._settle()
            self._open.pop()

    def watch(self, thing: Any, method: str, name: str) -> None:
        """Time all calls of `thing.method` as part `name`."""
        original = getattr(thing, method)

        @functools.wraps(original)
        def timed(*args: Any, **kwargs: Any) -> Any:
            with self.part(name):
                return original(*args, **kwargs)

        setattr(thing, method, timed)

    def now(self) -> float:
        """Milliseconds since some moment, when the device has done what it was given."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return self.read() * 1e3

    def _settle(self) -> None:
        """Give the time since the last border to the innermost open part."""
        now = self.now()
        if self._open:
            self.parts[self._open[-1]] = self.parts.get(self._open[-1], 0.0) + now - self._since
        self._since = now
