"""The distillation benchmark: paired runs, resume, crashes, refusals, controls and the time it says it needs."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
import yaml
from kd_runs import CRASH, arguments, commands, main, place  # noqa: F401  (two of them are fixtures)
from tiny import training, write_data

from benchmarks import kd
from benchmarks.harness import comparison, runs, schedule
from benchmarks.harness.budget import estimate, seeds_that_fit
from benchmarks.harness.lock import locked
from benchmarks.harness.plan import Question, parse_methods
from cfg import UserError
from engine.training.launch import train
from engine.training.trainer import Trainer

ROOT = Path(__file__).resolve().parents[2]


def test_runs_in_processes_of_their_own(place, tmp_path, monkeypatch):
    """As a person's; one seed, the student alone."""
    assert main(monkeypatch, arguments(place, tmp_path, "none", "--seeds", "1")) == 0
    result = json.loads((tmp_path / "results.json").read_text())
    (run,) = result["runs"]
    assert run["status"] == "done" and run["wall_seconds"] > 0 and 0 < run["epoch_seconds"] <= run["train_seconds"]
    assert run["peak_bytes"] is None or 2e8 < run["peak_bytes"] < 2e10
    assert {"--seed", "--val", "False"} <= set(run["arguments"])
    assert {"command", "commit", "machine", "date"} <= set(result)
    text = (tmp_path / "results.md").read_text()
    columns = "mAP50 | mAP50-95 | AR1 | AR10 | epochs | s | s/epoch | relative | peak memory, GB | size, MB"
    assert f"| method | seeds | {columns} |" in text
    (cells,) = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| none | 1 |")]
    row = result["rows"][0]
    numbers = [float(cell) for cell in cells[2:]]
    assert numbers[4:] == [2, round(row["train_seconds"]), round(row["epoch_seconds"], 1), 1, round(row["peak_gb"], 2), round(row["size_mb"], 1)]
    assert {"precision", "recall", "F1"} <= set(run["metrics"]) and row["F1"] == run["metrics"]["F1"]
    assert not (tmp_path / "results.png").exists()  # nothing to compare


def test_crashed_runs_are_rows_and_finished_ones_are_not_repeated(place, tmp_path, commands, monkeypatch):
    given = arguments(place, tmp_path, f"none,attention,attention {CRASH}", "--seeds", "2")
    assert main(monkeypatch, given) == 1
    result = json.loads((tmp_path / "results.json").read_text())
    none, good, crashed = result["rows"]
    assert none["seeds"] == good["seeds"] == [0, 1] and crashed["seeds"] == [] and len(crashed["errors"]) == 2
    assert crashed["errors"] == [f"seed {seed}: RuntimeError: out of memory" for seed in (0, 1)]
    assert any(note.startswith("WARNING: two seeds") for note in result["notes"])
    order = [(run["seed"], run["label"]) for run in result["runs"] if run["status"] == "done"]
    assert sorted(order) == [(0, "attention"), (0, "none"), (1, "attention"), (1, "none")]
    trained = [c for c in commands if c[0].endswith("train.py")]
    assert [c[c.index("--seed") + 1] for c in trained] == ["0"] * 3 + ["1"] * 3  # seed by seed
    assert all("last.pt" in c[c.index("--weights") + 1] for c in commands if c[0].endswith("val.py"))
    assert good["verdict"] in ("HELPS", "HURTS", "NOT SHOWN") and (tmp_path / "results.png").is_file()

    commands.clear()
    assert main(monkeypatch, given) == 1
    assert [Path(c[0]).name for c in commands] == ["train.py"] * 2  # the crashed ones alone

    commands.clear()
    (tmp_path / "runs/none-s1/run.json").write_text(
        (tmp_path / "runs/none-s1/run.json").read_text().replace('"status": "done"', '"status": "trained"')
    )
    boxes = tmp_path / "runs/none-s1/boxes.npz"
    boxes.unlink()
    boxes.mkdir()  # cannot be written: the scoring fails
    for status in (1, 0):
        assert main(monkeypatch, arguments(place, tmp_path, "none,attention", "--seeds", "2")) == status
        assert [Path(c[0]).name for c in commands] == ["val.py"]  # it was trained, and is not trained again
        commands.clear()
        boxes.rmdir() if status else None

    commands.clear()
    (tmp_path / "runs/none-s0/run.json").write_text("{half")
    assert main(monkeypatch, arguments(place, tmp_path, "none", "--seeds", "1", "--epochs", "1")) == 0
    assert [Path(c[0]).name for c in commands] == ["train.py", "val.py"]


