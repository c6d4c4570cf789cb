"""Two processes on a CPU (gloo) train one model: the same parameters on both, one run folder, best.pt validated."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tiny import results, training, write_data, write_model

import val
from cfg import UserError, guard
from engine.settings import Settings
from engine.training import processes
from engine.training.launch import train
from engine.training.processes import check_devices, devices_of

ROOT = Path(__file__).resolve().parents[2]
# Runs one training after another in the same processes: starting them costs ten times what these trainings do. Each has a process
# group of its own, which rank 0 finds a port for. The commands that would validate best.pt in another new process are noted.
DRIVER = """
import hashlib, json, os, socket, sys
sys.path.insert(0, {root!r})
from types import SimpleNamespace
from engine.training import launch, processes
from engine.training.trainer import Trainer
import torch.distributed as dist
from ultralytics.utils.torch_utils import unwrap_model

def digests(module):
    return {{name: hashlib.sha256(value.detach().cpu().contiguous().numpy().tobytes()).hexdigest()
            for name, value in module.named_parameters()}}

def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]

original, ended, commands = Trainer.final_eval, [], []

def final_eval(self):
    model = unwrap_model(self.model)
    head = model.student.model[-1]
    mine = digests(model) | {{"weights": model.weights.weights.tolist(), "gains": model.balance.gains.tolist()}}
    mine |= {{"anchors": head.anchor_wh.tolist()}} if hasattr(head, "anchor_wh") else {{}}
    everyone = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, (mine, self.batches_seen, sorted(self.train_loader.sampler.__iter__()), free_port()))
    ended.append(everyone)
    original(self)

def validating(command, env, check):
    assert "RANK" not in env
    commands.append(command)
    return SimpleNamespace(returncode=0)

Trainer.final_eval = final_eval
processes.subprocess = SimpleNamespace(run=validating)
processes.teacher_of = lambda _: None  # one validation is enough here
for given in json.loads({given!r}):
    launch.train(given)
    os.environ["MASTER_PORT"] = str(ended[-1][0][3])
if os.environ["RANK"] == "0":
    open({out!r}, "w").write(json.dumps([ended, commands]))
