"""Whole runs learned from detectors of other programs; pairs that cannot work end in one line before training."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import torch
from tiny import TRAINING, results, training, write_data, write_model
from tiny_foreign import NAMES, RTDETR_YAML, add_to_torchvision, described, trained

import train
import val
from cfg import UserError, guard
from engine.checkpoint import save_student
from engine.training.launch import train as run
from engine.training.trainer import Trainer
from models.detector import Detector

from ultralytics import RTDETR, YOLO

TERMS = ("fg_loss", "bg_loss", "att_loss", "global_loss")
COARSE = """nc: 2
anchors: [[10, 12, 16, 14]]
backbone: [[-1, 1, Conv, [8, 3, 2]], [-1, 1, Conv, [8, 3, 2]], [-1, 1, Conv, [8, 3, 2]], [-1, 1, Conv, [8, 3, 2]]]
head: [[-1, 1, Conv, [8, 3, 2]], [[4], 1, AnchorDetect, [nc, anchors, coupled]]]
"""
STOCK = """nc: 2
backbone: [[-1, 1, Conv, [8, 3, 2]], [-1, 1, Conv, [8, 3, 2]], [-1, 1, Conv, [8, 3, 2]], [-1, 1, Conv, [8, 3, 2]]]
head: [[[2, 3], 1, Detect, [nc]]]
"""
YAMLS = {  # what is wrong with a torchvision teacher, by file name
    "builder.yaml": "torchvision: fasterrcnn_tinny\n",
    "ssd.yaml": "torchvision: ssd300_vgg16\n",
    "gone.yaml": "torchvision: fasterrcnn_tiny\nweights: nowhere.pth\nnames: [dark, bright]\n",
    "fit.yaml": "torchvision: fasterrcnn_tiny\nweights: other.pth\nnames: [dark, bright]\n",
    "count.yaml": "torchvision: fasterrcnn_tiny\nweights: w.pt\nnames: [dark]\n",
    "more.yaml": "torchvision: fasterrcnn_tiny\nnames: [dark, bright, grey]\n",
    "order.yaml": "torchvision: fasterrcnn_tiny\nweights: w.pt\nnames: [bright, dark]\n",
    "load.yaml": "torchvision: fasterrcnn_tiny\noptions: {weights: DEFAULT}\n",
    "noise.yaml": "torchvision: fasterrcnn_tiny\nweights: noise.pth\nnames: [dark, bright]\n",
}
FEATURES_ONLY = r"compares predictions and teacher .*tiny\.pt shows features only: RT-DETR's head .*\(.*attention"
CASES = [
    ("teacher=builder.yaml", r"builder\.yaml: torchvision: .*'fasterrcnn_tinny'; did you mean 'fasterrcnn_tiny'"),
    ("teacher=ssd.yaml", r"ssd\.yaml: torchvision: expected one of .*fcos_resnet50_fpn.*got 'ssd300_vgg16'"),
    ("teacher=gone.yaml", r"gone\.yaml: weights: .*nowhere\.pth not found"),
    ("teacher=noise.yaml", r"noise\.pth: expected a checkpoint"),
    ("teacher=fit.yaml", r"fit\.yaml: weights: .*other\.pth: 0 of the 20 tensors"),
    ("teacher=count.yaml", r"count\.yaml: weights: .*w\.pt was trained with 3 classes, .*'names' gives 2"),
    ("teacher=more.yaml", r"teacher .*more\.yaml knows 3 classes, student model\.yaml 2"),
    ("teacher=order.yaml", r"got another order \(class 0 is 'dark' in the data, 'bright' in the model, .*--map-classes"),
    ("teacher=load.yaml", r"load\.yaml: options: weights would be downloaded"),
    ("teacher=w.pt", r"w\.pt: expected a checkpoint with a model.*a torchvision teacher's are named in a YAML"),
    ("teacher=fasterrcn.yaml", r"fasterrcn\.yaml.*not found.*cfg/teachers: fasterrcnn\.yaml"),
    ("teacher=t.yaml model=coarse.yaml", r"no common stride: student .* \[32\], teacher .* \[4, 8, 16\]"),
    ("teacher=tiny.pt model=coarse.yaml", r"no common stride: student .* \[32\], teacher .* \[8, 16\]"),
    ("teacher=tiny.pt distill=ld model=stock.yaml", f"ld {FEATURES_ONLY}"),
    ("teacher=tiny.pt distill=output", f"output {FEATURES_ONLY}"),
    ("teacher=t.yaml distill=attention+score_l2", r"score_l2 compares predictions and .*t\.yaml shows features only: "),
    ("teacher=own.pt distill=ld", r"ld.*box distributions"),
    ("teacher=stock.pt distill=ld", r"ld.*box distributions"),
    ("teacher=stock.pt distill=output", r"output.*teacher .*stock\.pt"),
    ("model=tiny.yaml", r"tiny\.yaml: expected a detector.*'RTDETRDecoder'; RT-DETR can be a teacher"),
]  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def more_torchvision():
    with pytest.MonkeyPatch.context() as patch:
        add_to_torchvision(patch)
        yield


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with data, students, and teachers of each kind."""
    folder = tmp_path_factory.mktemp("teachers")
    write_data(folder)
    write_model(folder / "model.yaml", width=8)
    for name, text in ({"coarse": COARSE, "stock": STOCK, "tiny": RTDETR_YAML}).items():
        (folder / f"{name}.yaml").write_text(text)
    for name, text in YAMLS.items():
        (folder / name).write_text(text)
    described(folder, state=trained().state_dict())
    torch.save({"a.weight": torch.zeros(2)}, folder / "other.pth")
    (folder / "noise.pth").write_bytes(bytes(range(256)) * 20)
    save_student(folder / "own.pt", Detector(folder / "model.yaml", names=NAMES), {})
    for kind, name in ((RTDETR, "tiny"), (YOLO, "stock")):
        host = kind(str(folder / f"{name}.yaml"))
        host.model.names = NAMES
        host.save(str(folder / f"{name}.pt"))
    return folder


