"""Two processes on a CPU (gloo) train one model: the same parameters on both, one run folder, best.pt validated."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tiny import results, training, write_data, write_model

from cfg import UserError
from engine.settings import Settings
from engine.training import processes
from engine.training.launch import train
from engine.training.processes import check_devices, devices_of

ROOT = Path(__file__).resolve().parents[2]
DRIVER = """
import hashlib, json, sys
sys.path.insert(0, {root!r})
from engine.training import launch
from engine.training.trainer import Trainer
import torch.distributed as dist
from ultralytics.utils.torch_utils import unwrap_model

def digests(module):
    return {{name: hashlib.sha256(value.detach().cpu().contiguous().numpy().tobytes()).hexdigest()
            for name, value in module.named_parameters()}}

original = Trainer.final_eval

def final_eval(self):
    model = unwrap_model(self.model)
    head = model.student.model[-1]
    mine = digests(model) | {{"weights": model.weights.weights.tolist(), "gains": model.balance.gains.tolist()}}
    mine |= {{"anchors": head.anchor_wh.tolist()}} if hasattr(head, "anchor_wh") else {{}}
    everyone = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, (mine, self.batches_seen, sorted(self.train_loader.sampler.__iter__())))
    if dist.get_rank() == 0:
        open({out!r}, "w").write(json.dumps(everyone))
    original(self)

Trainer.final_eval = final_eval
launch.train(json.loads({given!r}))
"""


def in_two_processes(folder: Path, given: dict) -> tuple[list, list, str]:
    """Train with `given` in two processes; return what each rank ended with, and the output."""
    out = folder / "ranks.json"
    (folder / "driver.py").write_text(DRIVER.format(root=str(ROOT), out=str(out), given=json.dumps(given)))
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = [*launcher, folder / "driver.py"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return *json.loads(out.read_text()), done.stdout


def test_two_processes_make_one_dynamic_teacher(tmp_path):
    write_data(tmp_path)
    write_model(tmp_path / "model.yaml", width=8)
    given = training(tmp_path, name="both", distill="sdd", lr0=0.01, epochs=2)
    (first, *_), (second, *_), _ = in_two_processes(tmp_path, given)
    assert first == second
    assert sum(name.startswith("distiller.") for name in first) > 20 and first["gains"] != [1.0]


def test_two_processes_train_one_model(tmp_path):
    write_data(tmp_path)
    write_model(tmp_path / "model.yaml", width=8)
    teacher = train(training(tmp_path, model=str(write_model(tmp_path / "teacher.yaml")), name="teacher", epochs=1))
    given = training(
        tmp_path, name="both", teacher=str(teacher / "weights/best.pt"), adaptive="stable", lr0=0.01, epochs=3,
        auto_anchors=True,
    )
    (first, steps, indices), (second, other_steps, other_indices), output = in_two_processes(tmp_path, given)
    assert first == second  # student, adapters, adaptive weights, gains, anchors
    for part in ("distiller.adapters.", "student."):
        assert any(name.startswith(part) for name in first)
    assert len(set(first["weights"])) > 1
    assert steps == other_steps == 3 * 2  # batch 4 in two halves: each process saw half of the 8 images in 2 steps
    assert sorted(indices + other_indices) == list(range(8))
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {"teacher", "both"}
    folder = tmp_path / "runs/both"
    assert [row["epoch"] for row in results(folder)] == [1, 2, 3]
    assert torch.load(folder / "weights/best.pt", weights_only=True)["format"] == "tandem-detector"
    assert (folder / "val").is_dir() and "mAP50" in output  # best.pt was validated


def check(given: dict) -> None:
    settings = Settings.of(given)
    check_devices(settings.run, settings.data)


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


@pytest.mark.parametrize("status", [0, 1, 2, 70])
def test_a_failing_validation_is_told(monkeypatch, tmp_path, status):
    (tmp_path / "best.pt").touch()
    trainer = SimpleNamespace(
        best=tmp_path / "best.pt", save_dir=tmp_path, args=SimpleNamespace(data="d.yaml", device="cpu"), settings=Settings.of({})
    )
    for name, value in {"is_initialized": True, "get_rank": 0, "barrier": None, "destroy_process_group": None}.items():
        monkeypatch.setattr(processes.dist, name, lambda value=value: value)
    monkeypatch.setattr(processes.subprocess, "run", lambda *_, **__: SimpleNamespace(returncode=status))
    if status < 2:
        processes.finish_processes(trainer)
    else:
        with pytest.raises(UserError, match=f"best.pt: trained, but its validation failed with status {status}; .*val"):
            processes.finish_processes(trainer)


def test_torchrun_with_one_process_is_a_plain_run(tmp_path):
    write_data(tmp_path)
    write_model(tmp_path / "model.yaml", width=8)
    given = training(tmp_path, epochs=1)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "1"]
    command = [*launcher, ROOT / "train.py", *(f"{name}={value}" for name, value in given.items())]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("results in ") == 1 and len(results(tmp_path / "runs/exp")) == 1
