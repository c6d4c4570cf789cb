"""The race of two starts: who wins, what the winner's run begins from, and what stays untouched."""

from __future__ import annotations

import sys
from copy import deepcopy
from itertools import repeat
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1] / "contract"))
from small import batch, detector

from distill.model import TrainingModel
from engine.start import race as module
from engine.start.race import STEPS, Rival, put, race, settle_start
from engine.start.selection import START_TABLE

OUTPUT = ".class_out.weight"  # of the head; with wild values every prediction is wrong


def training_model() -> TrainingModel:
    student = detector(8, "none", seed=1)
    student.criterion = student.init_criterion()
    return TrainingModel(student)


def outputs(model: TrainingModel, factor: float) -> dict[str, Tensor]:
    found = {name: tensor.clone() * factor for name, tensor in model.student.state_dict().items() if name.endswith(OUTPUT)}
    assert found
    return found


def state_of(model: TrainingModel) -> dict[str, Tensor]:
    return deepcopy(model.student.state_dict())


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def descend(model: TrainingModel) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=1e-3)


def test_the_start_with_the_lower_loss_is_found_and_the_student_stays_as_it_is() -> None:
    model = training_model()
    before, wild = state_of(model), outputs(model, 1e3)
    current, other = race(model, Rival(wild, "t"), repeat(batch(3)), descend, 4)
    assert current < other and equal(before, state_of(model))
    sane = outputs(model, 1.0)
    put(model, wild)
    assert race(model, Rival(sane, "t"), repeat(batch(3)), descend, 4) == (other, current)
    assert model.student.criterion is not None and all(p.grad is None for p in model.parameters())


def test_equal_starts_are_equal_copies_learn_and_the_second_half_counts() -> None:
    model = training_model()
    one, other = race(model, Rival({}, "t"), repeat(batch(3)), descend, 5)
    assert one == other
    assert race(model, Rival({}, "t"), [batch(3, seed) for seed in range(9)], descend, 1)[0] > 0, "a run of a single step"
    stay = lambda copy: torch.optim.SGD(copy.parameters(), lr=0.0)  # noqa: E731
    still = race(model, Rival({}, "t"), repeat(batch(3)), stay, 5)[0]
    assert still != one, "copies learn"
    late = race(model, Rival({}, "t"), [batch(3, 7), batch(3, 8), batch(3), batch(3)], stay, 4)[0]
    assert late == pytest.approx(still), "the second half of the steps counts"


def test_a_start_whose_loss_is_no_number_loses() -> None:
    model = training_model()
    current, other = race(model, Rival(outputs(model, float("nan")), "t"), repeat(batch(3)), descend, 4)
    assert current < other == float("inf")


@pytest.mark.parametrize("better", [True, False])
def test_a_run_begins_from_the_winner(better: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    model, table = training_model(), tmp_path / START_TABLE
    table.write_text("what each block took from the teacher")
    first, second = outputs(model, 1.0), outputs(model, 1e3)
    put(model, second if better else first)
    rival = Rival(first if better else second, "the teacher t.pt")
    trainer = SimpleNamespace(
        model=model, networks=SimpleNamespace(rival=rival), train_loader=[0] * 3, epochs=2, device=torch.device("cpu"),
        preprocess_batch=lambda given: given, save_dir=tmp_path, build_optimizer=lambda copy, *a: descend(copy),
        args=SimpleNamespace(seed=0, optimizer="auto", lr0=0.01, momentum=0.9, weight_decay=0.0),
    )  # fmt: skip
    monkeypatch.setattr(module, "_batches", lambda trainer: repeat(batch(3)))
    with caplog.at_level("INFO"):
        settle_start(trainer)
    assert equal(first, outputs(model, 1.0))
    kept = "its own weights, not the blocks of the teacher t.pt," if better else "the blocks of the teacher t.pt"
    assert f"start: {kept} after 6 steps from either" in caplog.text and STEPS > 6
    assert trainer.networks.rival is None and table.exists() != better
    caplog.clear()
    settle_start(trainer)
    assert not caplog.text, "a run has one race"
