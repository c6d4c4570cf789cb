"""How long a comparison will take, told before it starts: from finished runs, else from a probe of a few steps."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from benchmarks.harness.plan import PLAIN, Method, command
from benchmarks.harness.runs import DONE, FAILED, Run, score, train
from benchmarks.harness.schedule import Schedule, hours_left, seconds_of
from cfg import UserError

STEPS = 4  # of each of the probe's three epochs; the second one is timed


def seeds_that_fit(schedule: Schedule, hours: float, tell: Callable[[str], None]) -> int:
    """The largest number of seeds, up to the one asked for, whose runs end in time; says what it found.

    Raises:
        UserError: not even one seed fits, or a probe failed.
    """
    seconds = estimate(schedule, tell)
    fits = [n for n in range(1, schedule.seeds + 1) if hours_left(schedule, seconds, n) <= hours]
    whole = hours_left(schedule, seconds, schedule.seeds)
    for label, one in seconds.items():
        tell(f"  {label}: about {one / 60:.1f} min a run")
    if not fits:
        one = hours_left(schedule, seconds, 1)
        raise UserError(f"--hours {hours:g}: one seed of {len(seconds)} methods takes about {one:.2g} h, "
                        f"all {schedule.seeds} {whole:.2g} h; give more hours, or fewer methods or epochs")  # fmt: skip
    if max(fits) < schedule.seeds:
        tell(f"--hours {hours:g}: all {schedule.seeds} seeds take about {whole:.2g} h; running {max(fits)} "
             f"(about {hours_left(schedule, seconds, max(fits)):.2g} h)")  # fmt: skip
    else:
        tell(f"--hours {hours:g}: about {whole:.2g} h to go")
    return max(fits)


def estimate(schedule: Schedule, tell: Callable[[str], None]) -> dict[str, float]:
    """Seconds of a run, by label: the median of the finished ones, else start-up plus epochs as a probe timed them."""
    finished, seconds = schedule.finished(), {}
    for method in schedule.methods:
        if method.longer:
            continue
        known = seconds_of(finished, method.label)
        if known is None:
            tell(f"--hours: timing a few steps of {method.label}")
        seconds[method.label] = probe(schedule, method) if known is None else known
    for method in schedule.methods:
        if method.longer:  # as long as the run it takes its length from
            wanted = [method.reference] if method.reference else [m.label for m in schedule.methods if not m.control]
            seconds[method.label] = max(seconds[label] for label in [*wanted, PLAIN])
    return seconds


def probe(schedule: Schedule, method: Method) -> float:
    """Train on a few batches for three epochs, and score; return the seconds that a whole run would take.

    A run = start-up, validations, clean-up and scoring, which the probe has too, + epochs * steps * (seconds of a step).
    """
    images, used = training_images(method.settings)
    few = min(max(int(method.settings.get("batch", 16)), 1) * STEPS, used)
    folder = schedule.out / "probe"
    arguments = [*command(schedule.question, method, 0), "--epochs", "3", "--fraction", str(few / images)]
    run = Run(method.label, 0, folder, arguments, schedule.scoring, "probe", 3, method.script, schedule.split)
    environment = os.environ | schedule.slots[0]
    try:
        record = train(run, schedule.processes, environment)
        record |= score(run, schedule.processes, environment) if record["status"] != FAILED else {}
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if record["status"] != DONE:
        raise UserError(f"method {method.label}: {record['error']}; correct it, or leave the method out")
    fixed = max(record["wall_seconds"] - 3 * record["epoch_seconds"], 0.0) + record["score_seconds"]
    return fixed + method.epochs * record["epoch_seconds"] * used / few


def training_images(settings: dict) -> tuple[int, int]:
    """Number of images in the training part, and how many of them a run uses (``--fraction``)."""
    from data import resolve
    from data.dataset import part_paths
    from data.files import list_images

    content = resolve(settings["data"], require=("train",))
    images = sum(len(list_images(Path(part))) for part in part_paths(content, "train"))
    fraction = settings.get("fraction") or 1.0
    used = fraction if isinstance(fraction, int) and fraction > 1 else images * float(fraction)  # a count, or a share
    return images, min(max(round(used), 1), images)
