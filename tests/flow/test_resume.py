"""A run that is killed at any moment and resumed ends as if it had not been."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from tiny import results, training, write_data, write_model

from cfg import UserError, whole_files
from engine import plain
from engine.training import trainer
from engine.training.launch import train
from engine.training.trainer import Trainer

from ultralytics.utils.torch_utils import ModelEMA

ROOT = Path(__file__).resolve().parents[2]
EPOCHS = 4
# All that an epoch may leave behind: images in random order, mosaics of images read before, masks drawn at random, and
# gradients that wait for the optimiser (4 batches an epoch, a step every 3).
LIVELY = {"batch": 2, "nbs": 6, "epochs": EPOCHS, "lr0": 0.01, "warmup_epochs": 1.0, "mosaic": 0.7, "close_mosaic": 1,
          "mixup": 0.3, "multi_scale": 0.5, "distill": "attention+mgd"}  # fmt: skip


class Killed(BaseException):
    """Ends a run where it stands: nothing in it catches this."""


@pytest.fixture(scope="module", autouse=True)
def slow_average():
    """Let the average of the weights lag behind them in a few steps: by default it takes some thousand."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ModelEMA.__init__, "__defaults__", (0.9999, 2, 0))  # decay, tau, updates
        yield


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("resume")
    write_data(folder)
    write_model(folder / "model.yaml", width=8)
    teacher = write_model(folder / "teacher.yaml")
    train(training(folder, model=str(teacher), name="teacher", epochs=1))
    (folder / "runs/teacher/weights/best.pt").rename(folder / "t.pt")
    return folder


def distilled(place: Path, **changes):
    return training(place, teacher=str(place / "t.pt"), **LIVELY, **changes)


@pytest.fixture(scope="module")
def whole(place) -> Callable[[str], tuple[list[dict[str, float]], dict]]:
    """Results and last state of a run in this arithmetic that nothing interrupts."""

    @cache
    def run(amp: str) -> tuple[list[dict[str, float]], dict]:
        folder, state = states_of(distilled(place, name=f"whole-{amp}", amp=amp))
        return results(folder), state

    return run


def states_of(options: dict) -> tuple[Path, dict | None]:
    """Train; return the run folder and the last state that was saved, None where none was."""
    states: list[dict] = []
    original = trainer.run_state
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer, "run_state", lambda run: states.append(plain.plain(original(run))) or states[-1])
        folder = train(options)
    return folder, states[-1] if states else None


def die_after_epoch(self):
    if self.epoch == 1:
        raise Killed


def kill_at_model_save(patch):
    original = Trainer.save_model

    def save_model(self):
        done = original(self)
        die_after_epoch(self)
        return done

    patch.setattr(Trainer, "save_model", save_model)


def kill_mid_epoch(patch):
    original = Trainer.optimizer_step

    def optimizer_step(self):
        original(self)
        if self.epoch == 2:
            raise Killed

    patch.setattr(Trainer, "optimizer_step", optimizer_step)


def kill_between_row_and_checkpoint(patch):
    original = Trainer.save_metrics

    def save_metrics(self, metrics):
        original(self, metrics)
        if self.epoch == 2:
            raise Killed

    patch.setattr(Trainer, "save_metrics", save_metrics)


def kill_while_writing_last(patch):
    original = os.replace

    def replace(source, target):
        if Path(target).name == "last.pt" and torch.load(source, weights_only=True)["meta"]["epoch"] == 2:
            half = Path(target).with_name(".last.pt.1.part")  # what a kill leaves of the new file
            half.write_bytes(Path(source).read_bytes()[:1000])
            raise Killed
        original(source, target)

    patch.setattr(whole_files.os, "replace", replace)


def kill_in_final_validation(patch):
    def validate_best(self):
        raise Killed

    patch.setattr(Trainer, "_validate_best", validate_best)


KILLS = [kill_at_model_save, kill_mid_epoch, kill_between_row_and_checkpoint, kill_while_writing_last,
         kill_in_final_validation]  # fmt: skip


