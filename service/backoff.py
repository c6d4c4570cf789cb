"""How long to wait before something that failed is tried again."""

from __future__ import annotations

import random

FIRST, LONGEST = 0.5, 30.0  # seconds


class Backoff:
    """Pauses that double with each failure in a row, from `first` to `longest` seconds.

    Each is between half of that and all of it, by chance: those who lost one server do not all come back at once.
    """

    def __init__(self, first: float = FIRST, longest: float = LONGEST) -> None:
        self.first, self.longest = first, longest
        self.failures = 0

    def next(self) -> float:
        """Seconds to wait after one more failure."""
        pause = min(self.longest, self.first * 2.0 ** min(self.failures, 32))
        self.failures += 1
        return pause * random.uniform(0.5, 1.0)

    def reset(self) -> None:
        """After a success."""
        self.failures = 0
