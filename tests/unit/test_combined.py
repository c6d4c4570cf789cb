"""Several methods at once: how they are asked for, and that each keeps its terms, strength and needs."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "contract"))
from small import batch, detector

from cfg import UserError
from distill.base import METHODS, Distiller, Step, Term, portions_of
from distill.build import parse_methods
from distill.combined import Combined
from distill.methods.attention import AttentionDistiller
from distill.model import FrozenTeacher, TrainingModel, spec_of


class Other(Distiller):
    """Pulls the first level's mean to 1; wants the head, and the backbone left alone at first."""

    terms = (Term("other_loss", "other"), Term("other_own_loss", "other_own", own=True))
    reads_head = True

    def __init__(self, student, teacher) -> None:
        super().__init__(student, teacher)
        self.freeze_until = 0.25
        self.prepared = None

    def prepare(self, height: int, width: int) -> None:
        self.prepared = (height, width)

    def losses(self, step: Step) -> dict[str, torch.Tensor]:
        mean = step.student.feats[self.pairs[0]].mean((1, 2, 3))
        return {"other_loss": (mean - 1).square().mean(), "other_own_loss": mean.detach().mean() * 0 + 2.0}


def combined(strengths: dict[str, float]) -> TrainingModel:
    student, teacher = detector(8, "none", seed=1), FrozenTeacher(detector(16, seed=2), "teacher")
    specs = spec_of(student, "student"), teacher.spec
    both = Combined({"attention": AttentionDistiller(*specs), "other": Other(*specs)}, strengths, specs[0])
    both.prepare(64, 96)
    return TrainingModel(student, both, teacher).train()


def test_terms_weights_and_needs_of_all_parts() -> None:
    model = combined({})
    method = model.distiller
    assert method.reads_head and method.uses_teacher and method.freeze_until == 0.25
    assert [t.name for t in method.terms if t.own] == ["other_own_loss"] and method.parts["other"].prepared == (64, 96)
    assert model.weights.names == ["box", "focal", "feature", "attention", "global", "other", "other_own"]
    total, items = model.loss(batch(3))
    assert items["other_own_loss"] == 2 and "share_other" in items and "share_other_own" not in items
    losses = {k: v for k, v in items.items() if k.endswith("_loss")}
    kept = dict.fromkeys(("box_loss", "obj_loss", "cls_loss"), 1 + float(model.balance.given_back(1.0)))
    parts = [v.item() * kept.get(k, 1) for k, v in model.balance.gained(losses).items()]
    assert total.item() == pytest.approx(3 * sum(parts), rel=1e-5)
    assert any(name.startswith("distiller.parts.attention.adapters") for name in model.state_dict())
    assert "attention (attention-guided" in method.describe() and "other (levels" in method.describe()


def test_strength_is_a_factor_on_the_pull() -> None:
    _, items = combined({"attention": 1.0, "other": 0.5}).loss(batch(3))
    assert items["share_att"].item() == pytest.approx(0.1, rel=1e-4)
    assert items["share_other"].item() == pytest.approx(0.15, rel=1e-4), "half of 0.3, in one term"


def test_own_terms_are_neither_capped_nor_faded() -> None:
    model = combined({})
    model.balance.cap = 1e-9
    total, items = model.loss(batch(3))
    detection = sum(items[k].item() for k in ("box_loss", "obj_loss", "cls_loss"))
    assert total.item() == pytest.approx(3 * (detection + 2), rel=1e-4)


def test_a_method_twice() -> None:
    student, teacher = detector(8, "none"), detector(16)
    specs = spec_of(student, "student"), spec_of(teacher, "teacher")
    with pytest.raises(UserError, match="'again' has terms of a method before it; name each method once"):
        Combined({"attention": AttentionDistiller(*specs), "again": AttentionDistiller(*specs)}, {}, specs[0])


def test_how_methods_are_asked_for() -> None:
    assert parse_methods("mgd") == {"mgd": 1.0}
    assert parse_methods("attention + 0.5*ld+2*cwd.yaml") == {"attention": 1.0, "ld": 0.5, "cwd.yaml": 2.0}


@pytest.mark.parametrize("wanted", ["attention+", "x*ld", "0*ld", "-1*ld", "nan*ld", "ld+ld", "", "0.5*"])
def test_what_cannot_be_asked_for(wanted: str) -> None:
    with pytest.raises(UserError, match="expected methods as in attention"):
        parse_methods(wanted)


def test_two_teachers_of_labels_at_once() -> None:
    specs = spec_of(detector(8, "none"), "student"), None
    with pytest.raises(UserError, match="lgd and sdd both make a teacher of their own; name one of them"):
        Combined({name: METHODS.get(name)(*specs) for name in ("lgd", "sdd")}, {}, specs[0])


def test_a_part_named_by_its_file() -> None:
    specs = spec_of(detector(8, "none"), "student"), spec_of(detector(16), "teacher")
    both = Combined({"cwd.yaml": METHODS.get("cwd")(*specs), "attention": AttentionDistiller(*specs)}, {"cwd.yaml": 0.5}, specs[0])
    assert {t.weight: t.strength for t in both.terms} == {"cwd": 0.5, "feature": 1.0, "attention": 1.0, "global": 1.0}
    assert portions_of(both.terms) == {"cwd": 1.0} | dict.fromkeys(("feature", "attention", "global"), 1 / 3)