def test_runs_of_a_seed_start_alike_and_see_the_same_images(place, monkeypatch):
    """Also beside methods with random weights and random masks of their own."""
    weights, images = {}, {}
    original = Trainer.preprocess_batch

    def noted(self, batch):
        batch = original(self, batch)
        if not seen:
            weights[name] = {k: v.clone() for k, v in self.networks.student.state_dict().items()}
        seen.append(hashlib.sha256(batch["img"].contiguous().numpy().tobytes()).hexdigest())
        return batch

    monkeypatch.setattr(Trainer, "preprocess_batch", noted)
    for method, seed in ((None, 0), ("attention", 0), ("mgd", 0), (None, 1)):
        name = f"{method}-{seed}"
        images[name] = seen = []
        distilled = {"teacher": str(place / "t.pt"), "distill": method} if method else {}
        train(training(place, name=name, seed=seed, val=False, teacher_init=False, **distilled))
    alone = images["None-0"]
    for name in ("attention-0", "mgd-0"):
        assert images[name][: len(alone)] == alone and len(set(alone)) > 2
        assert all(torch.equal(v, weights[name][k]) for k, v in weights["None-0"].items())
    assert images["None-1"][0] != alone[0]
    assert any(not torch.equal(v, weights["None-1"][k]) for k, v in weights["None-0"].items())


@pytest.mark.parametrize(
    ("methods", "more", "told"),
    [
        ("none,atention", [], "did you mean 'attention"),
        ("none,none", [], "each once"),
        ("attention", [], "--baseline none"),
        ("none,ld", [], "method ld: "),  # the tiny models' heads have no box distributions
        ("none,longer", [], "longer trains as long as"),
        ("none,attention,longer:cwd", [], "longer:cwd trains as long as cwd"),
        ("none,random-teacher", [], "--teacher-cfg"),
        ("none,attention:3", [], "after ':'"),
        ("none", ["--seed", "3"], "seed: the comparison sets it"),
        ("none", ["--epoch", "3"], "did you mean 'epochs'"),
        ("none", ["--split", "test"], "'test'"),
        ("none", ["--hours", "0"], "--hours"),
        ("none,attention lr0=7", [], "method attention lr0=7: 'lr0=7'"),
        ("none,attention", ["--teacher", "absent.pt"], "absent.pt"),
    ],
)
def test_what_cannot_work_is_refused_before_the_first_run(place, tmp_path, commands, monkeypatch, methods, more, told):
    given = arguments(place, tmp_path / "out", methods, "--seeds", "1", *more)
    with pytest.raises(UserError, match=re.escape(told)):
        main(monkeypatch, given)
    assert not commands and not (tmp_path / "out").exists()


def test_controls(place, tmp_path, commands, monkeypatch):
    """`longer` trains for the time of the distilled run, as epochs; the others start or learn from what they say."""
    original = runs.timing
    seconds = {"none-s0": 1.0, "attention-s0": 2.6}
    monkeypatch.setattr(
        runs, "timing",
        lambda path: original(path) | {"epoch_seconds": seconds.get(path.parts[-3], 1.0)},
    )  # fmt: skip
    methods = "longer,none,attention,teacher-init,random-teacher:cwd"
    more = ("--seeds", "1", "--teacher-cfg", str(place / "teacher.yaml"))
    assert main(monkeypatch, arguments(place, tmp_path, methods, *more)) == 0
    by_label = {run["label"]: run for run in json.loads((tmp_path / "results.json").read_text())["runs"]}
    assert by_label["longer"]["epochs"] == 5 and by_label["none"]["epochs"] == 2  # 2 epochs x 2.6
    assert len((tmp_path / "runs/longer-s0/train/results.csv").read_text().splitlines()) == 6
    assert by_label["longer"]["arguments"].count("--distill") == 0
    random = by_label["random-teacher:cwd"]["arguments"]
    assert random[random.index("--teacher") + 1].endswith("teacher.yaml")
    assert random[random.index("--distill") + 1] == "cwd"
    start = by_label["teacher-init"]["arguments"]
    assert start[start.index("--weights") + 1].endswith("t.pt") and "--distill" not in start
    notes = json.loads((tmp_path / "results.json").read_text())["notes"]
    assert any("Other initial weights than none: teacher-init;" in note for note in notes)


