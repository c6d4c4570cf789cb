"""Ask in turns, A B C A B C ..., so that whatever else goes on in the machine disturbs all alike."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from typing import Any

from benchmarks.timing.worker import WorkerFailed

Values = dict[str, Any]


class Samples:
    """What was measured: numbers by key and round, and the reasons of keys that have none.

    Attributes:
        interrupted: Ctrl-C ended the measuring (`until_interrupted`).
    """

    def __init__(self) -> None:
        self.values: dict[Hashable, dict[int, Values]] = {}
        self.errors: dict[Hashable, str] = {}
        self.interrupted = False

    def fail(self, key: Hashable, reason: str) -> None:
        """Note why a key has no numbers, or no more of them."""
        self.errors.setdefault(key, reason)

    def column(self, key: Hashable, name: str) -> dict[int, float]:
        """One number of a key by round; rounds without it are left out."""
        return {number: one[name] for number, one in self.values.get(key, {}).items() if name in one}

    def listed(self, key: Hashable, name: str) -> list[float]:
        """One number of a key, over all rounds."""
        return list(self.column(key, name).values())

    @contextlib.contextmanager
    def until_interrupted(self, keys: Sequence[Hashable], rounds: int) -> Iterator[None]:
        """Ctrl-C within ends the measuring and not the program: what there is by then is the result.

        Keys that have not had all their rounds say so. Where nothing was measured yet, KeyboardInterrupt goes on.
        """
        try:
            yield
        except KeyboardInterrupt:
            if not self.values:
                raise
            self.interrupted = True
            for key in keys:
                if (done := len(self.values.get(key, {}))) < rounds:
                    self.fail(key, f"interrupted after {done} of {rounds} rounds")


def take_turns(
    keys: Sequence[Hashable], rounds: int, ask: Callable[[Any], Mapping[str, Any]], samples: Samples, first: int = 0,
    tick: Callable[[], None] = lambda: None,
) -> None:  # fmt: skip
    """Ask every key once per round, in order, for all rounds; add the answers to `samples`.

    A key that fails is not asked again; what it gave before stays, with the reason beside it.

    Args:
        first: number of the first round: rounds of different groups of workers must not share one.
        tick: called after every turn, also those of keys that failed.
    """
    for number, key in itertools.product(range(first, first + rounds), keys):
        if key not in samples.errors:
            try:
                samples.values.setdefault(key, {})[number] = dict(ask(key))
            except WorkerFailed as error:
                samples.fail(key, str(error))
        tick()


def groups(members: Sequence[Any], reference: Any, size: int) -> Iterator[list[Any]]:
    """Split `members` into lists of at most `size`, the reference first in each: it is what the others are divided by.

    Of at least two where there are others: a group of the reference alone compares nothing.
    """
    others = [member for member in members if member != reference]
    step = max(size - 1, 1)
    if not others:
        yield [reference]
    for start in range(0, len(others), step):
        yield [reference, *others[start : start + step]]