"""


def in_two_processes(folder: Path, runs: list[dict]) -> tuple[list, list[list[str]], str]:
    """Train each of `runs` in the same two processes; return what each rank ended each with, the commands, and the output."""
    out = folder / "ranks.json"
    (folder / "driver.py").write_text(DRIVER.format(root=str(ROOT), out=str(out), given=json.dumps(runs)))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    ranks, logs = [], [folder / f"rank{rank}.txt" for rank in "01"]
    for rank, path in zip("01", logs):  # as torchrun starts them: test_several_machines.py has it do so
        with path.open("w") as log:
            told = os.environ | address | {"RANK": rank, "LOCAL_RANK": rank}
            ranks.append(subprocess.Popen([sys.executable, folder / "driver.py"], cwd=folder, env=told, stdout=log, stderr=log))
    while not any(rank.poll() for rank in ranks) and None in [rank.poll() for rank in ranks]:
        time.sleep(0.2)
    for rank in ranks:  # the one that waits for one that failed
        rank.kill()
    output = "".join(path.read_text() for path in logs)
    assert [rank.wait() for rank in ranks] == [0, 0], output[-3000:]
    return *json.loads(out.read_text()), output


OLD = tuple(map(int, torch.__version__.split(".")[:2])) < (2, 11)


@pytest.mark.skipif(OLD, reason="Gloo of an older PyTorch may be unable to average (2.6 is)")
def test_two_processes_train_one_model(tmp_path, monkeypatch, capsys):
    """With a teacher and adaptive weights; and with a dynamic teacher and draws by class, of which each takes its part."""
    write_data(tmp_path)
    write_model(tmp_path / "model.yaml", width=8)
    teacher = train(training(tmp_path, model=str(write_model(tmp_path / "teacher.yaml")), name="teacher", epochs=1))
    distilled = {"teacher": str(teacher / "weights/best.pt"), "adaptive": "stable", "lr0": 0.01, "epochs": 3, "auto_anchors": True}
    write_data(tmp_path / "rare")
    (tmp_path / "rare/labels/train/0.txt").unlink()
    rare = {"data": str(tmp_path / "rare/data.yaml"), "repeat_threshold": 0.5, "background_share": 0.5, "min_steps": 3, "paste": 0.8}
    ended, commands, output = in_two_processes(tmp_path, [
        training(tmp_path, name="rare", distill="sdd", lr0=0.01, epochs=2, **rare),
        training(tmp_path, name="both", **distilled),
    ])  # fmt: skip
    for first, second in ended:
        assert first[:2] == second[:2]  # student, adapters, adaptive weights, gains, anchors; steps
    (dynamic, *_), _ = ended[0]
    assert sum(name.startswith("distiller.") for name in dynamic) > 20 and dynamic["gains"] != [1.0]
    _check_draws(*ended[0], output)
    (first, steps, indices, _), (*_, other_indices, _) = ended[1]
    for part in ("distiller.adapters.", "student."):
        assert any(name.startswith(part) for name in first)
    assert len(set(first["weights"])) > 1
    assert steps == 3 * 2  # batch 4 in two halves: each process saw half of the 8 images in 2 steps
    assert sorted(indices + other_indices) == list(range(8))
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {"teacher", "rare", "both"}
    folder = tmp_path / "runs/both"
    assert [row["epoch"] for row in results(folder)] == [1, 2, 3]
    assert torch.load(folder / "weights/best.pt", weights_only=True)["format"] == "tandem-detector"
    assert commands[-1][:2] == [sys.executable, str(ROOT / "val.py")]
    assert commands[-1][-2] == "--json"  # into a folder that is gone: printed here
    monkeypatch.setattr(sys, "argv", commands[-1][1:-2])
    capsys.readouterr()
    assert guard(val.main) == 0 and (folder / "val").is_dir() and "AP50-95" in capsys.readouterr().out


def check(given: dict) -> None:
    settings = Settings.of(given)
    check_devices(settings.run, settings.data)


def _check_draws(first: list, second: list, output: str) -> None:
    """Two processes share the 12 draws of an epoch, and say so once."""
    (_, steps, mine, _), (*_, others, _) = first, second
    assert steps == 2 * 3 and len(mine) == len(others) == 6 and output.count("draws: 12 images an epoch of 8") == 1
    together = np.bincount(mine + others, minlength=8)
    assert together.sum() == 12 and together.max() <= 3


def test_a_pytorch_whose_gloo_cannot_average_is_refused_before_the_first_epoch(monkeypatch):
    def all_reduce(_, op):
        raise RuntimeError(f"Cannot use {op} with Gloo")

    monkeypatch.setattr(processes, "dist", SimpleNamespace(all_reduce=all_reduce, ReduceOp=SimpleNamespace(AVG="AVG")))
    with pytest.raises(UserError, match=r"Gloo can average \(2.11 can\), got .*; install a newer one, or train in one process"):
        processes._check_average()


def test_gpus_that_are_not_here():
    present = torch.cuda.device_count()
    with pytest.raises(UserError, match=r"--device .*: expected cpu or GPUs of this machine"):
        check({"device": f"{present},{present + 1}"})
    with pytest.raises(UserError, match="--device gpu"):
        check({"device": "gpu"})
    check({"device": "cpu"})
    named = {device: devices_of(Settings.of({"device": given}).run) for device, given in (("two", [0, 1]), ("one", 0), ("none", None))}
    assert named == {"two": ["0", "1"], "one": ["0"], "none": []}


@pytest.mark.parametrize(("option", "value"), [("batch", -1), ("batch", 1), ("rect", True)])
def test_what_several_processes_cannot_share(monkeypatch, option, value):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match=f"^{option}: "):
        check({"device": "cpu", option: value})


def test_more_processes_than_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(processes, "parse_device", str)
    monkeypatch.setenv("WORLD_SIZE", "3")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    for device, gpus in ((None, 2), ("1", 1)):
        with pytest.raises(UserError, match=rf"a GPU for each of the 3 processes on this machine, got {gpus}; start"):
            check({"device": device})
    check({"device": "cpu"})
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    check({"device": "0,1"})


@pytest.mark.parametrize(("threads", "each"), [(8, "4"), (6, "6")])
def test_processes_share_the_cores_unless_the_user_said_otherwise(monkeypatch, threads, each):
    called = {}

    def run(command, **options):
        called.update(options)
        return SimpleNamespace(returncode=0)

    monkeypatch.setattr(processes, "available_cpus", lambda: 8)
    monkeypatch.setattr(processes, "devices_of", lambda run: ["0", "1"])
    monkeypatch.setenv("OMP_NUM_THREADS", str(threads))
    monkeypatch.setattr(processes.subprocess, "run", run)
    processes.start_processes(Settings.of({"device": "0,1"}).run, [])
    assert called["env"]["OMP_NUM_THREADS"] == each


@pytest.fixture
def ended(monkeypatch, tmp_path):
    """The trainer of the first of several processes, at the end of a distilled run."""
    (tmp_path / "best.pt").touch()
    for name, value in {"is_initialized": True, "get_rank": 0, "barrier": None, "destroy_process_group": None}.items():
        monkeypatch.setattr(processes.dist, name, lambda value=value: value)
    arguments = SimpleNamespace(data="d.yaml", device="cpu", split="val", imgsz=64, model="s-model.yaml")
    networks = SimpleNamespace(teacher=SimpleNamespace(model=torch.nn.Linear(4, 4)), student=torch.nn.Linear(2, 2))
    settings = Settings.of({"teacher": "t.pt", "map_classes": True})
    told = {"save_dir": tmp_path, "args": arguments, "data": {"nc": 1, "names": {0: "pit"}}}
    return SimpleNamespace(best=tmp_path / "best.pt", networks=networks, settings=settings, **told)


def validations(monkeypatch, found: dict[str, tuple[int, float]]) -> list[list[str]]:
    """Have val.py end with a status, and find a mAP, for each of some weights; returns its commands."""
    commands = []

    def run(command, **_):
        commands.append(command)
        status, score = found[Path(command[command.index("--weights") + 1]).name]
        Path(command[command.index("--json") + 1]).write_text(json.dumps({"ultralytics": {"mAP50": score, "mAP50-95": score / 2}}))
        return SimpleNamespace(returncode=status)

    monkeypatch.setattr(processes.subprocess, "run", run)
    return commands


@pytest.mark.parametrize("status", [0, 1, 2, 70])
def test_a_failing_validation_is_told(monkeypatch, ended, status):
    validations(monkeypatch, {"best.pt": (status, 0.5), "t.pt": (0, 0.6)})
    if status < 2:
        processes.finish_processes(ended)
    else:
        with pytest.raises(UserError, match=f"best.pt: trained, but its validation failed with status {status}; .*val"):
            processes.finish_processes(ended)


@pytest.mark.parametrize(("status", "last"), [(0, "student to teacher -10.0 points -5.0 points x 0.30"), (2, "")])
def test_the_teacher_is_scored_beside_the_student(monkeypatch, ended, status, last):
    """Without a score where val.py does not know it, as a torchvision network."""
    commands = validations(monkeypatch, {"best.pt": (0, 0.5), "t.pt": (status, 0.6)})
    logged = []
    monkeypatch.setattr("engine.training.summary.LOGGER", SimpleNamespace(info=logged.append))
    processes.finish_processes(ended)
    assert "--map-classes" in commands[1] and commands[1][commands[1].index("--imgsz") + 1] == "64"
    rows = [" ".join(line.split()) for line in logged[0].splitlines()]
    assert "student s-model.yaml 0.5000 0.2500 0.00 M" in rows and (last in rows if last else "teacher t.pt - - 0.00 M" in rows)
