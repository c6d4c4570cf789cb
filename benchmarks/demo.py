"""The whole of Tandem in minutes, on data it makes itself: `make demo`.

Fine-tunes a small T-model, trains the fast student alone and distilled from it, validates all three, chooses thresholds with a
promise, exports, decides about a folder, writes the report, and prints one table with the gain by distillation. All start from
the weights that ship with Tandem. Every step is the command a person would type; it is printed before it runs.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.commands import run
from benchmarks.harness.compare import resampled_scores
from cfg import guard
from inspection.compare import percentile

RUNS = Path("runs/demo")
TEACHER, STUDENT = "t-demo.yaml", "s-model-fast.yaml"
TEACHER_EPOCHS, STUDENT_EPOCHS = "14", "5"  # a teacher that has learned longer than its student
SIZE = "128"
DIFFICULTY, EMPTY = "0.2", "0.3"  # of the sample: from 0 to 1; share of images without defects
MAX_ESCAPE = "0.1"  # of the NG images, 39 in the validation part
RESAMPLES = 1000  # of the validation images, for the interval of the gain


def train(name: str, *arguments: str) -> tuple[Path, float]:
    """Train on the sample; return the weights of the last epoch and the seconds it took. Validation images choose no epoch: they are
    kept for the scores and the promise.
    """
    common = ("--data", "sample.yaml", "--recipe", "quick", "--imgsz", SIZE, "--batch", "8", "--nbs", "8", "--val", "False")
    seconds = run("train.py", *arguments, *common, "--project", str(RUNS), "--name", name, "--exist-ok")
    return RUNS / name / "weights/best.pt", seconds


def validate(weights: Path, name: str, *options: str) -> dict[str, Any]:
    """Validate on the sample's validation part, keeping every box; return the report."""
    report, folder = RUNS / f"val-{name}/report.json", RUNS / f"val-{name}"
    kept = ("--json", str(report), "--detections", str(folder / "boxes.npz"), "--save-dir", str(folder))
    run("val.py", "--weights", str(weights), "--data", "sample.yaml", *kept, *options)
    return json.loads(report.read_text(encoding="utf-8"))


def table(reports: dict[str, dict[str, Any]], seconds: dict[str, float]) -> str:
    """One line per model."""
    lines = [f"{'model':<24}{'mAP50':>8}{'mAP50-95':>10}{'MB':>8}{'ms/image':>10}{'trained in':>12}"]
    for name, report in reports.items():
        metrics, speed, trained = report["metrics"], report["speed"], seconds.get(name)
        milliseconds = 1000 / speed["fps"]
        took = f"{trained:.0f} s" if trained else ""
        accuracy = f"{metrics['mAP50']:>8.3f}{metrics['mAP50-95']:>10.3f}"
        lines.append(f"{name:<24}{accuracy}{report['model']['size_mb']:>8.1f}{milliseconds:>10.1f}{took:>12}")
    return "\n".join(lines)


def gain(distilled: str, alone: str, classes: int) -> str:
    """The difference of two validated models, with its 95 % interval over the images."""
    without = resampled_scores(RUNS / f"val-{alone}", classes, None, RESAMPLES)
    with_it = resampled_scores(RUNS / f"val-{distilled}", classes, without["draws"], RESAMPLES)
    gaps = 100 * (with_it["mAP50-95"] - without["mAP50-95"])
    over_images = percentile(gaps[1:])
    return (f"distilled against alone: {gaps[0]:+.1f} points of mAP50-95 (95 % over the {len(without['files'])} images: "
            f"{over_images.low:+.1f} to {over_images.high:+.1f}); one seed: benchmarks/kd.py compares several")  # fmt: skip


def main() -> int:
    started = time.perf_counter()
    shutil.rmtree(RUNS, ignore_errors=True)
    run("-m", "data.sample", "--difficulty", DIFFICULTY, "--empty", EMPTY)
    teacher, of_teacher = train("teacher", "--cfg", TEACHER, "--epochs", TEACHER_EPOCHS, "--plots", "False")
    alone, of_alone = train("alone", "--cfg", STUDENT, "--epochs", STUDENT_EPOCHS, "--plots", "False")
    student, of_student = train("student", "--cfg", STUDENT, "--teacher", str(teacher), "--epochs", STUDENT_EPOCHS)
    reports = {
        "T (t-demo)": validate(teacher, "teacher", "--no-plots"),
        "S alone": validate(alone, "alone", "--no-plots"),
        "S distilled from T": validate(student, "student", "--decide", "--max-escape", MAX_ESCAPE, "--embed"),
    }
    seconds = dict(zip(reports, (of_teacher, of_alone, of_student)))
    run("export.py", "--weights", str(student), "--format", "onnx")
    exported = student.with_suffix(".onnx")
    reports["S distilled, ONNX"] = validate(exported, "student-onnx", "--no-plots")
    pictures = ("--project", str(RUNS), "--name", "detections", "--exist-ok")
    run("detect.py", "--weights", str(student), "--source", "datasets/sample/images/test", "--save-json", "--report", *pictures)
    print(f"\n{table(reports, seconds)}")
    print(gain("student", "alone", len(reports["S alone"]["per_class"])))
    scores = [reports[name]["metrics"]["mAP50-95"] for name in ("T (t-demo)", "S alone")]
    if scores[0] <= scores[1]:
        print("the teacher is not ahead of the student alone here: nothing is to be gained from it, and something may be lost")
    print("\n" + "\n".join(reports["S distilled from T"]["decision"]["words"]))
    print(f"\nreport: {RUNS / 'detections/report.html'}")
    print(f"images with boxes: {RUNS / 'detections'}    plots: {RUNS / 'student'} and {RUNS / 'val-student'}    exported model: {exported}")
    print(f"done in {(time.perf_counter() - started) / 60:.1f} minutes")
    return 0


if __name__ == "__main__":
    sys.exit(guard(main))
