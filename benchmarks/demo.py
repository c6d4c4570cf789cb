"""The whole of Tandem in minutes, on data it makes itself: `make demo`.

Trains a small T-model, distils a small S-model from it, validates both, detects on a folder, exports, and prints one table.
Every step is the command a person would type; it is printed before it runs. The sample is made with large and clear defects:
with faint ones, no detector learns much from 240 images in a minute.
"""

from __future__ import annotations

import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.commands import run
from cfg import guard

RUNS = Path("runs/demo")
TEACHER_EPOCHS, STUDENT_EPOCHS = 30, 30
DIFFICULTY = "0.2"  # of the sample, from 0 to 1
SIZE = 128
STEPS = ("--batch", "8", "--nbs", "8", "--lr0", "0.004")  # many and large ones: the run is short


def train(name: str, *arguments: str) -> tuple[Path, float]:
    """Train on the sample, validating once at the end; return best.pt and the seconds it took."""
    common = ("--data", "sample.yaml", "--recipe", "quick", "--imgsz", str(SIZE), "--val", "False", *STEPS)
    seconds = run("train.py", *arguments, *common, "--project", str(RUNS), "--name", name, "--exist-ok")
    return RUNS / name / "weights/best.pt", seconds


def validate(weights: Path, name: str, *options: str) -> dict[str, Any]:
    """Validate on the sample's validation part; return the report."""
    report, folder = RUNS / f"{name}.json", RUNS / f"val-{name}"
    run("val.py", "--weights", str(weights), "--data", "sample.yaml", "--json", str(report), "--save-dir", str(folder), *options)
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


def main() -> int:
    started = time.perf_counter()
    shutil.rmtree(RUNS, ignore_errors=True)
    seconds: dict[str, float] = {}
    run("-m", "data.sample", "--difficulty", DIFFICULTY)
    teacher, seconds["T (t-demo)"] = train(
        "teacher", "--cfg", "t-demo.yaml", "--epochs", str(TEACHER_EPOCHS), "--plots", "False"
    )
    student, seconds["S distilled (s-demo)"] = train(
        "student", "--cfg", "s-demo.yaml", "--teacher", str(teacher), "--epochs", str(STUDENT_EPOCHS)
    )
    reports = {
        "T (t-demo)": validate(teacher, "teacher", "--no-plots"),
        "S distilled (s-demo)": validate(student, "student"),
    }
    run("export.py", "--weights", str(student), "--format", "onnx")
    exported = student.with_suffix(".onnx")
    reports["S distilled, ONNX"] = validate(exported, "student-onnx", "--no-plots")
    pictures = ("--project", str(RUNS), "--name", "detections", "--exist-ok")
    run("detect.py", "--weights", str(student), "--source", "datasets/sample/images/test", "--conf", "0.15", "--save-json", *pictures)
    print(f"\n{table(reports, seconds)}")
    print("(one short run each on made-up data: a tour of the commands, not evidence for or against distillation)")
    print(f"\npictures with boxes: {RUNS / 'detections'}    plots: {RUNS / 'student'} and {RUNS / 'val-student'}    exported model: {exported}")
    print(f"done in {(time.perf_counter() - started) / 60:.1f} minutes")
    return 0


if __name__ == "__main__":
    sys.exit(guard(main))
