"""Distillation from end to end: columns, header, plots, and every kind of teacher and student."""

from __future__ import annotations

import re
from itertools import product
from pathlib import Path

import pytest
import torch
from tiny import NAMES, results, stock_detector, training, write_data, write_model

from cfg import UserError
from engine.checkpoint import save_student
from engine.start import start
from engine.training.launch import train

from ultralytics import YOLO

STOCK = """nc: 2
{options}
backbone:
  [[-1, 1, Conv, [8, 3, 2]], [-1, 1, Conv, [8, 3, 2]], [-1, 1, Conv, [16, 3, 2]], [-1, 1, Conv, [{width}, 3, 2]]]
head: [[[2, 3], 1, Detect, [nc]]]
"""
TERMS = ("fg_loss", "bg_loss", "att_loss", "global_loss")
WEIGHTS = ("box", "focal", "feature", "attention", "global")
STUDENTS, TEACHERS = ("model", "stock", "end2end"), ("own", "stock", "end2end", "stock-pickle", "end2end-pickle")
# Every student with every teacher, each of them in both kinds of arithmetic.
PAIRS = [(student, teacher, ("fp32", "bf16")[i % 2]) for i, (student, teacher) in enumerate(product(STUDENTS, TEACHERS))]


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("distill")
    write_data(folder)
    write_model(folder / "model.yaml", width=8)
    write_model(folder / "teacher.yaml")
    (folder / "stock.yaml").write_text(STOCK.format(options="", width=16))
    (folder / "end2end.yaml").write_text(STOCK.format(options="end2end: True\nreg_max: 1", width=16))
    run = train(training(folder, model=str(folder / "teacher.yaml"), name="teacher", epochs=1))
    (run / "weights/best.pt").rename(folder / "own.pt")
    for name in ("stock", "end2end"):
        run = train(training(folder, model=str(folder / f"{name}.yaml"), name=name, epochs=1))
        (run / "weights/best.pt").rename(folder / f"{name}.pt")
        host = YOLO(str(folder / f"{name}.yaml"), task="detect")  # a pickle of ultralytics' own, untrained
        host.model.names = {0: "dark", 1: "bright"}
        host.save(str(folder / f"{name}-pickle.pt"))
    return folder


def test_every_term_and_weight_is_shown(place, caplog, capsys):
    with caplog.at_level("INFO"):
        options = {"epochs": 3, "plots": True, "tensorboard": True, "lr0": 0.01, "adaptive": "stable", "distill": "attention", "verbose": True}
        folder = train(training(place, name="shown", teacher=str(place / "own.pt"), **options))
    rows = results(folder)
    for row in rows:
        assert all(row[f"{part}/{term}"] > 0 for part in ("train", "val") for term in TERMS)
        assert sum(row[f"weight/{name}"] for name in WEIGHTS) == pytest.approx(len(WEIGHTS), abs=1e-3)
        assert not any(name.startswith(("train/w_", "val/w_", "train/share_", "val/share_", "val/cos_")) for name in row)
        assert all(row[f"share/{name}"] > 0 for name in ("fg", "bg", "att", "global", "all"))
        assert all(0 < abs(row[f"cosine/{name}"]) <= 1 for name in ("fg", "bg", "att", "global", "all"))
    assert {row["weight/feature"] for row in rows} != {1.0}  # from the third epoch on
    header = next(record.message for record in caplog.records if "distillation:" in record.message)
    assert "ON, attention from teacher" in header and "levels p3, p4" in header and "256 adapter parameters" in header
    assert "adaptive weights: stable" in header
    assert "by weight selection (29 of 29 tensors, 17 of them whole)" in caplog.text
    head = next(record.message for record in caplog.records if "GPU_mem" in record.message)
    assert head.split() == ["Epoch", "GPU_mem", "box", "obj", "cls", "fg", "bg", "att", "global",
                            "w:box", "w:focal", "w:feature", "w:attenti.", "w:global",
                            "g:fg", "g:bg", "g:att", "g:global", "g:all",
                            "c:fg", "c:bg", "c:att", "c:global", "c:all", "Instances", "Size"]  # fmt: skip
    assert {len(line) for line in head.splitlines() if line} == {26 * 11}
    assert {"results.png", "weights.png", "labels.jpg", "train_batch0.jpg"} <= {path.name for path in folder.iterdir()}
    told = re.split("mAP50-95 +parameters", caplog.text)[1].splitlines()
    assert told[1].startswith("teacher own.pt ") and told[2].startswith("student model.yaml ") and "points" in told[3]
    assert _scalars(folder) >= {"train/fg_loss", "val/fg_loss", "weight/feature", "metrics/mAP50(B)", "lr/pg0"}


def _scalars(folder: Path) -> set[str]:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    events = accumulator.EventAccumulator(str(folder)).Reload()
    assert [event.step for event in events.Scalars("weight/feature")][:3] == [1, 2, 3]
    return set(events.Tags()["scalars"])