def planned(place: Path, out: Path, methods: str, seeds: int) -> schedule.Schedule:
    question = Question("model.yaml", "data.yaml", str(place / "t.pt"), None, ())
    listed = parse_methods(methods, question)
    for method in listed:
        method.epochs = 10
    return schedule.Schedule(question, listed, seeds, out, [], [{}, {}], "abc")


def finish(plan: schedule.Schedule, label: str, seconds: float) -> None:
    """Write the record of a finished run of seed 0."""
    run = plan.run_of(next(m for m in plan.methods if m.label == label), 0)
    run.folder.mkdir(parents=True)
    facts = {"digest": run.digest, "status": "done", "split": "val", "wall_seconds": seconds, "epochs": 10}
    facts["epoch_seconds"] = seconds / 10
    (run.folder / "run.json").write_text(json.dumps(facts))


def test_hours_are_told_from_finished_runs_and_seeds_are_cut(place, tmp_path):
    plan = planned(place, tmp_path, "none,attention,longer", seeds=4)
    finish(plan, "none", 3600)
    finish(plan, "attention", 7200)
    lines: list[str] = []
    assert estimate(plan, lines.append) == {"none": 3600, "attention": 7200, "longer": 7200} and not lines
    # Two at a time: seed 0 lacks `longer` (2 h). Seed 1: none until 1 h, attention behind it until 3 h, and `longer`,
    # which waits for it, until 5 h; every further seed takes 3 h as well.
    assert seeds_that_fit(plan, 11, lines.append) == 4 and "about 11 h to go" in lines[-1]
    assert seeds_that_fit(plan, 8.1, lines.append) == 3 and "all 4 seeds take about 11 h; running 3" in lines[-1]
    with pytest.raises(UserError, match="one seed of 3 methods takes about 2 h, all 4 11 h"):
        seeds_that_fit(plan, 0.5, lines.append)


@pytest.mark.parametrize(
    ("fraction", "share", "minutes", "hours"),
    [([], "0.5", "2.0", ("0.034", "0.067")), (["--fraction", "0.75"], "0.5", "1.5", ("0.025", "0.051"))],
)
def test_hours_from_a_probe(place, tmp_path, commands, monkeypatch, fraction, share, minutes, hours):
    """Three epochs of 4 x 1 of the 8 images took 0.2 s each and 1 s in all, scoring 1 s: 1.4 s + 300 epochs x 2 x 0.2 s.

    With a fraction of 0.75, 6 images: 1.4 s + 300 epochs x 1.5 x 0.2 s.
    """
    monkeypatch.setattr(runs, "timing", lambda path: {"train_seconds": 0.9, "epoch_seconds": 0.2})
    told: list[str] = []
    monkeypatch.setattr(comparison, "tell", told.append)
    given = arguments(place, tmp_path, "none", "--seeds", "2", "--batch", "1", "--epochs", "300", "--hours", "0.01")
    given += fraction
    with pytest.raises(UserError, match=f"one seed of 1 methods takes about {hours[0]} h, all 2 {hours[1]} h"):
        main(monkeypatch, given)
    probe, scoring = commands
    assert scoring[0].endswith("val.py")
    assert probe[len(probe) - probe[::-1].index("--fraction")] == share  # the last one counts
    assert any(f"none: about {minutes} min a run" in line for line in told)
    assert not (tmp_path / "probe").exists()


