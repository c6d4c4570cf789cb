"""Every registered distillation method from end to end: train, be killed, resume, validate; and export."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from tiny import results, training, write_data, write_model

import export
from cfg import UserError
from distill.base import METHODS, Distiller
from distill.build import build_distiller
from distill.networks import FrozenTeacher
from engine.checkpoint import load_detector, save_student
from engine.training.build import build_detector
from engine.training.launch import train
from engine.training.trainer import Trainer
from engine.validation.evaluate import evaluate

NAMES = {0: "dark", 1: "bright"}
STOCK = """nc: 2
backbone:
  [[-1, 1, Conv, [8, 3, 2]], [-1, 1, Conv, [8, 3, 2]], [-1, 1, Conv, [{width}, 3, 2]], [-1, 1, Conv, [{width}, 3, 2]]]
head: [[[2, 3], 1, Detect, [nc]]]
"""
KINDS = ("anchors", "stock")  # of heads, the smaller first; the student of a kind has fewer channels than its teacher


class Killed(BaseException):
    """Ends a run where it stands: nothing in it catches this."""


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """Data, and of every kind a student's YAML and a teacher's weights."""
    folder = tmp_path_factory.mktemp("methods")
    write_data(folder)
    for role, width in (("student", 8), ("teacher", 16)):
        write_model(folder / f"anchors-{role}.yaml", 40 + width)  # ONNX files below 0.1 MB count as damaged
        (folder / f"stock-{role}.yaml").write_text(STOCK.format(width=width))
    for kind in KINDS:
        save_student(folder / f"{kind}.pt", build_detector(folder / f"{kind}-teacher.yaml", 2, NAMES), {})
    return folder


def smallest_pair(place: Path, name: str) -> tuple[str, Distiller]:
    """The first kind of heads between which the method works, and the distiller of such a pair."""
    for kind in KINDS:
        student = build_detector(place / f"{kind}-student.yaml", 2, NAMES)
        teacher = FrozenTeacher(build_detector(place / f"{kind}-teacher.yaml", 2, NAMES), "teacher")
        try:
            return kind, build_distiller(name, student, teacher if METHODS.get(name).uses_teacher else None, "student")
        except UserError:
            continue
    raise AssertionError(f"{name} serves none of {KINDS}: add a pair that it can serve")


@pytest.mark.parametrize("name", list(METHODS))
def test_a_method_trains_resumes_validates_and_exports(place: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kind, distiller = smallest_pair(place, name)
    options = {"model": str(place / f"{kind}-student.yaml"), "distill": name, "name": name, "epochs": 2}
    options |= {"teacher": str(place / f"{kind}.pt")} if distiller.uses_teacher else {}
    folder = place / "runs" / name
    kept = killed_after_an_epoch(training(place, **options), folder / "weights/last.pt", monkeypatch)
    assert all(f"distiller.{key}" in kept for key, _ in distiller.named_parameters())

    started = states_at_start(monkeypatch)
    assert train({"resume": str(folder / "weights/last.pt")}) == folder
    ours = {key: value for key, value in kept.items() if key.startswith(("distiller.", "balance."))}
    assert ours and all(torch.equal(started[0][key], value) for key, value in ours.items())

    rows = results(folder)
    assert [row["epoch"] for row in rows] == [1, 2]
    for term in (term.name for term in distiller.terms):
        assert rows[1][f"train/{term}"] > 0 and math.isfinite(rows[1][f"val/{term}"]), term
    content = torch.load(folder / "weights/best.pt", weights_only=True)
    assert not any("distiller" in key or "teacher" in key for key in content["state"])

    best = folder / "weights/best.pt"
    found = evaluate(best, place / "data.yaml", device="cpu", plots=False, save_dir=folder / "val")
    assert 0 <= found["metrics"]["mAP50"] <= 1
    student = load_detector(best)[0].state_dict()  # the same tensors whatever taught it: exported are those of one method per kind
    assert student.keys() == build_detector(place / f"{kind}-student.yaml", 2, NAMES).state_dict().keys()
    if name in ("attention", "ld"):
        assert export.main(["--weights", str(best), "--format", "onnx"]) == 0
        assert (folder / "weights/best.onnx").stat().st_size > 0


def killed_after_an_epoch(settings: dict, last: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, torch.Tensor]:
    """Run, die when the first epoch is saved, and return what last.pt holds of student, distiller and balance."""
    original = Trainer.save_model

    def save_model(trainer: Trainer) -> None:
        original(trainer)
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "save_model", save_model)
        with pytest.raises(Killed):
            train(settings)
    return torch.load(last, weights_only=True)["run"]["live"]


def states_at_start(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, torch.Tensor]]:
    """Filled with what each run from now on begins to train."""
    states: list[dict[str, torch.Tensor]] = []
    original = Trainer.resume_training

    def resume_training(trainer: Trainer, checkpoint: dict | None) -> None:
        original(trainer, checkpoint)
        states.append({key: value.clone() for key, value in trainer.model.state_dict().items()})

    monkeypatch.setattr(Trainer, "resume_training", resume_training)
    return states
