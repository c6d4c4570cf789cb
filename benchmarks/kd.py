"""Did distillation help, on your data, beyond chance?

    python benchmarks/kd.py --cfg s-model.yaml --teacher t.pt --data neu-det.yaml --seeds 3 \\
        --methods none,attention,cwd --out runs/kd/neu --recipe quick --epochs 30

Trains the student once per method and seed, each run with the same initial weights, data order and augmentation as the
others of its seed, scores the averaged weights of the last epoch, and says of each method whether it helps: results.md,
results.json and results.png in the folder of --out. An interrupted comparison goes on with the same command; finished
runs are not repeated.
"""

from __future__ import annotations

import argparse
import datetime
import os
import shlex
import signal
import sys
from pathlib import Path
from typing import Any

if __package__ in (None, ""):  # started as a file: Python looks beside it, not in the repository
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from cfg import UserError, guard
from engine.arguments import count

METHODS_HELP = """what to compare, with commas between: distillation configurations (attention), combinations
(attention+0.5*ld), none (the student alone), and controls: teacher-init (starts from the teacher's tensors, learns
without it), longer or longer:METHOD (alone, for as many seconds as the dearest or the named method takes),
random-teacher or random-teacher:METHOD (from an untrained teacher, see --teacher-cfg). Arguments of train.py for one
method follow it after spaces: "none,attention,attention kd_cap=0.3" """


def parse(argv: list[str] | None = None) -> tuple[argparse.Namespace, list[str]]:
    """Read the command line; return our arguments and those of train.py."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
        epilog="Every other argument goes to train.py: --recipe quick --epochs 12 --imgsz 128 --kd-cap 0.3 ...",
    )  # fmt: skip
    parser.add_argument("--cfg", required=True, help="the student's YAML")
    parser.add_argument("--data", required=True, help="data YAML: a path or a name in cfg/data")
    parser.add_argument("--teacher", help="the teacher's weights")
    parser.add_argument("--teacher-cfg", help="YAML of an untrained teacher, for random-teacher")
    parser.add_argument("--methods", default="none,attention", help=METHODS_HELP.replace("%", "%%"))
    parser.add_argument("--seeds", type=count, default=5, help="runs of each method (default: 5)")
    parser.add_argument("--baseline", default="none", help="the method the others are compared with (default: none)")
    parser.add_argument("--split", default="val", choices=("val", "test"), help="part of the data to score")
    parser.add_argument("--out", default="runs/kd/exp", help="folder of the runs and results (default: runs/kd/exp)")
    parser.add_argument("--jobs", type=count, default=1, help="runs at a time: one per GPU, or sharing the cores")
    parser.add_argument("--hours", type=float, help="time there is: estimates first, and runs as many seeds as fit")
    parser.add_argument("--resamples", type=count, default=1000, help="of the images, for the bootstrap")
    return parser.parse_known_args(argv)


def main() -> int:
    """Run the command line; return 0, or 1 when a run failed."""
    threads = os.environ.get("OMP_NUM_THREADS")  # as the person set it: our packages set a default
    args, rest = parse()
    schedule = prepare(args, rest, threads)
    if args.hours is not None:
        from benchmarks.harness.budget import seeds_that_fit

        schedule.seeds = seeds_that_fit(schedule, args.hours, tell)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends the trainings too, as Ctrl-C does
    records = run(schedule)
    result = report(args, schedule, records)
    from benchmarks.harness.report import accuracy, differences

    lines = [*accuracy(result["rows"]), "", *differences(result["rows"], args.baseline), *result["notes"]]
    print("\n".join(lines))
    print(f"results in {args.out}: results.md, results.json, results.png")
    return int(any(row["errors"] for row in result["rows"]))


def prepare(args: argparse.Namespace, rest: list[str], threads: str | None) -> Any:
    """Check everything that can be checked, and plan the runs.

    Raises:
        UserError: anything that train.py or val.py would refuse later.
    """
    if args.hours is not None and not args.hours > 0:
        raise UserError(f"--hours: expected more than 0, got {args.hours:g}; leave it out for no limit")
    from benchmarks.harness.plan import Question, check_arguments, examine, parse_methods
    from benchmarks.harness.report import commit
    from benchmarks.harness.schedule import Schedule, make_slots
    from data import resolve
    from engine.settings import known_names, read_command_line

    check_arguments(rest, known_names())
    question = Question(args.cfg, args.data, args.teacher, args.teacher_cfg, tuple(rest))
    methods = parse_methods(args.methods, question)
    for label in args.methods.split(","):
        check_arguments(label.split()[1:], known_names(), free=("model",))
    if args.baseline not in [method.label for method in methods]:
        raise UserError(f"--baseline {args.baseline}: expected one of --methods {args.methods}; add it there")
    resolve(args.data, require=(args.split,))
    device = read_command_line(rest, known_names()).get("device")
    slots = make_slots(args.jobs, None if device is None else str(device), threads)
    tell(f"checking {len(methods)} methods")
    examine(question, methods)
    out = Path(args.out).resolve()
    try:
        (out / "runs").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out {out}: cannot be made ({error.strerror}); choose another folder") from None
    scoring = ["--data", args.data, "--split", args.split]
    scoring += ["--device", str(device)] if device is not None and "," not in str(device) else []
    return Schedule(question, methods, args.seeds, out, scoring, slots, commit())


def run(schedule: Any) -> dict[tuple[str, int], dict[str, Any]]:
    """Run what is not finished, under a bar that counts epochs."""
    from tqdm import tqdm

    finished = len(schedule.finished())
    total = sum(method.epochs for method, _ in schedule.pairs())
    tell(f"{len(list(schedule.pairs()))} runs, {finished} of them finished; {len(schedule.slots)} at a time")
    start = sum(m.epochs for m, seed in schedule.pairs() if (m.label, seed) in schedule.finished())
    shape = "{l_bar}{bar}| {n:.0f}/{total:.0f} epochs [{elapsed}, {remaining} left]"
    with tqdm(total=total, initial=start, bar_format=shape, disable=None) as bar:
        return schedule.run(tqdm.write, bar)


def report(args: argparse.Namespace, schedule: Any, records: dict[tuple[str, int], dict[str, Any]]) -> dict[str, Any]:
    """Write results.json, results.md and results.png; return what they say."""
    from benchmarks.harness.compare import compare
    from benchmarks.harness.plot import plot
    from benchmarks.harness.report import machine, write
    from data import resolve

    classes = len(resolve(args.data, require=())["names"])
    result = compare(schedule.methods, records, schedule.out, classes, args.baseline, args.resamples)
    facts = {
        "title": f"{Path(args.cfg).stem} on {Path(args.data).stem}: does distillation help?",
        "command": shlex.join(["python", "benchmarks/kd.py", *sys.argv[1:]]),
        "commit": schedule.commit,
        "machine": machine(),
        "date": datetime.datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z"),
        "baseline": args.baseline,
        "protocol": f"Each run of a seed starts from the same weights and sees the same images in the same order. "
                    f"Scores are those of the averaged weights of the last epoch on the split '{args.split}' "
                    "(COCO definitions), so that no epoch was chosen on what it is scored on. "
                    f"{len(schedule.slots)} run(s) at a time, "
                    f"{schedule.slots[0]['OMP_NUM_THREADS']} CPU thread(s) each.",
    }  # fmt: skip
    result = facts | result | {"runs": [records[key] for key in sorted(records)]}
    write(schedule.out, result)
    plot(result, schedule.out / "results.png")
    return result


def tell(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(guard(main))
