"""Few defects among many good parts: the recipe `rare` beside `quick`, with equal time.

    python -m benchmarks.rare --data neu-det.yaml --shots 10 # ten images a class, four good ones for each
    python -m benchmarks.rare --data sample                  # the built-in sample, 5 % of it with defects

Makes the set of each seed, trains the fast student once per recipe and seed for as much processor time, and prints mAP50 and the
escapes at 5 % overkill on images that no training saw. `--held-out` scores on other training images, to choose settings by;
arguments that are not known here go to the training with `rare`. What was done before is not repeated.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
from pathlib import Path

import numpy as np
import yaml

from benchmarks.commands import run
from benchmarks.scarce.score import escape_rate, image_scores
from benchmarks.scarce.sets import cut
from cfg import UserError, guard
from data.sample import make_sample

RUNS = Path("runs/rare")
SETS = Path("datasets/rare")
EPOCHS = 5  # of equally many steps for every set
EXTRA = {"quick": 1.1, "rare": 1.0}  # steps for equal time: with copies a step costs a tenth more (94 and 92 seconds in rare.md)


def sample_set(seed: int, held_out: bool) -> Path:
    """Make a sample with 5 % defective images to train on, and one with half of them to score on; return the data YAML."""
    name = f"sample-{seed}{'-held-out' if held_out else ''}"
    trained = make_sample(SETS / f"sample-{seed}-train", images=500, difficulty=0.5, seed=seed, empty=0.95)
    scored = make_sample(SETS / f"{name}-val", images=220, difficulty=0.5, seed=(2000 if held_out else 1000) + seed, empty=0.5)
    parts = {part: str(path.parent.resolve() / "images/train") for part, path in (("train", trained), ("val", scored))}
    names = yaml.safe_load(trained.read_text(encoding="utf-8"))["names"]
    path = SETS / f"{name}.yaml"
    path.write_text(yaml.safe_dump(parts | {"names": names}, sort_keys=False), encoding="utf-8")
    return path


def make_set(given: argparse.Namespace, seed: int) -> tuple[str, Path]:
    """Return name and data YAML of a seed's set."""
    if given.data == "sample":
        return f"sample-{seed}", sample_set(seed, given.held_out)
    name = f"{Path(given.data).stem if Path(given.data).stem != 'data' else Path(given.data).parent.name}-{given.shots}-{seed}"
    name += "-held-out" if given.held_out else ""
    path = SETS / name / "data.yaml"
    return name, path if path.exists() else cut(given.data, SETS / name, given.shots, seed, given.held_out)


def one_run(given: argparse.Namespace, name: str, data: Path, recipe: str, seed: int, more: list[str]) -> dict[str, float]:
    """Train and score once; return `mAP50`, `escapes` and the training's processor `seconds`."""
    folder = RUNS / f"{name}-{recipe}{given.label}"
    done = folder / "score.json"
    asked = {"data": given.data, "cfg": given.cfg, "imgsz": given.imgsz, "steps": given.steps, "more": more}
    if done.exists() and json.loads(done.read_text(encoding="utf-8"))["asked"] != asked:
        raise UserError(f"{folder}: expected a run of {asked}, got one of other arguments; give another --label, or delete it")
    if not done.exists():
        steps = round(given.steps * EXTRA[recipe] / EPOCHS)
        options = ("--epochs", str(EPOCHS), "--min-steps", str(steps), "--imgsz", str(given.imgsz), "--seed", str(seed))
        where = ("--val", "False", "--plots", "False", "--project", str(RUNS), "--name", folder.name, "--exist-ok")
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        run("train.py", "--cfg", given.cfg, "--data", str(data), "--recipe", recipe, *options, *where, *more)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        report, boxes = folder / "val.json", folder / "boxes.npz"
        weights = ("--weights", str(folder / "weights/last.pt"), "--data", str(data))
        kept = ("--json", str(report), "--detections", str(boxes), "--no-plots", "--save-dir", str(folder / "val"))
        run("val.py", *weights, *kept)
        metrics = json.loads(report.read_text(encoding="utf-8"))["metrics"]
        score = {"mAP50": metrics["mAP50"], "escapes": escape_rate(*image_scores(boxes)), "seconds": seconds, "asked": asked}
        done.write_text(json.dumps(score), encoding="utf-8")
    return json.loads(done.read_text(encoding="utf-8"))


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rare", description=__doc__.split("\n\n")[0])
    parser.add_argument("--data", default="sample", help="sample, or a data YAML to be cut down (default: sample)")
    parser.add_argument("--shots", type=int, default=10, help="images with defects of each class (default: 10)")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="which (default: 0 1 2)")
    parser.add_argument("--recipes", nargs="+", default=["quick", "rare"], choices=EXTRA, help="which (default: both)")
    parser.add_argument("--steps", type=int, default=100, help="batches of a training with rare (default: 100)")
    parser.add_argument("--cfg", default="s-model-fast.yaml", help="model (default: s-model-fast.yaml)")
    parser.add_argument("--imgsz", type=int, default=128, help="pixels (default: 128)")
    parser.add_argument("--held-out", action="store_true", help="score on other images of the training part")
    parser.add_argument("--label", default="", help="goes to the run folders' names, to keep trials of settings apart")
    given, more = parser.parse_known_args(argv)
    for seed in given.seeds:
        name, data = make_set(given, seed)
        for recipe in given.recipes:
            one_run(given, name, data, recipe, seed, more if recipe == "rare" else [])
    print(f"\n{'recipe':<8}{'mAP50':>22}{'escapes at 5 % overkill':>28}{'seconds':>10}")
    for recipe in given.recipes:
        names = [make_set(given, seed)[0] for seed in given.seeds]
        scores = [json.loads((RUNS / f"{name}-{recipe}{given.label}/score.json").read_text(encoding="utf-8")) for name in names]
        cells = {key: [score[key] for score in scores] for key in ("mAP50", "escapes", "seconds")}
        told = {key: f"{np.mean(x):.3f} ({min(x):.3f} .. {max(x):.3f})" for key, x in cells.items()}
        print(f"{recipe:<8}{told['mAP50']:>22}{told['escapes']:>28}{np.mean(cells['seconds']):>10.0f}")
    return 0


if __name__ == "__main__":
    sys.exit(guard(main))