@pytest.mark.parametrize(("student", "teacher", "amp"), PAIRS)
def test_any_teacher_any_student(place, student, teacher, amp):
    weights = place / f"{teacher}.pt"
    before = weights.read_bytes()
    options = {"model": str(place / f"{student}.yaml"), "teacher": str(weights), "epochs": 1, "amp": amp}
    folder = train(training(place, name=f"{student}-{teacher}-{amp}", **options))
    row = results(folder)[0]
    assert all(row[f"{part}/{term}"] > 0 for part in ("train", "val") for term in (*TERMS, "box_loss", "cls_loss"))
    assert weights.read_bytes() == before
    content = torch.load(folder / "weights/best.pt", weights_only=True)
    assert not any("distiller" in key or "teacher" in key for key in content["state"])


@pytest.mark.parametrize("mode", ["paper", "none", "uncertainty"])
def test_modes_of_the_weights(place, mode):
    rows = results(train(training(place, name=mode, teacher=str(place / "own.pt"), adaptive=mode, epochs=3)))
    feature = [row["weight/feature"] for row in rows]
    assert (feature == [1, 1, 1]) == (mode == "none")


@pytest.mark.parametrize(
    "options",
    [{"multi_scale": 0.5}, {"rect": True}, {"fraction": 0.5}, {"teacher_init": False}, {"kd_cap": 0.5},
     {"kd_share": None}, {"kd_project": False}, {"kd_warmup": 0.5}, {"kd_decay": "cosine", "kd_until": 0.9}],
    ids=str,
)
def test_options(place, options):
    rows = results(train(training(place, name="options", teacher=str(place / "own.pt"), epochs=1, **options)))
    assert all(row["val/global_loss"] > 0 for row in rows)


def test_teacher_is_untouched_by_training(place, monkeypatch):
    from engine.training.trainer import Trainer

    kept = []
    original = Trainer._setup_train

    def keep(self):
        original(self)
        teacher = self.networks.teacher.model
        kept.append((teacher, {name: value.clone() for name, value in teacher.state_dict().items()}))
        trained = {id(p) for group in self.optimizer.param_groups for p in group["params"]}
        assert not any(id(p) in trained or p.requires_grad for p in teacher.parameters())

    monkeypatch.setattr(Trainer, "_setup_train", keep)
    train(training(place, name="untouched", teacher=str(place / "own.pt"), lr0=0.01))
    teacher, state = kept[0]
    assert not teacher.training
    assert all(torch.equal(value, state[name]) for name, value in teacher.state_dict().items())


@pytest.mark.parametrize("unlabelled", [False, True])
def test_a_student_with_weights_of_its_own_tries_both_starts(place, monkeypatch, caplog, unlabelled):
    """A teacher with the student's backbone and another head: a run with labels finds out whether its blocks are worth having."""
    student = place / "decoupled.yaml"
    student.write_text((place / "teacher.yaml").read_text().replace("anchors, coupled", "anchors, decoupled, none, 8, 1"))
    if not (shipped := place / "shipped.pt").exists():
        run = train(training(place, model=str(student), name="first", epochs=1, lr0=0.01))
        (run / "weights/best.pt").rename(shipped)
    monkeypatch.setattr(start, "shipped_for", lambda student: shipped)
    images = {"unlabelled": str(place / "images/train"), "data": None} if unlabelled else {}
    options = training(place, model=str(student), teacher=str(place / "own.pt"), distill="pkd", epochs=1, name=f"race-{unlabelled}") | images
    with caplog.at_level("INFO"):
        train(options)
    assert "by weight selection" in caplog.text
    assert ("after 2 steps from either" in caplog.text) != unlabelled


def test_other_class_names_are_refused(place):
    from cfg import UserError

    save_student(place / "three.pt", stock_detector(), {})
    with pytest.raises(UserError, match=f"knows {len(NAMES)} classes, .* 2: expected the same"):
        train(training(place, name="refused", teacher=str(place / "three.pt")))
    assert not (place / "runs/refused").exists()


@pytest.mark.parametrize("mode", ["stable", "none"])
def test_an_end_of_distillation(place, mode):
    options = {"epochs": 3, "kd_until": 0.6, "adaptive": mode}
    rows = results(train(training(place, name=f"until-{mode}", teacher=str(place / "own.pt"), **options)))
    assert rows[0]["train/fg_loss"] > 0 and rows[1]["train/fg_loss"] > 0 == rows[2]["train/fg_loss"]
    last = {name: rows[2][f"weight/{name}"] for name in WEIGHTS}
    assert last["box"] + last["focal"] == pytest.approx(2, abs=1e-3) and sum(last.values()) == pytest.approx(2, abs=1e-3)


def test_a_cap_is_held(place):
    options = {"kd_share": 5.0, "kd_cap": 0.25, "kd_every": 1, "epochs": 2}
    rows = results(train(training(place, name="cap", teacher=str(place / "own.pt"), **options)))
    assert all(row["share/all"] <= 0.2501 for row in rows)
    free = results(train(training(place, name="free", teacher=str(place / "own.pt"), **options | {"kd_cap": None})))
    assert all(row["share/all"] > 1 for row in free)


def test_a_teacher_file_where_the_method_needs_none_and_the_other_way_round(place):
    with pytest.raises(UserError, match="needs a teacher; give one with --teacher"):
        train(training(place, name="alone", distill="attention"))
    with pytest.raises(UserError, match="expected methods as in attention"):
        train(training(place, name="odd", teacher=str(place / "own.pt"), distill="attention+"))
