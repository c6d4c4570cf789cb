"""SDD from end to end on images that are not square: training, its dynamic teacher's file and score, resume."""

from __future__ import annotations

import json
import sys
from itertools import chain
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from tiny import results, training

import models.environment  # noqa: F401  (before ultralytics)
import val
from cfg import UserError
from engine.checkpoint import save_student
from engine.detectors import build_detector
from engine.training.launch import train
from engine.training.trainer import Trainer
from engine.validation.evaluate import evaluate

MODEL = """nc: 2
anchors: [[10, 12, 16, 14], [24, 30, 40, 36]]
backbone:
  - [-1, 1, PatchEmbed, [16, 4]]
  - [-1, 1, FaultMLP, []]
  - [-1, 1, PatchReduce, [32]]
  - [-1, 1, FaultMLP, []]
  - [-1, 1, PatchReduce, [32]]
  - [-1, 1, FaultMLP, []]
head:
  - [-1, 1, Pointwise, [16]]
  - [[-1, 3], 1, TopDown, [16]]
  - [[7, 6], 1, AnchorDetect, [nc, anchors, decoupled, none, 16, 1]]
"""
WIDE = (72, 100)  # height and width: 704 x 544 in small, that is 96 x 128 pixels at imgsz 128


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A model, and 9 training and 4 validation images of 100 x 72 pixels; the last training image has no box."""
    folder = tmp_path_factory.mktemp("sdd")
    (folder / "model.yaml").write_text(MODEL)
    rng = np.random.default_rng(0)
    for part, count in (("train", 9), ("val", 4)):
        for kind in ("images", "labels"):
            (folder / kind / part).mkdir(parents=True)
        for index in range(count):
            image = rng.integers(100, 140, (*WIDE, 3), dtype=np.uint8)
            x, y, kind = int(rng.integers(0, 70)), int(rng.integers(0, 40)), index % 2
            image[y : y + 24, x : x + 24] = 20 + 200 * kind
            line = f"{kind} {(x + 12) / WIDE[1]} {(y + 12) / WIDE[0]} {24 / WIDE[1]} {24 / WIDE[0]}\n"
            cv2.imwrite(str(folder / f"images/{part}/{index}.png"), image)
            (folder / f"labels/{part}/{index}.txt").write_text("" if (part, index) == ("train", 8) else line)
    (folder / "data.yaml").write_text("train: images/train\nval: images/val\nnames: [dark, bright]\n")
    return folder


def arguments(place: Path, **changes) -> dict:
    """The paper's recipe, for seconds."""
    small = dict(recipe="sdd", imgsz=128, batch=4, distill="sdd", epochs=9, workers=0, auto_anchors=False, val=True)
    unused = ("nbs", "cache", "warmup_epochs")
    common = {key: value for key, value in training(place, **small).items() if key not in unused}
    return common | changes


@pytest.fixture(scope="module")
def run(place) -> Path:
    """A finished run; what happened in it is noted in `notes.json`."""
    notes = {"orders": [], "shapes": [], "rates": [], "backbone": [], "own": []}
    original = Trainer.optimizer_step

    def step(self):
        before = {name: p.detach().clone() for name, p in self.model.named_parameters()}
        original(self)
        rows = len(self.model.student.yaml["backbone"])
        moved = {name for name, p in self.model.named_parameters() if not torch.equal(p, before[name])}
        backbone = tuple(f"student.model.{row}." for row in range(rows))
        notes["backbone"].append((self.model.progress, any(name.startswith(backbone) for name in moved)))
        notes["own"].append(any(name.startswith("distiller.labels") for name in moved))
        notes["rates"].append((self.epoch, self.optimizer.param_groups[-1]["lr"]))

    def preprocess(self, batch):
        notes["orders"].append([Path(name).stem for name in batch["im_file"]])
        notes["shapes"].append(list(batch["img"].shape[-2:]))
        return super(Trainer, self).preprocess_batch(batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "optimizer_step", step)
        patch.setattr(Trainer, "preprocess_batch", preprocess, raising=False)
        save_student(place / "start.pt", build_detector(str(place / "model.yaml"), 2, {0: "dark", 1: "bright"}), {})
        folder = train(arguments(place, name="whole", weights=str(place / "start.pt")))
    (folder / "notes.json").write_text(json.dumps(notes))
    return folder


def notes_of(run: Path) -> dict:
    return json.loads((run / "notes.json").read_text())


def test_images_keep_their_shape_and_are_shuffled(run):
    notes = notes_of(run)
    assert {tuple(shape) for shape in notes["shapes"]} == {(96, 128)}
    epochs = ["".join(chain.from_iterable(notes["orders"][i : i + 3])) for i in range(0, 27, 3)]
    assert all(sorted(epoch) == list("012345678") for epoch in epochs) and len(set(epochs)) > 5
    content = torch.load(run / "weights/teacher.pt", weights_only=True)
    assert content["dynamic"]["distiller.image_hw"].tolist() == [96, 128]
    assert content["dynamic"]["distiller.adaptors.p3.height.weight"].shape == (4 * 12, 4 * 12)
    assert content["dynamic"]["distiller.adaptors.p3.width.weight"].shape == (4 * 16, 4 * 16)


