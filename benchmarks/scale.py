"""detect.py --shards beside plain detect.py, with one process and with several, and what a million images cost.

    python -m benchmarks.scale --weights best.onnx --source folder/of/images --images 400 --processes 1 2

Each row is runs of the command line on the same images, which repeat the source until there are enough; runs take turns, and the first
round is not counted. Images/s are by the clock, of looking at images without loading the model. Processor time is that of a run on all images
less that of one on a single image: loading the model is not in it, and it can be compared on a machine that does other work too.
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import subprocess
import sys
import tempfile
from datetime import date
from itertools import cycle, islice
from pathlib import Path

import numpy as np

from benchmarks.machine import commit, machine
from cfg import UserError, guard
from cfg.command_line import read_arguments
from cfg.cpus import available_cpus
from data.files import find_images

ROOT = Path(__file__).resolve().parents[1]
PLAIN, SHARDS = "detect.py --no-draw --save-json", "detect.py --shards"


def repeated(source: Path, count: int, out: Path) -> Path:
    """A new folder with links to `count` images of `source`. Raises `UserError` where there is none."""
    images = find_images(source)
    if not images:
        raise UserError(f"--source {source}: expected a folder of images, got none; correct the path")
    out.mkdir()
    for number, image in enumerate(islice(cycle(images), count)):
        (out / f"{number:07d}{image.suffix}").symlink_to(image.resolve())
    return out


def run(command: list[str], processes: int, threads: int) -> tuple[float, float]:
    """Run a command in so many processes at once; return the seconds that looking took in the slowest, and the processor time of all."""
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    before, running = spent(), []
    for index in range(processes):
        part = ["--shard", f"{index}/{processes}"] if processes > 1 else []
        running.append(subprocess.Popen([*command, *part], cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE))
    looking = []
    for process in running:
        output, errors = process.communicate()
        if process.returncode not in (0, 1):
            raise UserError(f"{' '.join(command[1:])}: expected it to run, got status {process.returncode}: {errors[-300:]}")
        looking.append(looked(output))
    return max(looking), spent() - before


def spent() -> float:
    """Processor seconds of all processes that were waited for."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def looked(output: str) -> float:
    """The seconds that a run spent on images, by its own account."""
    if shards := re.search(r"^\d+ images looked at(?: in ([\d.]+) s)?", output, re.M):
        return float(shards[1] or 0)
    images, rate = re.search(r"^(\d+) images, .*?; ([\d.]+) images/s$", output, re.M | re.S).groups()
    return int(images) / float(rate)


def measure(weights: str, folders: list[Path], processes: list[int], shard: int, rounds: int, threads: int, work: Path) -> dict[tuple, np.ndarray]:
    """Return (rounds, 2) seconds of looking, and processor seconds beyond the first image, by (command, processes).

    Args:
        folders: of all images, and of one.
    """
    taken: dict[tuple[str, int], list[tuple[float, float]]] = {}
    for number in range(rounds + 1):
        cases = [(PLAIN, 1), *((SHARDS, n) for n in processes)]
        for what, n in cases if number % 2 else cases[::-1]:
            results = []
            for images in folders:
                base = [sys.executable, str(ROOT / "detect.py"), "--weights", weights, "--source", str(images), "--device", "cpu"]
                own = ["--no-draw", "--save-json", "--project", str(work / "plain")] if what == PLAIN else \
                    ["--shards", str(work / f"job-{images.name}-{number}-{n}"), "--shard-size", str(shard)]  # fmt: skip
                results.append(run([*base, *own], n, threads))
            looking, processor = results[0][0], results[0][1] - results[1][1]
            if number:
                taken.setdefault((what, n), []).append((looking, processor))
            print(f"round {number}: {what}, {n} processes: looking {looking:.1f} s, processor {processor:.1f} s", file=sys.stderr, flush=True)
    return {case: np.array(taken[case]) for case in sorted(taken, key=lambda case: (case[0] != PLAIN, case[1]))}


def markdown(taken: dict[tuple, np.ndarray], count: int) -> str:
    """The table, with what a million images take."""
    lines = ["| | processes | images/s | processor s | over plain, same round | processor hours for 10^6 images |", "|---|---|---|---|---|---|"]
    plain = taken[PLAIN, 1][:, 1]
    for (what, n), times in taken.items():
        looking, processor = np.median(times, axis=0)
        ratios = times[:, 1] / plain
        spread = f"{np.median(ratios):.3f} ({ratios.min():.3f} to {ratios.max():.3f})"
        lines.append(f"| `{what}` | {n} | {count / looking:.2f} | {processor:.1f} | {spread} | {1e6 * processor / (count - 1) / 3600:.1f} |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> int:
    """Command line of this module."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__.split("\n\n")[0])
    parser.add_argument("--weights", required=True, help="as of detect.py")
    parser.add_argument("--source", required=True, type=Path, help="folder of images, repeated until there are enough")
    parser.add_argument("--images", type=int, default=400, help="in each run (default: 400)")
    parser.add_argument("--shard-size", type=int, default=100, help="images in a shard (default: 100: fifty times as many shards as usual)")
    parser.add_argument("--processes", type=int, nargs="+", default=[1], help="numbers of workers (default: 1)")
    parser.add_argument("--threads", type=int, default=1, help="of each process (default: 1)")
    parser.add_argument("--rounds", type=int, default=5, help="that are counted (default: 5)")
    given = read_arguments(parser, argv)
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        folders = [repeated(given.source, number, work / f"images-{number}") for number in (given.images, 1)]
        weights = str(Path(given.weights).resolve())
        taken = measure(weights, folders, given.processes, given.shard_size, given.rounds, given.threads, work)
    print(f"{date.today()}, {machine()}, {available_cpus()} of the cores for this, commit {commit()}\n\n{markdown(taken, given.images)}")
    return 0


if __name__ == "__main__":
    sys.exit(guard(main))