def test_the_line_of_a_run_says_what_is_left(place, tmp_path):
    """10 of 40 epochs took 36 s."""
    plan = planned(place, tmp_path, "none,attention", seeds=2)
    left = dict.fromkeys([("attention", 0), ("none", 1), ("attention", 1)])
    assert plan._to_go(left, before=0, seconds=36) == "; 3 runs to go, about 0.03 h"
    assert plan._to_go({}, before=0, seconds=36) == "" == plan._to_go(left, before=10, seconds=0)


def test_timing_leaves_out_warming_up_and_the_last_validation(tmp_path):
    def of(*times: float) -> dict:
        (tmp_path / "results.csv").write_text("epoch,time\n" + "".join(f"{i},{t}\n" for i, t in enumerate(times, 1)))
        return runs.timing(tmp_path / "results.csv")

    assert of(5, 7, 9.5, 11.5, 20) == {"train_seconds": 20, "epoch_seconds": 2.0}
    assert of(5, 7) == {"train_seconds": 7, "epoch_seconds": 5} and of(4)["epoch_seconds"] == 4


def test_the_line_that_says_what_went_wrong(tmp_path):
    log = tmp_path / "log"
    log.write_text("Traceback\n  File\nRuntimeError: shapes\nerror: this is a bug in Tandem; please report it\n")
    assert runs.last_error(log, 70) == "RuntimeError: shapes"
    for line in ("torch.OutOfMemoryError: CUDA out of memory.", "cv2.error: OpenCV(4.9) bad", "KeyError: 'a'"):
        log.write_text(f"Traceback\n  File\n{line}\nerror: this is a bug in Tandem; please report it\n")
        assert runs.last_error(log, 70) == line
    log.write_text("something else\nerror: this is a bug in Tandem; please report it\n")
    assert runs.last_error(log, 70) == "something else"
    log.write_text("start\nerror: lr0: expected a number\n")
    assert runs.last_error(log, 2) == "error: lr0: expected a number"
    assert runs.last_error(log, -9) == "ended by signal SIGKILL (out of memory?)"
    log.write_text("")
    assert runs.last_error(log, 3) == "ended with status 3"


def test_a_run_whose_batch_was_halved_is_no_pair_of_the_others(place, tmp_path, monkeypatch):
    """ultralytics goes on with a smaller batch when memory runs out in the first epoch, and says so in the log only."""
    plan = planned(place, tmp_path, "none", seeds=1)
    run = plan.run_of(plan.methods[0], 0)

    def ends_well(self, command, log, environment):
        log.write_text("WARNING: CUDA out of memory with batch=16. Reducing to batch=8 and retrying (1/3).\nfine\n")
        weights = run.folder / "train/weights/last.pt"
        weights.parent.mkdir(parents=True)
        weights.touch()
        return 0, 1.0, 10**9

    monkeypatch.setattr(runs.Processes, "run", ends_well)
    record = runs.train(run, plan.processes, {})
    assert record["status"] == "failed" and record["error"].startswith("out of memory with batch 16: ")


def test_another_split_is_scored_and_not_trained_again(place, tmp_path, commands, monkeypatch):
    content = yaml.safe_load((place / "data.yaml").read_text())
    (place / "parts.yaml").write_text(yaml.safe_dump(content | {"test": content["val"]}))
    given = arguments(place, tmp_path, "none", "--seeds", "1", "--data", str(place / "parts.yaml"))
    assert main(monkeypatch, given) == 0
    monkeypatch.chdir(place)
    for split, scored in (("test", 1), ("test", 0), ("val", 1)):
        commands.clear()
        assert main(monkeypatch, [*given, "--data", "parts.yaml", "--split", split]) == 0
        assert [Path(c[0]).name for c in commands] == ["val.py"] * scored
        (run,) = json.loads((tmp_path / "results.json").read_text())["runs"]
        assert run["split"] == split


