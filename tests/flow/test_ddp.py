"""Two processes on a CPU (gloo) train one model: the same parameters on both, one run folder, best.pt validated."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from tiny import results, training, write_data, write_model

from cfg import UserError
from engine.launch import check_devices, devices_of, train

ROOT = Path(__file__).resolve().parents[2]
DRIVER = """
import hashlib, json, sys
sys.path.insert(0, {root!r})
from engine import launch
from engine.trainer import Trainer
import torch.distributed as dist
from ultralytics.utils.torch_utils import unwrap_model

def digests(module):
    return {{name: hashlib.sha256(value.detach().cpu().contiguous().numpy().tobytes()).hexdigest()
            for name, value in module.named_parameters()}}

original = Trainer.final_eval

def final_eval(self):
    model = unwrap_model(self.model)
    head = model.student.model[-1]
    mine = digests(model) | {{"weights": model.weights.weights.tolist(), "anchors": head.anchor_wh.tolist()}}
    everyone = [None] * dist.get_world_size()
    dist.all_gather_object(everyone, (mine, self.batches_seen, sorted(self.train_loader.sampler.__iter__())))
    if dist.get_rank() == 0:
        open({out!r}, "w").write(json.dumps(everyone))
    original(self)

Trainer.final_eval = final_eval
launch.train(json.loads({given!r}))
"""


def test_two_processes_train_one_model(tmp_path):
    write_data(tmp_path)
    write_model(tmp_path / "model.yaml", width=8)
    teacher = train(training(tmp_path, model=str(write_model(tmp_path / "teacher.yaml")), name="teacher", epochs=1))
    given = training(
        tmp_path, name="both", teacher=str(teacher / "weights/best.pt"), lr0=0.01, epochs=3, auto_anchors=True
    )
    out = tmp_path / "ranks.json"
    (tmp_path / "driver.py").write_text(DRIVER.format(root=str(ROOT), out=str(out), given=json.dumps(given)))
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command = [*launcher, tmp_path / "driver.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    (first, steps, indices), (second, other_steps, other_indices) = json.loads(out.read_text())
    assert first == second  # student, adapters, adaptive weights, anchors
    for part in ("distiller.adapters.", "student."):
        assert any(name.startswith(part) for name in first)
    assert len(set(first["weights"])) > 1
    assert steps == other_steps == 3 * 2  # batch 4 in two halves: each process saw half of the 8 images in 2 steps
    assert sorted(indices + other_indices) == list(range(8))
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {"teacher", "both"}
    folder = tmp_path / "runs/both"
    assert [row["epoch"] for row in results(folder)] == [1, 2, 3]
    assert torch.load(folder / "weights/best.pt", weights_only=True)["format"] == "tandem-detector"
    assert (folder / "val").is_dir() and "mAP50" in done.stdout  # best.pt was validated


def test_gpus_that_are_not_here():
    present = torch.cuda.device_count()
    with pytest.raises(UserError, match=r"--device .*: expected cpu or GPUs of this machine"):
        check_devices({"device": f"{present},{present + 1}"})
    with pytest.raises(UserError, match="--device gpu"):
        check_devices({"device": "gpu"})
    check_devices({"device": "cpu"})
    assert devices_of({"device": [0, 1]}) == ["0", "1"] and devices_of({"device": 0}) == ["0"] and devices_of({}) == []


@pytest.mark.parametrize(("option", "value"), [("batch", -1), ("rect", True)])
def test_what_several_processes_cannot_share(monkeypatch, option, value):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match=f"^{option}: "):
        check_devices({"device": "cpu", option: value})
