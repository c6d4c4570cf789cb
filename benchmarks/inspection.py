"""What an inspection costs beside the network: deciding about an image, and the report of many images.

    python -m benchmarks.inspection decide
    python -m benchmarks.inspection report --images 10000 --side 640 --ng 0.25

Boxes and images are drawn by chance. `report` writes the page as detect.py does, image by image, and opens it in headless
Chromium where there is one: first in an empty profile, then five times more.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.machine import commit, machine
from cfg import guard
from cfg.command_line import read_arguments
from inspection.plan import ClassRule, Plan, Regions
from inspection.rules import Found, decide

NAMES = tuple(f"class {index}" for index in range(6))
SIDE = 1000  # pixels of the images that are decided about
BOXES = (1, 5, 30, 300)
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def plans() -> dict[str, Plan]:
    """Plans by what they ask of a box; the region to look at is a rectangle, the one to leave out has 24 corners."""
    square = ((0.1, 0.1), (0.9, 0.1), (0.9, 0.9), (0.1, 0.9))
    round_ = tuple((0.5 + 0.2 * np.cos(a), 0.5 + 0.2 * np.sin(a)) for a in np.linspace(0, 2 * np.pi, 24, endpoint=False))
    score, size = (ClassRule(0.5),) * len(NAMES), (ClassRule(0.5, min_length_mm=1.0, min_area_mm2=1.0),) * len(NAMES)
    return {
        "a threshold": Plan(NAMES, score),
        "and sizes": Plan(NAMES, size, mm_per_pixel=0.1),
        "and two regions": Plan(NAMES, size, mm_per_pixel=0.1, regions=Regions(look_at=(square,), leave_out=(round_,))),
    }


def boxes(count: int, side: int, rng: np.random.Generator, highest: float = 0.8) -> Found:
    """Boxes of 5 to 100 pixels with scores of 0.25 to `highest`, as a detector reports them."""
    corners = rng.uniform(0, 0.9 * side, (count, 2))
    boxes_xyxy = np.hstack([corners, corners + rng.uniform(5, 100, (count, 2))]).clip(0, side)
    return Found(boxes_xyxy.astype(np.float32), rng.uniform(0.25, highest, count).astype(np.float32), rng.integers(0, len(NAMES), count))


def quickest(run: Callable[[], object], repeats: int) -> float:
    """Microseconds of the quickest of `repeats` calls: what it costs where nothing else runs on the core meanwhile."""
    best = float("inf")
    for _ in range(repeats):
        began = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - began)
    return 1e6 * best


def deciding(rounds: int = 5, repeats: int = 60) -> None:
    """Print a table: microseconds for an image, the quickest of all calls, median and largest of 20 sets of boxes.

    Rounds lie apart in time, so that each set meets the core at a time when nothing else runs on it.
    """
    cases = [(count, highest) for count in BOXES for highest in (0.8, 0.5)]
    sets = {case: [boxes(case[0], SIDE, np.random.default_rng(seed), case[1]) for seed in range(20)] for case in cases}
    times = {case: np.full((len(plans()), 20), np.inf) for case in cases}
    for case in cases * rounds:
        taken = [[quickest(partial(decide, plan, found, SIDE, SIDE), repeats) for found in sets[case]] for plan in plans().values()]
        times[case] = np.minimum(times[case], taken)
    print(f"| boxes | {' | '.join(plans())} |\n|---|{'---|' * len(plans())}")
    for (count, highest), table in times.items():
        cells = [f"{np.median(own):.0f} ({max(own):.0f})" for own in table]
        print(f"| {count}{', all below the threshold' if highest == 0.5 else ''} | {' | '.join(cells)} |")


def reporting(images: int, side: int, ng: float, folder: Path) -> Path:
    """Write a report of so many images, a share of them NG; print what it took. Returns its path."""
    from engine.reporting import RunReport

    rng = np.random.default_rng(0)
    plan, rest = plans()["a threshold"], Found(np.zeros((0, 4)), np.zeros(0), np.zeros(0, dtype=int))
    picture = rng.normal(150, 12, (side, side, 3)).clip(0, 255).astype(np.uint8)
    wall, spent = time.perf_counter(), time.process_time()
    report = RunReport(folder, "Inspection report", dict(enumerate(NAMES)), {"model": "drawn"}, plan)
    for number in range(images):
        report.add(f"{number:06d}.jpg", picture, boxes(3, side, rng) if rng.random() < ng else rest)
    page = report.close()
    wall, spent = time.perf_counter() - wall, time.process_time() - spent
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1e6
    print(f"{images} images of {side} px, {ng:.0%} of them with defects: written in {wall:.1f} s ({spent:.1f} s of processor time), "
          f"peak {peak:.0f} MiB, {size:.0f} MB, first page {page.stat().st_size / 1e6:.1f} MB")  # fmt: skip
    return page


def opening(page: Path, profile: Path) -> None:
    """Print how long headless Chromium takes to load and lay out the page, its own start included, and without it."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        print("opened: not measured, there is no Chromium here")
        return
    (profile / "empty.html").write_text("<!doctype html><title>empty</title>")
    times = {}
    for what in (profile / "empty.html", page):
        command = [browser, "--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}", "--dump-dom", what.as_uri()]
        took = []
        for _ in range(6):
            began = time.perf_counter()
            subprocess.run(command, capture_output=True, timeout=120, check=True)
            took.append(time.perf_counter() - began)
        times[what] = float(np.median(took[1:]))
    empty, full = times.values()
    print(f"opened in {full:.1f} s, an empty page in {empty:.1f} s (medians of five)")


def main(argv: list[str] | None = None) -> int:
    """Command line of this module."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.inspection", description=__doc__.split("\n\n")[0])
    parser.add_argument("what", choices=("decide", "report"))
    parser.add_argument("--images", type=int, default=10000, help="in the report (default: 10000)")
    parser.add_argument("--side", type=int, default=640, help="of each image, in pixels (default: 640)")
    parser.add_argument("--ng", type=float, default=0.25, help="share of images with defects (default: 0.25)")
    given = read_arguments(parser, argv)
    print(f"{machine()}, commit {commit()}")
    if given.what == "decide":
        deciding()
        return 0
    with tempfile.TemporaryDirectory() as work:
        page = reporting(given.images, given.side, given.ng, Path(work))
        opening(page, Path(work))
    return 0


if __name__ == "__main__":
    sys.exit(guard(main))
