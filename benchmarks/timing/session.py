"""What all three commands share: settings, workers by key, a bar with the time left."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.timing.rounds import Samples
from benchmarks.timing.worker import Worker, WorkerFailed

BAR = "{l_bar}{bar}| {n:.0f}/{total:.0f} turns [{elapsed}, {remaining} left]"


@dataclass(frozen=True)
class Settings:
    """How to measure, whatever is measured.

    Attributes:
        device: ``cpu`` or ``cuda:N``.
        threads: CPU threads of every worker.
        rounds: turns of each key.
        imgsz: side of the images in pixels.
        classes: class names of models built from a YAML.
        data: data YAML for INT8, or None.
        out: folder of results and logs.
        clock: training: of `clock.READ`.
        limit_s: seconds after which a worker counts as stuck.
    """

    device: str
    threads: int
    rounds: int
    imgsz: int
    classes: list[str]
    data: str | None
    out: Path
    clock: str = "wall"
    limit_s: float = 1800.0

    def worker(self, factory: str, name: str, **options: Any) -> Worker:
        """Start a worker whose log has `name`. Raises `WorkerFailed`."""
        log = self.out / "logs" / f"{re.sub(r'[^A-Za-z0-9.+-]+', '_', name)}.log"
        return Worker(factory, options, self.threads, log, self.limit_s)


class Crew:
    """The workers that are alive at present, by key; all end with the `with` block."""

    def __init__(self, settings: Settings, samples: Samples) -> None:
        self.settings, self.samples = settings, samples
        self.workers: dict[Hashable, Worker] = {}

    def add(self, key: Hashable, factory: str, name: str, **options: Any) -> dict[str, Any] | None:
        """Start a worker; its facts, or None with the reason noted under its key."""
        try:
            self.workers[key] = self.settings.worker(factory, name, **options)
        except WorkerFailed as error:
            self.samples.fail(key, str(error))
            return None
        return self.workers[key].facts

    def ask(self, key: Hashable, **question: Any) -> dict[str, Any]:
        """A worker's answer. Raises `WorkerFailed`."""
        return self.workers[key].ask(**question)

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self.workers.values():
            worker.close()


@contextlib.contextmanager
def bar_of(total: int) -> Iterator[Any]:
    """A bar that counts turns and says how long the rest will take."""
    from tqdm import tqdm

    with tqdm(total=total, bar_format=BAR, disable=None) as bar:
        yield bar