@pytest.mark.parametrize(("arguments", "message"), CASES, ids=[case[0] for case in CASES])
def test_a_pair_that_cannot_work(place, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(place)
    before = {path for path in place.rglob("*") if path.suffix != ".cache"}
    base = TRAINING | {"model": "model.yaml", "data": "data.yaml", "project": "runs"}
    monkeypatch.setattr(sys, "argv", ["train.py", *(f"{k}={v}" for k, v in base.items()), *arguments.split()])
    assert guard(train.main) == 2
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(error) == 1 and re.search(message, error[0]), error
    assert {path for path in place.rglob("*") if path.suffix != ".cache"} == before


def test_rtdetr_is_not_validated(place, monkeypatch, capsys):
    monkeypatch.chdir(place)
    monkeypatch.setattr(sys, "argv", ["val.py", "--weights", "tiny.pt", "--data", "data.yaml", "--device", "cpu"])
    assert guard(val.main) == 2
    assert "it can only be a teacher: train.py --teacher FILE" in capsys.readouterr().err


@pytest.mark.parametrize("student", ["model.yaml", "stock.yaml"])
@pytest.mark.parametrize("teacher", ["t.yaml", "tiny.pt", "tiny.yaml"])
def test_a_student_learns_from_features(place, caplog, teacher, student):
    with caplog.at_level("INFO"):
        name = f"{teacher}-{student}".replace(".", "-")
        folder = run(training(place, name=name, teacher=str(place / teacher), model=str(place / student), epochs=1))
    row = results(folder)[0]
    assert all(row[f"{part}/{term}"] > 0 for part in ("train", "val") for term in TERMS)
    assert ("UNTRAINED: a control" in caplog.text) == (teacher == "tiny.yaml")
    assert "tensors of the teacher" not in caplog.text  # nothing of such a teacher fits a student
    content = torch.load(folder / "weights/best.pt", weights_only=True)
    assert not any("backbone" in key or "distiller" in key or "network" in key for key in content["state"])


def test_an_untrained_teacher_says_so(place, caplog):
    (place / "control.yaml").write_text("torchvision: fasterrcnn_tiny\n")
    with caplog.at_level("INFO"):
        run(training(place, name="control", teacher=str(place / "control.yaml"), epochs=1))
    assert re.search(r"ON, attention from untrained teacher .*control\.yaml", caplog.text)
    assert "UNTRAINED: a control, it teaches nothing" in caplog.text


class Killed(BaseException):
    """Ends a run where it stands: nothing in it catches this."""


@pytest.mark.parametrize("teacher", ["t.yaml", "tiny.pt", "control.yaml"])
def test_a_killed_run_goes_on_with_the_same_teacher(place, monkeypatch, teacher):
    (place / "control.yaml").write_text("torchvision: fasterrcnn_tiny\n")
    seen: list[dict[str, torch.Tensor]] = []
    set_up, save = Trainer._setup_train, Trainer.save_model

    def keep(self):
        set_up(self)
        seen.append({k: v.clone() for k, v in self.networks.teacher.model.state_dict().items()})

    def die(self):
        save(self)
        if self.epoch == 1 and len(seen) == 1:
            raise Killed
        return True

    monkeypatch.setattr(Trainer, "_setup_train", keep)
    monkeypatch.setattr(Trainer, "save_model", die)
    name = "killed-" + teacher.replace(".", "-")
    with pytest.raises(Killed):
        run(training(place, name=name, teacher=str(place / teacher), epochs=4))
    torch.manual_seed(99)
    folder = run({"resume": str(place / f"runs/{name}/weights/last.pt")})
    rows = results(folder)
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4] and all(row["train/fg_loss"] > 0 for row in rows)
    first, resumed = seen
    assert first.keys() == resumed.keys() and all(torch.equal(v, resumed[k]) for k, v in first.items())


def test_a_resumed_run_whose_teachers_weights_are_gone(place):
    weights = place / "w2.pt"
    weights.write_bytes((place / "w.pt").read_bytes())
    (place / "t2.yaml").write_text((place / "t.yaml").read_text().replace("w.pt", "w2.pt"))
    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        save = Trainer.save_model

        def die(self):
            save(self)
            raise Killed

        patch.setattr(Trainer, "save_model", die)
        run(training(place, name="gone", teacher=str(place / "t2.yaml")))
    weights.unlink()
    with pytest.raises(UserError, match=r"t2\.yaml: weights: .*w2\.pt not found"):
        run({"resume": str(place / "runs/gone/weights/last.pt")})
