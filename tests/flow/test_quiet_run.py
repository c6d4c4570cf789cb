"""One distillation run in a process of its own: what it reaches for, what it writes where, and what best.pt is."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
import yaml

sys.path.insert(0, str(Path(__file__).parents[1] / "contract"))
from small import ROOT, description, detector, same

from engine.checkpoint import load_detector, save_student
from models.detector import Detector

# Runs a script under an audit hook that notes every look-up, connection, started program and file opened for writing.
WATCH = """
import json, os, runpy, sys
root, out, *sys.argv = sys.argv[1:]
sys.path.insert(0, root)
seen = []
def note(event, args):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto", "socket.bind"):
        seen.append((event, repr(args[1:])))
    elif event in ("subprocess.Popen", "os.system", "os.posix_spawn", "os.exec"):
        seen.append((event, repr(args[:2])))
    elif event == "open" and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        seen.append(("write", os.path.realpath(args[0]) if isinstance(args[0], (str, bytes)) else repr(args[0])))
    elif event in ("os.mkdir", "os.rename"):
        seen.append(("write", os.path.realpath(os.fsdecode(args[0]))))
sys.addaudithook(note)
try:
    runpy.run_path(os.path.join(root, sys.argv[0]), run_name="__main__")
except SystemExit as end:
    status = end.code or 0
else:
    status = 0
events = list(seen)
with open(out, "w") as file:
    json.dump({"status": status, "events": events}, file)
"""


def clean_environment(folder: Path) -> dict[str, str]:
    """Nothing of this process's switches: a home and a temporary folder of the test's own."""
    for name in ("home", "temp", "work"):
        (folder / name).mkdir(exist_ok=True)
    own = {"HOME": str(folder / "home"), "TMPDIR": str(folder / "temp")}
    own |= {"PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    return {k: v for k, v in os.environ.items() if k in ("PATH", "LANG", "SYSTEMROOT")} | own


def write_data(folder: Path) -> Path:
    for part, count in (("train", 4), ("val", 2)):
        for kind in ("images", "labels"):
            (folder / kind / part).mkdir(parents=True)
        for i in range(count):
            image = np.random.default_rng(i).integers(0, 255, (64, 64, 3), dtype=np.uint8)
            cv2.imwrite(str(folder / f"images/{part}/{part}{i}.png"), image)
            (folder / f"labels/{part}/{part}{i}.txt").write_text(f"{i % 2} 0.5 0.5 0.4 0.3\n")
    content = {"path": str(folder), "train": "images/train", "val": "images/val", "names": ["scratch", "pit"]}
    (folder / "data.yaml").write_text(yaml.safe_dump(content))
    return folder / "data.yaml"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> SimpleNamespace:
    folder = tmp_path_factory.mktemp("quiet").resolve()
    data = write_data(folder / "data")
    teacher = detector(16)
    teacher.names = {0: "scratch", 1: "pit"}
    save_student(folder / "teacher.pt", teacher, {"train_args": {}})
    (folder / "small.yaml").write_text(yaml.safe_dump(description()))
    (folder / "trackers").mkdir()
    (folder / "trackers/mlflow.py").write_text(f"open({str(folder / 'tracked')!r}, 'w')\n__version__ = '3.0'\n")
    trackers = {"PYTHONPATH": str(folder / "trackers"), "ULTRALYTICS_API_KEY": "ul_" + "0" * 40}
    # The only process that torchrun started: that is a plain run.
    alone = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "LOCAL_WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    environment = clean_environment(folder) | trackers | alone
    given = {"cfg": folder / "small.yaml", "data": data, "teacher": folder / "teacher.pt", "recipe": "quick", "epochs": 1}
    given |= {"imgsz": 64, "batch": 4, "nbs": 4, "device": "cpu", "workers": 0, "auto_anchors": False, "warmup_epochs": 0}
    command = [sys.executable, "-c", WATCH, str(ROOT), str(folder / "seen.json"), "train.py"]
    command += [*(f"{k}={v}" for k, v in given.items()), "--lr0", "0.01", "mosaic=1.0"]
    done = subprocess.run(command, cwd=folder / "work", env=environment, capture_output=True, text=True)
    assert (folder / "seen.json").exists(), done.stderr[-3000:]
    seen = json.loads((folder / "seen.json").read_text())
    assert seen["status"] == 0, done.stderr[-3000:]
    exp = folder / "work/runs/train/exp"
    return SimpleNamespace(folder=folder, events=seen["events"], exp=exp, output=done.stdout + done.stderr)


def test_a_run_that_looks_up_hosts_or_installs_packages(run: SimpleNamespace) -> None:
    assert [e for e in run.events if e[0].startswith("socket")] == []
    assert [e for e in run.events if "pip" in e[1] and e[0] != "write"] == []


def test_a_run_that_reports_to_a_tracker_because_it_is_installed(run: SimpleNamespace) -> None:
    assert not (run.folder / "tracked").exists(), "ultralytics imported mlflow"


def test_a_run_that_writes_outside_its_folder(run: SimpleNamespace) -> None:
    allowed = [run.folder / "work/runs", run.folder / "temp", run.folder / "data", Path("/dev"), Path("/proc")]
    written = {Path(path) for kind, path in run.events if kind == "write"}
    assert not {path for path in written if not any(path.is_relative_to(a) for a in allowed)}
    assert any(path.is_relative_to(run.exp / "weights") for path in written)
    assert list((run.folder / "home").iterdir()) == []
    assert [p.name for p in (run.folder / "work").iterdir()] == ["runs"]
    beside_the_data = [p for p in (run.folder / "data").rglob("*") if p.is_file() and p.parent.suffix != ".tandem"]
    assert {p.suffix for p in beside_the_data} == {".png", ".txt", ".yaml"}


def test_a_best_pt_with_more_in_it_than_the_student(run: SimpleNamespace) -> None:
    """Nor one that loads only where our classes are: `weights_only` knows none of them."""
    student = set(Detector(description()).state_dict())
    known = [getattr(one, "__module__", "").partition(".")[0] for one in torch.serialization.get_safe_globals()]
    assert not {"cfg", "models", "distill", "engine"} & set(known)
    for name in ("best.pt", "last.pt"):
        content = torch.load(run.exp / "weights" / name, weights_only=True)
        assert set(content["state"]) == student
        assert "run" not in content, "a finished run needs no state to resume from"
    assert not any("teacher" in key or "distill" in key for key in student)


def test_a_best_pt_that_predicts_something_else_after_loading(run: SimpleNamespace) -> None:
    loaded, content = load_detector(run.exp / "weights/best.pt")
    assert loaded.names == {0: "scratch", 1: "pit"}
    assert same(dict(loaded.state_dict()), content["state"])


def test_nobody_wonders_whether_distillation_is_on(run: SimpleNamespace) -> None:
    assert run.output.count(f"results in {run.exp}") == 1 and "AdamW(lr=0.01" in run.output
    head = run.output.split("  epoch memory")[0].splitlines()
    assert 5 < len([line for line in head if line.strip()]) <= 12
    assert "distillation: ON" in run.output and "levels p2, p3" in run.output
    header = (run.exp / "results.csv").read_text().splitlines()[0]
    assert "auto from teacher" in run.output and {"share/all", "cosine/all", "weight/box"} <= set(header.split(","))