def test_the_schedule(run):
    notes, rows = notes_of(run), results(run)
    assert len(rows) == 9
    assert all(moved == (progress >= 1 / 9) for progress, moved in notes["backbone"])
    assert all(notes["own"][1:])  # at the first step the learning rate is 0
    assert rows[0]["train/sdd_loss"] == 0 < rows[2]["train/sdd_loss"]
    assert all(row["train/sdd_teacher_loss"] > 0 and row["val/sdd_teacher_loss"] > 0 for row in rows)
    rates = dict(notes["rates"])
    assert [rates[epoch] for epoch in (4, 5, 6, 7, 8)] == pytest.approx([1e-2, 1e-2, 1e-3, 1e-3, 1e-4])


def test_the_dynamic_teacher_is_in_no_students_file(run):
    for name in ("best", "last"):
        content = torch.load(run / f"weights/{name}.pt", weights_only=True)
        assert "dynamic" not in content and "run" not in content
        assert not any(key.startswith(("distiller", "head_statistics")) for key in content["state"])
    assert (run / "weights/teacher.pt").stat().st_size > 5 * (run / "weights/best.pt").stat().st_size


def test_score_of_the_dynamic_teacher(place, run, tmp_path, monkeypatch, capsys):
    options = dict(device="cpu", plots=False, imgsz=128)
    data = place / "data.yaml"
    got = evaluate(run / "weights/teacher.pt", data, save_dir=tmp_path / "a", eval_teacher=True, **options)
    alone = evaluate(run / "weights/last.pt", data, save_dir=tmp_path / "b", **options)
    assert got["metrics"] == alone["metrics"] and "dynamic_teacher" not in alone
    assert set(got["dynamic_teacher"]) == {"metrics", "per_class", "ultralytics"}
    assert got["dynamic_teacher"]["metrics"] != got["metrics"]
    given = ["--weights", run / "weights/teacher.pt", "--data", data, "--eval-teacher", "--device", "cpu", "--no-plots", "--save-dir", tmp_path / "c"]
    monkeypatch.setattr(sys, "argv", ["val.py", *map(str, given)])
    capsys.readouterr()
    assert val.main() == 0
    assert "dynamic teacher, which is given the labels: mAP50 " in capsys.readouterr().out


@pytest.mark.parametrize("name", ["best", "last"])
def test_files_without_a_dynamic_teacher_are_refused(place, run, tmp_path, name):
    with pytest.raises(UserError, match=f"--eval-teacher: .*{name}.pt has no dynamic teacher; give weights/teacher.pt"):
        evaluate(run / f"weights/{name}.pt", place / "data.yaml", device="cpu", save_dir=tmp_path, eval_teacher=True)


def test_a_killed_run_goes_on_with_its_dynamic_teacher(place, tmp_path):
    class Killed(BaseException):
        pass

    whole = train(arguments(place, name="once", epochs=3, project=str(tmp_path)))
    original = Trainer.save_model

    def save_and_die(self):
        original(self)
        if self.epoch == 1:
            raise Killed

    with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed):
        patch.setattr(Trainer, "save_model", save_and_die)
        train(arguments(place, name="twice", epochs=3, project=str(tmp_path)))
    last = tmp_path / "twice/weights/last.pt"
    unfinished = dict(device="cpu", plots=False, imgsz=128, save_dir=tmp_path / "val", eval_teacher=True)
    assert "dynamic_teacher" in evaluate(last, place / "data.yaml", **unfinished)
    saved, restored = torch.load(last, weights_only=True)["run"], {}
    original_resume = Trainer.resume_training

    def resume(self, content):
        original_resume(self, content)
        for part, model in (("live", self.model), ("averaged", self.ema.ema)):
            restored[part] = {name: value.clone() for name, value in model.state_dict().items()}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "resume_training", resume)
        train({"resume": str(last)})
    for part in ("live", "averaged"):
        own = [name for name in saved[part] if name.startswith(("distiller.", "head_statistics."))]
        assert any("labels" in name for name in own) and any("statistics" in name for name in own)
        assert all(torch.equal(restored[part][name], saved[part][name]) for name in own)
    one, other = (torch.load(f / "weights/teacher.pt", weights_only=True) for f in (whole, last.parents[1]))
    assert one["dynamic"].keys() == other["dynamic"].keys()
    assert all(one["dynamic"][k].shape == v.shape for k, v in other["dynamic"].items())
    assert [row["epoch"] for row in results(last.parents[1])] == [1, 2, 3]
