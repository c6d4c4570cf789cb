r"""Does distillation help on your data, significantly?

    python benchmarks/kd.py --cfg s-model.yaml --teacher t.pt --data neu-det.yaml --seeds 3 \
        --methods none,attention,cwd --out runs/kd/neu --recipe quick --epochs 30

Trains the student once per method and seed, each run with the same initial weights, data order and augmentation as the
others of its seed, scores the averaged weights of the last epoch, and prints HELPS, HURTS or NOT SHOWN for each method.
results.md, results.json and results.png go to the folder of --out. The same command resumes an interrupted comparison;
finished runs are not repeated.

    python benchmarks/kd.py --ablation ts-3 --data neu-det.yaml --seeds 2 --recipe quick --epochs 12 --imgsz 128

trains the rows of a table that a paper published (cfg/ablations) and prints ours beside the published ones.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
from pathlib import Path

if __package__ in (None, ""):  # started as a file: Python looks beside it, not in the repository
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from cfg import guard
from engine.arguments import count

METHODS_HELP = """what to compare, with commas between: distillation configurations (attention), combinations
(attention+0.5*ld), none (the student alone), and controls: teacher-init (starts from the teacher's weights block by
block, as a student that train.py distils does, and learns without it), longer or longer:METHOD (alone, for as many seconds
as the slowest or the named method takes),
random-teacher or random-teacher:METHOD (from an untrained teacher, see --teacher-cfg), ultralytics (a stock student,
distilled by ultralytics' own trainer, beside ultralytics-none, the student that it trains alone). Arguments of train.py
for one method follow it after spaces: "none,attention,attention kd_cap=0.3". All students of a seed start alike;
with "auto teacher_init=select" one starts from its teacher, as train.py's do by default """


def parse(argv: list[str] | None = None) -> tuple[argparse.Namespace, list[str]]:
    """Read the command line; return our arguments and those of train.py."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
        epilog="Every other argument goes to train.py: --recipe quick --epochs 12 --imgsz 128 --kd-cap 0.3 ...",
    )  # fmt: skip
    parser.add_argument("--cfg", help="the student's YAML")
    parser.add_argument("--ablation", help="a published table, one of cfg/ablations (ts-3 ... sdd-6), instead of "
                                           "--cfg, --methods and --baseline")  # fmt: skip
    parser.add_argument("--data", required=True, help="data YAML: a path or a name in cfg/data")
    parser.add_argument("--teacher", help="the teacher's weights")
    parser.add_argument("--teacher-cfg", help="YAML of an untrained teacher, for random-teacher")
    parser.add_argument("--rival-cfg", help="ultralytics' student, a stock YAML (default: --cfg where it is one)")
    parser.add_argument("--rival-teacher", help="ultralytics' teacher (default: --teacher where --cfg is a stock YAML)")
    parser.add_argument("--methods", help=METHODS_HELP.replace("%", "%%"))
    parser.add_argument("--seeds", type=count, default=5, help="runs of each method (default: 5)")
    parser.add_argument("--baseline", help="the method the others are compared with (default: none)")
    parser.add_argument("--split", default="val", choices=("val", "test"), help="part of the data to score")
    parser.add_argument("--out", default="runs/kd/exp", help="folder of the runs and results (default: runs/kd/exp)")
    parser.add_argument("--jobs", type=count, default=1, help="runs at a time: on the GPUs in turn, or sharing the cores")
    parser.add_argument("--hours", type=float, help="time limit: estimates first, and runs as many seeds as fit")
    parser.add_argument("--resamples", type=count, default=1000, help="of the images, for the bootstrap")
    return parser.parse_known_args(argv)


def end_as_ctrl_c() -> None:
    """Let SIGTERM, and a terminal that is closed, end the trainings too; under nohup the latter stays ignored."""
    for name in ("SIGTERM", "SIGHUP"):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) == signal.SIG_DFL:
            signal.signal(number, signal.default_int_handler)


def main() -> int:
    """Run the command line; return 0, or 1 when a run failed."""
    threads = os.environ.get("OMP_NUM_THREADS")  # as the person set it: our packages set a default
    args, rest = parse()
    from benchmarks.harness import comparison  # all of it, before the runs: files may be edited while they go on

    end_as_ctrl_c()
    schedule = comparison.prepare(args, rest, threads)
    with schedule.at_work():
        result = comparison.report(args, schedule, comparison.run(args, schedule))
    print("\n".join(comparison.summary(result)))
    print(f"results in {args.out}: {', '.join(result['files'])}")
    return int(any(row["errors"] for row in result["rows"]))


if __name__ == "__main__":
    sys.exit(guard(main))