# The moment decides which files there are, the arithmetic what is in them: each moment once, and one with gradients that wait in both.
@pytest.mark.parametrize(("kill", "amp"), [*((kill, "fp32") for kill in KILLS), (kill_mid_epoch, "bf16")])
def test_resumed_run_equals_an_uninterrupted_one(place, whole, monkeypatch, kill, amp):
    rows, state = whole(amp)
    name = f"{kill.__name__}-{amp}"
    with monkeypatch.context() as patch:
        kill(patch)
        with pytest.raises(Killed):
            train(distilled(place, name=name, amp=amp))
    last = place / "runs" / name / "weights/last.pt"
    interrupted = torch.load(last, weights_only=True)
    assert interrupted["format"] == "tandem-run"
    # Another machine: what it would choose by itself does not count, the run's own arithmetic does.
    monkeypatch.setenv("TANDEM_BF16", "01"[amp == "fp32"])
    folder, resumed = states_of({"resume": str(last)})
    assert folder == last.parent.parent
    _same_rows(results(folder), rows)
    if kill is not kill_in_final_validation:
        _same(resumed, state)
    assert not list(folder.rglob("*.part"))
    for file in ("last.pt", "best.pt"):
        content = torch.load(folder / "weights" / file, weights_only=True)
        assert content["format"] == "tandem-detector" and content["meta"]["train_args"]["amp"] == amp
    with pytest.raises(UserError, match=r"last\.pt: expected the last\.pt of an interrupted run"):
        train({"resume": str(last)})


def _same_rows(got: list[dict[str, float]], wanted: list[dict[str, float]]) -> None:
    without_time = [[{k: v for k, v in row.items() if k != "time"} for row in rows] for rows in (got, wanted)]
    assert [row["epoch"] for row in got] == list(range(1, EPOCHS + 1))
    assert without_time[0] == without_time[1]


def _same(got: dict, wanted: dict) -> None:
    """Parameters of student and adapters, adaptive weights, averages, optimiser, waiting gradients and counters, to the bit."""
    for part in ("live", "averaged"):
        assert any(".adapters." in key for key in got[part]) and any(key.startswith("weights.") for key in got[part])
    assert wanted["waiting"] and wanted["gradients"], "this test shall have gradients wait at the end of an epoch"
    got, wanted = (dict(flattened(state)) for state in (got, wanted))
    assert got.keys() == wanted.keys()
    different = [name for name in got if not _equal(got[name], wanted[name])]
    assert not different, different[:5]


def flattened(value, name: str = ""):
    """Pairs of name and leaf of nested dicts and lists."""
    if isinstance(value, (dict, list)):
        for key, child in value.items() if isinstance(value, dict) else enumerate(value):
            yield from flattened(child, f"{name}/{key}")
    else:
        yield name, value


def _equal(one, other) -> bool:
    return torch.equal(one, other) if isinstance(one, torch.Tensor) else one == other


def test_killed_process_resumes_in_another_folder(place, tmp_path):
    options = [f"{name}={value}" for name, value in distilled(place, name="process").items() if name != "epochs"]
    command = [sys.executable, ROOT / "train.py", *options, "epochs=100000"]
    run = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    last = place / "runs/process/weights/last.pt"
    for _ in range(600):
        if last.exists() or run.poll() is not None:
            break
        time.sleep(0.1)
    time.sleep(0.3)
    run.send_signal(signal.SIGKILL)
    run.wait()
    moved = tmp_path / "moved"
    (place / "runs/process").rename(moved)
    content = torch.load(moved / "weights/last.pt", weights_only=True)
    done = content["meta"]["epoch"] + 1
    content["meta"]["train_args"]["epochs"] = done + 1
    torch.save(content, moved / "weights/last.pt")
    folder = train({"resume": str(moved / "weights/last.pt")})
    assert folder == moved
    assert [row["epoch"] for row in results(folder)] == list(range(1, done + 2))


