"""Run trainings and their scoring as processes of their own: resumable, several at a time, a crash is one row."""

from __future__ import annotations

import csv
import hashlib
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.machine import MIB, ROOT, high_water

DONE, TRAINED, FAILED = "done", "trained", "failed"
POLL_S = 0.5  # how often a process is asked for its memory: what it needed most it has long needed when it ends
KEPT = ("mAP50", "mAP50-95", "AP75", "AR1", "AR10", "AR100", "precision", "recall", "F1")


@dataclass
class Run:
    """One training and its scoring in `folder`.

    `training` are the arguments of `script` (train.py's) without the folder, `scoring` val.py's without weights, files and
    `split`, the part of the data that is scored; `digest` stands for all that the training depends on: a finished one with
    the same is not repeated.
    """

    label: str
    seed: int
    folder: Path
    training: list[str]
    scoring: list[str]
    digest: str
    epochs: int
    script: str = "train.py"
    split: str = "val"

    @property
    def results(self) -> Path:
        return self.folder / "train/results.csv"

    def found(self) -> dict[str, Any]:
        """The record in the folder, of whatever it is; {} when there is none."""
        try:
            return json.loads((self.folder / "run.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}

    def record(self) -> dict[str, Any]:
        """What is known of the run, {} when it never ran or ran with something else."""
        content = self.found()
        if content.get("digest") != self.digest:
            return {}
        rescore = content["status"] == DONE and content.get("split") != self.split
        return content | {"status": TRAINED} if rescore else content

    def in_the_way(self) -> bool:
        """Whether the folder has a training that is not this one, which would be lost."""
        content = self.found()
        return content.get("status") in (DONE, TRAINED) and content.get("digest") != self.digest

    def finished(self) -> bool:
        return self.record().get("status") == DONE

    def epochs_done(self) -> int:
        """Rows of its results.csv so far."""
        try:
            return max(self.results.read_text(encoding="utf-8").count("\n") - 1, 0)
        except OSError:
            return 0


def folder_name(label: str, seed: int) -> str:
    """A folder name of a label: itself where it can be one, else marked by a digest so that two never meet."""
    plain = re.sub(r"[^A-Za-z0-9.+=-]+", "_", label)
    mark = "" if plain == label else "-" + hashlib.sha256(label.encode()).hexdigest()[:6]
    return f"{plain}{mark}-s{seed}"


@dataclass
class Processes:
    """The processes of this comparison that are running, so that all end with it.

    `lock_file` is handed on to them: the folder stays locked while one of them lives, even if this process is killed.
    """

    lock_file: int | None = None
    live: set[subprocess.Popen] = field(default_factory=set)
    lock: threading.Lock = field(default_factory=threading.Lock)
    stopped: bool = False

    def run(self, command: list[str], log: Path, environment: dict[str, str]) -> tuple[int, float, int | None]:
        """Run a command, its output to the end of `log`; return status, seconds, peak resident memory in bytes.

        The memory is that of the process itself, without loader workers; None where the system does not tell it.

        Raises:
            KeyboardInterrupt: the comparison was stopped, here or in another thread; no process is left.
        """
        started = time.perf_counter()
        with log.open("a", encoding="utf-8") as output:
            with self.lock:
                if self.stopped:
                    raise KeyboardInterrupt
                process = subprocess.Popen(
                    command, stdout=output, stderr=subprocess.STDOUT, env=environment, start_new_session=True,
                    pass_fds=() if self.lock_file is None else (self.lock_file,),
                )  # fmt: skip
                self.live.add(process)
            try:
                memory = wait(process)
            except BaseException:
                self.stop()
                process.wait()
                raise
        with self.lock:
            self.live.discard(process)
            if self.stopped:  # it did not fail, it was ended
                raise KeyboardInterrupt
        return process.returncode, time.perf_counter() - started, memory and round(memory * MIB)

    def stop(self) -> None:
        """End what is running, with the processes that it has started (one per GPU), and start nothing more."""
        with self.lock:
            self.stopped = True
            for process in self.live:
                if process.returncode is None and hasattr(os, "killpg"):
                    os.killpg(process.pid, signal.SIGTERM)
                elif process.returncode is None:
                    process.terminate()


def wait(process: subprocess.Popen) -> float | None:
    """Wait for its end; return its peak resident memory in MiB as last seen.

    Not from `os.wait4`: that counts what this process, from which it was forked, once needed.
    """
    peak = None
    while True:
        try:
            process.wait(POLL_S)
            return peak
        except subprocess.TimeoutExpired:
            peak = high_water(process.pid) or peak


def execute(run: Run, processes: Processes, environment: dict[str, str], commit: str) -> dict[str, Any]:
    """Train and score what is not there yet; return the record, which is also written to `run.json`."""
    record = run.record()
    if record.get("status") == DONE:
        return record
    if record.get("status") != TRAINED:
        record = train(run, processes, environment) | {"commit": commit}
    _write(run, record)  # as trained, also where another split was scored: its boxes are about to go
    if record["status"] == TRAINED:
        scored = score(run, processes, environment)
        if scored["status"] == DONE:  # else the next time scores it again, and need not train it
            _write(run, record | scored)
        record |= scored
    return record


def _write(run: Run, record: dict[str, Any]) -> None:
    part = run.folder / ".run.json.part"
    part.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    os.replace(part, run.folder / "run.json")


def train(run: Run, processes: Processes, environment: dict[str, str]) -> dict[str, Any]:
    """Train from the start; return the record: status, times, memory, and the error of a run that failed."""
    run.folder.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(run.folder / "train", ignore_errors=True)
    for name in ("run.json", "train.log", "val.log", "val.json", "boxes.npz"):
        (run.folder / name).unlink(missing_ok=True)
    place = ["--project", str(run.folder), "--name", "train", "--exist-ok", "True"]
    log = run.folder / "train.log"
    command = [sys.executable, str(ROOT / run.script), *run.training, *place]
    status, seconds, memory = processes.run(command, log, environment)
    record = {
        "label": run.label, "seed": run.seed, "digest": run.digest, "arguments": run.training, "epochs": run.epochs,
        "threads": environment.get("OMP_NUM_THREADS"), "wall_seconds": seconds, "peak_bytes": memory,
    }  # fmt: skip
    weights = run.folder / "train/weights/last.pt"
    if status or not weights.is_file():
        return record | {"status": FAILED, "error": last_error(log, status)}
    if error := halved_batch(log):
        return record | {"status": FAILED, "error": error}
    return record | {"status": TRAINED, "gpu_gb": gpu_memory(log)} | timing(run.results)


def halved_batch(log: Path) -> str | None:
    """What to say of a run whose batch ultralytics halved because memory was short: it is no pair of the others."""
    found = re.search(r"with batch=(\d+)\. Reducing to batch=", log.read_text(encoding="utf-8", errors="replace"))
    if not found:
        return None
    went_on = "the trainer went on with a smaller one, which compares with no other run; give all a smaller --batch"
    return f"out of memory with batch {found[1]}: {went_on}"


def score(run: Run, processes: Processes, environment: dict[str, str]) -> dict[str, Any]:
    """Score the averaged weights of the last epoch: no epoch was chosen on what it is scored on."""
    report, boxes = run.folder / "val.json", run.folder / "boxes.npz"
    weights = run.folder / "train/weights/last.pt"
    command = [sys.executable, str(ROOT / "val.py"), "--weights", str(weights), *run.scoring, "--split", run.split]
    command += ["--no-plots", "--json", str(report), "--detections", str(boxes), "--save-dir", str(run.folder / "val")]
    log = run.folder / "val.log"
    log.unlink(missing_ok=True)
    status, seconds, _ = processes.run(command, log, environment)
    if status not in (0, 1) or not report.is_file():  # 1: images were left out, and the log says so
        return {"status": FAILED, "error": last_error(log, status)}
    content = json.loads(report.read_text(encoding="utf-8"))
    metrics = {name: content["metrics"][name] for name in KEPT}
    facts = {"model": content["model"], "images": content["settings"]["images"], "score_seconds": seconds}
    facts["split"] = run.split
    return {"status": DONE, "metrics": metrics} | facts


def last_error(log: Path, status: int) -> str:
    """The line of a log that says what went wrong: the last with an error in it, else the last of all.

    Not the line that asks to report a bug, which follows every traceback.
    """
    if status < 0:
        return f"ended by signal {signal.Signals(-status).name}" + (" (out of memory?)" if status == -9 else "")
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines()]
    lines = [line for line in lines if line and "is a bug in" not in line]
    told = [line for line in lines if re.match(r"error:|([\w.]*(Error|Exception)|[\w.]+\.error)\b", line)]
    return (told or lines or [f"ended with status {status}"])[-1][:300]


def timing(results: Path) -> dict[str, Any]:
    """Seconds of training and per epoch from results.csv, whose `time` column counts from the start.

    The last epoch has a validation in it and the first the warming up: neither counts where others are there.
    """
    with results.open(newline="", encoding="utf-8") as file:
        times = [float(row["time"]) for row in csv.DictReader(file)]
    epochs = [after - before for before, after in zip([0.0, *times], times)]
    inner = epochs[1:-1] or epochs[:1]
    return {"train_seconds": times[-1], "epoch_seconds": statistics.median(inner)}


def gpu_memory(log: Path) -> float | None:
    """Largest GPU memory in GB that the progress lines showed, None on a CPU."""
    shown = re.findall(r"^\s*\d+/\d+\s+([\d.]+)G\b", log.read_text(encoding="utf-8", errors="replace"), re.M)
    largest = max(map(float, shown), default=0.0)
    return largest or None
