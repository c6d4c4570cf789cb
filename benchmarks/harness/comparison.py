"""A comparison from the command line to the report: checked first, run under a bar, told."""

from __future__ import annotations

import argparse
import datetime
import shlex
import sys
from pathlib import Path
from typing import Any

from tqdm import tqdm

from benchmarks.harness.ablation import Ablation, beside_ours, load, methods_of
from benchmarks.harness.budget import seeds_that_fit
from benchmarks.harness.compare import compare
from benchmarks.harness.plan import Method, Question, check_arguments, examine, parse_methods
from benchmarks.harness.plot import plot
from benchmarks.harness.published import beside
from benchmarks.harness.report import accuracy, differences, write
from benchmarks.harness.schedule import Records, Schedule, make_slots
from benchmarks.machine import commit, machine
from cfg import UserError
from data import resolve, validate
from engine.settings import known_names, read_command_line


def prepare(args: argparse.Namespace, rest: list[str], threads: str | None) -> Schedule:
    """Check everything that can be checked, and plan the runs; writes nothing.

    Args:
        args, rest: the command line of kd.py, ours and train.py's.
        threads: OMP_NUM_THREADS as the person set it.

    Raises:
        UserError: anything that train.py or val.py would refuse later.
    """
    if args.hours is not None and not args.hours > 0:
        raise UserError(f"--hours: expected more than 0, got {args.hours:g}; leave it out for no limit")
    check_arguments(rest, known_names())
    args.table, question, methods = wanted(args, rest)
    if args.baseline not in [method.label for method in methods]:
        raise UserError(f"--baseline {args.baseline}: expected one of --methods {args.methods}; add it there")
    resolve(args.data, require=(args.split,))
    if not validate(args.data).boxes[args.split]:
        raise UserError(f"{args.data}: expected labelled boxes in split '{args.split}', got none; check the label files, or "
                        "choose another --split")  # fmt: skip
    device = read_command_line(rest, known_names()).get("device")
    slots = make_slots(args.jobs, None if device is None else str(device), threads)
    tell(f"checking {len(methods)} methods")
    examine(question, methods)
    scoring = ["--data", args.data]
    scoring += ["--device", str(device)] if device is not None and "," not in str(device) else []
    return Schedule(question, methods, args.seeds, Path(args.out).resolve(), scoring, slots, commit(), args.split)


def wanted(args: argparse.Namespace, rest: list[str]) -> tuple[Ablation | None, Question, list[Method]]:
    """The published table (None without ``--ablation``), the question and the methods; completes `args.baseline`.

    Raises:
        UserError: neither or both of ``--cfg`` and ``--ablation``, or a method or table that is none.
    """
    if bool(args.cfg) == bool(args.ablation):
        raise UserError("--cfg, --ablation: expected one of them; use --cfg s-model.yaml or --ablation ts-3")
    table = load(args.ablation) if args.ablation else None
    arguments = (*(table.arguments if table else ()), *rest)
    question = Question(args.cfg or "", args.data, args.teacher, args.teacher_cfg, arguments, args.rival_cfg,
                        args.rival_teacher)  # fmt: skip
    if table:
        if args.methods or args.baseline:
            raise UserError("--ablation: the table says what is compared; leave --methods and --baseline out")
        check_arguments(list(table.arguments), known_names())
        args.baseline = table.against
        return table, question, methods_of(table, question)
    args.methods = "none,attention" if args.methods is None else args.methods
    args.baseline = args.baseline or "none"
    for label in args.methods.split(","):
        check_arguments(label.split()[1:], known_names(), free=("model",))
    return None, question, parse_methods(args.methods, question)


def run(args: argparse.Namespace, schedule: Schedule) -> Records:
    """Run what is not finished, under a bar that counts epochs: with ``--hours``, as many seeds as fit.

    Raises:
        UserError: not even one seed fits.
    """
    if args.hours is not None:
        schedule.seeds = seeds_that_fit(schedule, args.hours, tell)
    finished = len(schedule.finished())
    total = sum(method.epochs for method, _ in schedule.pairs())
    tell(f"{len(list(schedule.pairs()))} runs, {finished} of them finished; {len(schedule.slots)} at a time")
    start = sum(m.epochs for m, seed in schedule.pairs() if (m.label, seed) in schedule.finished())
    shape = "{l_bar}{bar}| {n:.0f}/{total:.0f} epochs [{elapsed}, {remaining} left]"
    with tqdm(total=total, initial=start, bar_format=shape, disable=None) as bar:
        return schedule.run(tqdm.write, bar)


def report(args: argparse.Namespace, schedule: Schedule, records: Records) -> dict[str, Any]:
    """Write results.json, results.md and, with a difference to draw, results.png; return what they say, and `files`."""
    classes = len(resolve(args.data, require=())["names"])
    result = compare(schedule.methods, records, schedule.out, classes, args.baseline, args.resamples)
    student = f"{args.table.source}: {args.table.title}" if args.table else Path(args.cfg).stem
    start = "sees the same images" if args.table else "starts from the same weights and sees the same images"
    facts = {
        "title": f"{student} on {Path(args.data).stem}" + ("" if args.table else ": does distillation help?"),
        "command": shlex.join(["python", "benchmarks/kd.py", *sys.argv[1:]]),
        "commit": schedule.commit,
        "machine": machine(),
        "date": datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        "baseline": args.baseline,
        "protocol": f"Each run of a seed {start} in the same order. "
                    f"Scores are those of the averaged weights of the last epoch on the split '{args.split}' "
                    "(COCO definitions), so that no epoch was chosen on what it is scored on. "
                    f"{len(schedule.slots)} run(s) at a time, "
                    f"{schedule.slots[0]['OMP_NUM_THREADS']} CPU thread(s) each.",
    }  # fmt: skip
    older = sorted({record["commit"] for record in records.values() if "commit" in record} - {schedule.commit})
    if older:
        result["notes"].append(f"Runs of commit {', '.join(older)}, not repeated: the code has changed since then.")
    result = facts | result | {"runs": [records[key] for key in sorted(records)]}
    result |= {"ablation": beside_ours(args.table, result, records)} if args.table else {}
    write(schedule.out, result)
    (schedule.out / "results.png").unlink(missing_ok=True)
    drawn = plot(result, schedule.out / "results.png")
    return result | {"files": ["results.md", "results.json", *(["results.png"] if drawn else [])]}


def summary(result: dict[str, Any]) -> list[str]:
    """What is printed at the end."""
    lines = [*accuracy(result["rows"]), "", *differences(result["rows"], result["baseline"]), *result["notes"]]
    return lines + (["", *beside(result["ablation"])] if "ablation" in result else [])


def tell(text: str) -> None:
    print(text, flush=True)
