"""Seed by seed, all methods of a seed before the next; several runs at a time; a bar with the time left."""

from __future__ import annotations

import hashlib
import heapq
import os
import queue
import statistics
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.harness.lock import locked
from benchmarks.harness.plan import PLAIN, Method, Question, command
from benchmarks.harness.runs import DONE, FAILED, Processes, Run, execute, folder_name
from cfg import UserError

POLL_S = 1.0
Records = dict[tuple[str, int], dict[str, Any]]


class Schedule:
    """The runs of a comparison.

    Args:
        question, methods: what is compared (`plan`), after `examine`.
        seeds: number of seeds: 0, 1 ...
        out: folder of the runs.
        scoring: val.py's arguments for every run, without weights, files and split.
        split: part of the data that all are scored on.
        slots: environment of each run that may go on at the same time.
        commit: of the code, noted with each run.
    """

    def __init__(self, question: Question, methods: list[Method], seeds: int, out: Path, scoring: list[str],
                 slots: list[dict[str, str]], commit: str, split: str = "val") -> None:  # fmt: skip
        self.question, self.methods, self.seeds, self.out = question, methods, seeds, out
        self.scoring, self.slots, self.commit, self.split = scoring, slots, commit, split
        self.processes = Processes()
        self.records: Records = {}

    def run_of(self, method: Method, seed: int) -> Run:
        """The run of a method and seed; a `longer` control needs its reference to be measured.

        Raises:
            LookupError: the run that gives its length is not there or failed.
        """
        epochs = self.longer_epochs(method) if method.longer else method.epochs
        training = command(self.question, method, seed, epochs if method.longer else None)
        digest = hashlib.sha256(f"{method.digest} {seed} {epochs}".encode()).hexdigest()
        folder = self.out / "runs" / folder_name(method.label, seed)
        return Run(method.label, seed, folder, training, self.scoring, digest, epochs, method.script, self.split)

    def longer_epochs(self, method: Method) -> int:
        """Epochs that take a plain run as long as its reference took, by the first seed that has both.

        One seed's ratio for all: the control is then the same in every seed, and does not change when more are added.
        """
        by_label = {m.label: m for m in self.methods}
        chosen = [by_label[method.reference]] if method.reference else [m for m in self.methods if not m.control]
        for seed in range(self.seeds):
            plain = self._measured(by_label[PLAIN], seed)
            other = [record for m in chosen if (record := self._measured(m, seed))]
            if plain and other:
                dearest = max(other, key=lambda r: r["epoch_seconds"] * r["epochs"])
                ratio = dearest["epoch_seconds"] * dearest["epochs"] / (plain["epoch_seconds"] * plain["epochs"])
                return max(round(method.epochs * ratio), 1)
        raise LookupError(f"the runs of '{PLAIN}' and {method.reference or 'a distilled method'} must end well first")

    def _measured(self, method: Method, seed: int) -> dict[str, Any]:
        record = self.run_of(method, seed).record()
        return record if record.get("status") == DONE else {}

    def pairs(self) -> Iterator[tuple[Method, int]]:
        """Methods and seeds in the order they run: controls that wait for others come last in their seed."""
        for seed in range(self.seeds):
            yield from ((m, seed) for m in sorted(self.methods, key=lambda m: m.longer))

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Make the folder and keep it to ourselves.

        Raises:
            UserError: it cannot be made, another comparison is at work there, or it has what would be overwritten.
        """
        try:
            (self.out / "runs").mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"--out {self.out}: cannot be made ({error.strerror}); choose another folder") from None
        with locked(self.out) as self.processes.lock_file:
            self._check_folders()
            yield

    def _check_folders(self) -> None:
        """Raise `UserError` where a finished training with other arguments or data would be overwritten.

        But for a `longer` control, whose length follows the others: it is trained again.
        """
        for method, seed in self.pairs():
            if not method.longer and (run := self.run_of(method, seed)).in_the_way():
                raise UserError(f"{run.folder}: has a training of {method.label} with other arguments, data or models; "
                                "choose another --out, or remove that folder")  # fmt: skip

    def finished(self) -> Records:
        """Records of the runs that are done already."""
        found: Records = {}
        for method, seed in self.pairs():
            try:
                record = self.run_of(method, seed).record()
            except LookupError:
                continue
            if record.get("status") == DONE:
                found[method.label, seed] = record
        return found

    def run(self, tell: Callable[[str], None], bar: Any = None) -> Records:
        """Run what is not finished; return the records of all, crashed runs among them."""
        self.records = self.finished()
        free: queue.Queue[dict[str, str]] = queue.Queue()
        for slot in self.slots:
            free.put(slot)
        waiting = [pair for pair in self.pairs() if (pair[0].label, pair[1]) not in self.records]
        futures: dict[tuple[str, int], Future] = {}
        with ThreadPoolExecutor(len(self.slots)) as pool:
            try:
                for method, seed in waiting:
                    # Threads start in this order, so that what a run waits for is never behind it.
                    futures[method.label, seed] = pool.submit(self._one, method, seed, dict(futures), free)
                    if len(futures) == 1 and not self.records:
                        self._let_first_start(futures[method.label, seed], self.run_of(method, seed))
                self._watch(futures, tell, bar)
            except BaseException:
                self.processes.stop()
                pool.shutdown(cancel_futures=True)
                raise
        return self.records

    def _one(self, method: Method, seed: int, earlier: dict[tuple[str, int], Future], free: queue.Queue) -> dict:
        if method.longer:
            wait_for(earlier.values())
        slot = free.get()
        try:
            run = self.run_of(method, seed)
            return execute(run, self.processes, os.environ | slot, self.commit)
        except LookupError as error:
            return {"label": method.label, "seed": seed, "status": FAILED, "error": str(error.args[0])}
        except OSError as error:
            place = error.filename or self.out
            return {"label": method.label, "seed": seed, "status": FAILED, "error": f"{place}: {error.strerror}"}
        finally:
            free.put(slot)

    def _let_first_start(self, future: Future, run: Run) -> None:
        """Wait for its first epoch: it writes down what it read of the data set, which the others only look up."""
        while len(self.slots) > 1 and not future.done() and not run.epochs_done():
            time.sleep(POLL_S)

    def _watch(self, futures: dict[tuple[str, int], Future], tell: Callable[[str], None], bar: Any) -> None:
        left = dict(futures)
        started, before = time.monotonic(), self.progress(left)
        while left:
            wait_for(left.values(), timeout=POLL_S, return_when="FIRST_COMPLETED")
            for key in [key for key, future in left.items() if future.done()]:
                self.records[key] = record = left.pop(key).result()
                tell(line_of(record) + self._to_go(left, before, time.monotonic() - started))
            if bar is not None:
                bar.n = self.progress(left)
                bar.refresh()

    def _to_go(self, left: dict[tuple[str, int], Future], before: float, seconds: float) -> str:
        """What is left, at the pace since the start: a bar is seen on a terminal only.

        Args:
            before: epochs that were done at the start, `seconds` ago.
        """
        done, total = self.progress(left), sum(method.epochs for method, _ in self.pairs())
        if not left or done <= before:
            return ""
        return f"; {len(left)} runs to go, about {seconds * (total - done) / (done - before) / 3600:.2g} h"

    def progress(self, left: dict[tuple[str, int], Future]) -> float:
        """Epochs of all runs so far; those of a crashed run count as done."""
        done = 0.0
        for method, seed in self.pairs():
            if (method.label, seed) not in left:
                done += method.epochs
                continue
            try:
                run = self.run_of(method, seed)
            except LookupError:
                continue
            done += min(run.epochs_done() / run.epochs, 1.0) * method.epochs
        return done


def line_of(record: dict[str, Any]) -> str:
    """One line about a run that ended."""
    name = f"{record['label']}, seed {record['seed']}"
    if record["status"] != DONE:
        return f"{name}: FAILED: {record['error']}"
    score = record["metrics"]
    minutes = record["train_seconds"] / 60
    return f"{name}: mAP50 {score['mAP50']:.3f}, mAP50-95 {score['mAP50-95']:.3f}, trained in {minutes:.1f} min"


def make_slots(jobs: int, device: str | None, threads: str | None) -> list[dict[str, str]]:
    """Environment of each run that may go on at the same time: its GPU, in turn where runs are more, or its share of the cores.

    Args:
        jobs: how many.
        device: train.py's ``--device``, None when not given.
        threads: OMP_NUM_THREADS as the person set it, None when not set.

    Raises:
        UserError: several runs and GPUs named as well.
    """
    import torch

    from models.environment import available_cpus

    share = {"OMP_NUM_THREADS": threads or str(max(available_cpus() // jobs, 1)), "PYTHONUNBUFFERED": "1"}
    gpus = torch.cuda.device_count() if device != "cpu" else 0
    if not gpus or (device is not None and jobs == 1):
        return [share] * jobs
    if device is not None:
        raise UserError(f"--jobs {jobs} gives the runs their GPUs; leave --device {device} out")
    names = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if os.environ.get("CUDA_VISIBLE_DEVICES") else [str(i) for i in range(gpus)]
    return [share | {"CUDA_VISIBLE_DEVICES": names[i % gpus]} for i in range(jobs)]


def hours_left(schedule: Schedule, seconds: dict[str, float], seeds: int) -> float:
    """Hours for what is not finished with so many seeds: each run goes to the slot that is free first.

    Args:
        seconds: of one run, by label.
    """
    finished = schedule.finished()
    free, ends = [0.0] * len(schedule.slots), [0.0]
    for method, seed in schedule.pairs():
        if seed < seeds and (method.label, seed) not in finished:
            start = max(heapq.heappop(free), max(ends) if method.longer else 0.0)  # it waits for all before it
            ends.append(start + seconds[method.label])
            heapq.heappush(free, ends[-1])
    return max(ends) / 3600


def seconds_of(finished: Records, label: str) -> float | None:
    """Median seconds of the finished runs of a method, scoring included; None when there are none."""
    known = [r["wall_seconds"] + r.get("score_seconds", 0.0) for (name, _), r in finished.items() if name == label]
    return statistics.median(known) if known else None