def test_end_to_end_student_of_ultralytics(place, monkeypatch):
    """Its two losses shift their balance with the epochs; a resumed run must go on where it was."""
    (place / "end2end.yaml").write_text(
        "nc: 2\nend2end: True\nreg_max: 1\nbackbone: [[-1, 1, Conv, [8, 3, 4]], [-1, 1, Conv, [16, 3, 2]]]\n"
        "head: [[[1], 1, Detect, [nc]]]\n"
    )
    balance: dict[str, list[float]] = {"whole": [], "parts": []}
    original = Trainer._adapt_weights
    for name, epochs in balance.items():
        note = lambda self, to=epochs: to.append(self.model.criterion.o2m) or original(self)  # noqa: E731
        monkeypatch.setattr(Trainer, "_adapt_weights", note)
        options = distilled(place, name=f"e2e-{name}") | {"model": str(place / "end2end.yaml")}
        if name == "whole":
            rows = results(train(options))
            continue
        with monkeypatch.context() as patch:
            kill_at_model_save(patch)
            with pytest.raises(Killed):
                train(options)
        got = results(train({"resume": str(place / "runs/e2e-parts/weights/last.pt")}))
    assert balance["whole"] == balance["parts"] and len(set(balance["whole"])) == 3
    _same_rows(got, rows)


def test_early_stop_counters_survive(place, monkeypatch):
    original = Trainer.validate

    def best_at_first(self):
        metrics, _ = original(self)
        fitness = 1 / (self.epoch + 1)
        self.best_fitness = max(self.best_fitness or 0.0, fitness)
        return metrics, fitness

    monkeypatch.setattr(Trainer, "validate", best_at_first)
    options = training(place, name="patience", epochs=20, patience=4)
    with monkeypatch.context() as patch:
        kill_mid_epoch(patch)
        with pytest.raises(Killed):
            train(options)
    folder = train({"resume": str(place / "runs/patience/weights/last.pt")})
    assert len(results(folder)) == 5  # best at epoch 1, four without improvement
    assert torch.load(folder / "weights/best.pt", weights_only=True)["meta"]["epoch"] == 0


def test_newest_run_and_what_may_change(place, monkeypatch):
    with monkeypatch.context() as patch:
        kill_mid_epoch(patch)
        with pytest.raises(Killed):
            train(training(place, name="newest", epochs=3))
    newest = place / "runs/newest"
    with pytest.raises(UserError, match="resume: lr0 cannot change"):
        train({"resume": str(newest / "weights/last.pt"), "lr0": 0.1})
    with pytest.raises(UserError, match="workers"):
        train({"resume": str(newest / "weights/last.pt"), "workers": "many"})
    finished = training(place, name="finished-later", epochs=1)
    train(finished)
    folder = train({"resume": True, "project": str(place / "runs"), "patience": 7})
    assert folder == newest
    args = torch.load(folder / "weights/best.pt", weights_only=True)["meta"]["train_args"]
    assert len(results(folder)) == 3 and args["lr0"] == 0.0015


@pytest.mark.parametrize("change", ["gone", "other"])
def test_teacher_is_needed_again(place, monkeypatch, change):
    teacher = place / f"{change}.pt"
    teacher.write_bytes((place / "t.pt").read_bytes())
    options = distilled(place, name=f"teacher-{change}") | {"teacher": str(teacher)}
    with monkeypatch.context() as patch:
        kill_mid_epoch(patch)
        with pytest.raises(Killed):
            train(options)
    teacher.unlink()
    expected = r"gone\.pt: weights file not found"
    if change == "other":
        wide = write_model(place / "wide.yaml", width=24)
        folder = train(training(place, model=str(wide), name="wide", epochs=1))
        (folder / "weights/best.pt").rename(teacher)
        expected = r"does not fit the teacher .*other\.pt"
    folder = place / f"runs/teacher-{change}"
    before = sorted(path.name for path in folder.rglob("*"))
    with pytest.raises(UserError, match=expected):
        train({"resume": str(folder / "weights/last.pt")})
    assert sorted(path.name for path in folder.rglob("*")) == before
