"""Comparisons small enough for tests: their data and models, and runs in this process."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

import pytest
import yaml
from tiny import STOCK, training, write_data, write_model

import train as train_script
import val as val_script
from benchmarks import kd
from benchmarks.harness import rival, runs
from cfg import guard
from engine.training.launch import train

COMMON = "--recipe quick --imgsz 64 --batch 4 --nbs 4 --epochs 2 --device cpu --auto-anchors False cache=False".split()

CRASH = "warmup_bias_lr=0.77"  # an argument of runs that shall crash


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with data, a student's YAML, and a teacher's YAML and weights."""
    folder = tmp_path_factory.mktemp("kd")
    write_data(folder)
    write_model(folder / "model.yaml", width=8)
    write_model(folder / "teacher.yaml")
    run = train(training(folder, model=str(folder / "teacher.yaml"), name="teacher", epochs=1))
    (run / "weights/best.pt").rename(folder / "t.pt")
    (folder / "stock.yaml").write_text(yaml.safe_dump(STOCK))
    return folder


def arguments(place: Path, out: Path, methods: str, *more: str) -> list[str]:
    given = ["--cfg", str(place / "model.yaml"), "--data", str(place / "data.yaml"), "--teacher", str(place / "t.pt")]
    return [*given, "--out", str(out), "--methods", methods, *COMMON, *more]


def main(monkeypatch, given: list[str]) -> int:
    """Run the command line in this process."""
    monkeypatch.setattr(sys, "argv", ["kd.py", *given])
    return kd.main()


@pytest.fixture
def commands(monkeypatch) -> list[list[str]]:
    """The commands of all runs, which go on in this process: starting Python takes longer than these trainings."""
    called: list[list[str]] = []

    def inside(self, command: list[str], log: Path, environment: dict[str, str]) -> tuple[int, float, int]:
        called.append(command[1:])
        script = {"train.py": train_script, "val.py": val_script, "rival.py": rival}[Path(command[1]).name]
        if CRASH in command:
            log.write_text("Traceback ...\nRuntimeError: out of memory\n")
            return 70, 1.0, 10**9
        with log.open("a") as output, monkeypatch.context() as patch:
            patch.setattr(sys, "argv", command[1:])
            with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
                return guard(script.main), 1.0, 10**9

    monkeypatch.setattr(runs.Processes, "run", inside)
    return called