def test_finished_trainings_are_not_overwritten(place, tmp_path, commands, monkeypatch):
    given = arguments(place, tmp_path, "none", "--seeds", "1")
    assert main(monkeypatch, given) == 0
    commands.clear()
    with pytest.raises(UserError, match="none-s0: has a training of none with other arguments.*another --out"):
        main(monkeypatch, [*given, "--epochs", "1"])
    assert not commands and (tmp_path / "runs/none-s0/train/weights/last.pt").is_file()


def test_a_split_without_boxes_is_refused_before_the_first_run(place, tmp_path, commands, monkeypatch):
    write_data(tmp_path)
    for file in (tmp_path / "labels/val").glob("*.txt"):
        file.write_text("")
    given = arguments(place, tmp_path / "out", "none", "--seeds", "1", "--data", str(tmp_path / "data.yaml"))
    with pytest.raises(UserError, match="expected labelled boxes in split 'val', got none"):
        main(monkeypatch, given)
    assert not commands


SLEEP = [sys.executable, "-c", "import time; block = bytearray(60 << 20); time.sleep(60)"]


def test_processes_end_with_the_comparison(tmp_path):
    """Whatever is waiting for them: the probe of --hours does so in the main thread."""
    processes, seen = runs.Processes(), []

    def interrupt() -> None:
        seen.extend(processes.live)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Timer(1.0, interrupt).start()
    with pytest.raises(KeyboardInterrupt):
        processes.run(SLEEP, tmp_path / "log", dict(os.environ))
    assert [process.poll() for process in seen] == [-signal.SIGTERM]
    with pytest.raises(KeyboardInterrupt):
        processes.run(SLEEP, tmp_path / "log", dict(os.environ))  # stopped: nothing starts any more


def test_peak_memory_is_that_of_the_process_itself(tmp_path):
    """Not of this one, from which it was forked: torch alone is several times as large."""
    command = [*SLEEP[:2], SLEEP[2].replace("60)", "1.5)")]
    status, seconds, memory = runs.Processes().run(command, tmp_path / "log", dict(os.environ))
    assert status == 0 and seconds > 1.5
    assert memory is None or 60e6 < memory < 120e6


def test_a_folder_is_locked_while_one_of_its_processes_lives(tmp_path):
    pytest.importorskip("fcntl")
    with locked(tmp_path) as file:
        with pytest.raises(UserError, match="another comparison.*is at work there"), locked(tmp_path):
            pass
        child = subprocess.Popen(SLEEP, pass_fds=(file,))
    try:
        with pytest.raises(UserError, match="or a training of one that was killed"), locked(tmp_path):
            pass
    finally:
        child.kill()
        child.wait()
    with locked(tmp_path):
        pass


def test_a_closed_terminal_ends_it_but_not_under_nohup():
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        signal.signal(signal.SIGHUP, signal.SIG_IGN)  # what nohup does
        kd.end_as_ctrl_c()
        assert signal.getsignal(signal.SIGTERM) is signal.default_int_handler
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        kd.end_as_ctrl_c()
        assert signal.getsignal(signal.SIGHUP) is signal.default_int_handler
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def test_labels_that_are_no_folder_names_never_meet():
    names = [runs.folder_name(label, 0) for label in ("attention", "a b", "a_b", "a/b", "../x", "longer:cwd")]
    assert names[0] == "attention-s0" and len(set(names)) == 6 and not any("/" in n or " " in n for n in names)


def test_slots(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    assert [s["CUDA_VISIBLE_DEVICES"] for s in schedule.make_slots(2, None, None)] == ["3", "5"]
    assert [s["CUDA_VISIBLE_DEVICES"] for s in schedule.make_slots(3, None, None)] == ["3", "5", "3"]  # small students share
    assert "CUDA_VISIBLE_DEVICES" not in schedule.make_slots(1, "0,1", None)[0]
    with pytest.raises(UserError, match="--jobs 2"):
        schedule.make_slots(2, "0", None)
    monkeypatch.setattr("models.environment.available_cpus", lambda: 8)
    assert [s["OMP_NUM_THREADS"] for s in schedule.make_slots(4, "cpu", None)] == ["2"] * 4
    assert schedule.make_slots(2, "cpu", "1")[0]["OMP_NUM_THREADS"] == "1"
