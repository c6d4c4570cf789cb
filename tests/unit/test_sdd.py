"""SDD and LGD: each equation against numbers worked out by hand or naive loops in float64, and who learns from what."""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).parents[1] / "contract"))
from small import batch, detector, pair

from cfg import UserError
from distill.base import METHODS, Level
from distill.combined import Combined
from distill.methods.lgd import LGDDistiller, standardised, student_adaptor
from distill.methods.sdd import SDDDistiller, softened_kl
from distill.model import TrainingModel
from distill.networks import spec_of
from distill.schedule import FAINTEST


def distilling(name: str = "sdd", **options) -> TrainingModel:
    student = detector(8, "none", seed=1)
    student.criterion = student.init_criterion()
    return pair(METHODS.get(name), student, detector(16, "none", seed=2), options)


def naive_kl(teacher: list[float], student: list[float], tau: float) -> float:
    p, q = ([math.exp(v / tau) for v in row] for row in (teacher, student))
    p, q = [v / sum(p) for v in p], [v / sum(q) for v in q]
    return tau**2 * sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))


@pytest.mark.parametrize("tau", [1.0, 5.0, 15.0])
def test_kl_is_eq_7_per_image(tau):
    teacher, student = torch.randn(3, 40, dtype=torch.float64), torch.randn(3, 40, dtype=torch.float64)
    rows = [naive_kl(t, s, tau) for t, s in zip(teacher.tolist(), student.tolist(), strict=True)]
    assert softened_kl(teacher, student, tau).item() == pytest.approx(sum(rows) / 3, rel=1e-9)
    assert softened_kl(teacher, teacher, tau).item() == pytest.approx(0, abs=1e-12)
    assert softened_kl(teacher, student, tau) != softened_kl(student, teacher, tau)


def test_standardised_by_hand():
    x = torch.tensor([[[[0.0, 2.0], [4.0, 6.0]]]])  # mean 3, variance 5
    assert torch.allclose(standardised(x), (x - 3) / math.sqrt(5 + 1e-5))
    assert torch.equal(standardised(torch.full((2, 3, 1, 1), 7.0)), torch.zeros(2, 3, 1, 1))


def test_lgd_is_a_mean_square():
    method = LGDDistiller(spec_of(detector(), "student"), None)
    teacher, student = torch.tensor([[1.0, 2.0], [0.0, 0.0]]), torch.tensor([[1.0, 4.0], [1.0, 0.0]])
    assert method.difference(teacher, student).item() == (4 + 1) / 4


def test_without_a_temperature_sdds_distance_is_lgds():
    """Table VI's rows with an adaptor and the baseline's loss."""
    teacher, student = torch.randn(2, 6), torch.randn(2, 6)
    plain = distilling("sdd", temperature=None).distiller.difference(teacher, student)
    assert torch.equal(plain, (teacher - student).square().mean())
    assert not torch.allclose(plain, distilling("sdd").distiller.difference(teacher, student))


def test_what_sdd_adds_to_lgd():
    lgd, sdd = (dict(distilling(name).distiller.named_parameters()) for name in ("lgd", "sdd"))
    assert {name.partition(".")[0] for name in sdd.keys() - lgd.keys()} == {"adaptors"}
    assert lgd.keys() < sdd.keys()
    added = set(vars(SDDDistiller)) & set(dir(LGDDistiller)) - {"__doc__", "__module__", "__init__"}
    assert {n for n in added if callable(getattr(SDDDistiller, n))} == {"prepare", "arranged", "difference"}


def test_the_students_adaptor_is_three_projections():
    layers = [type(layer).__name__ for layer in student_adaptor(6)]
    assert layers == ["Conv2d", "ReLU", "Conv2d", "ReLU", "Conv2d"]
    assert all(layer.kernel_size == (1, 1) for layer in student_adaptor(6)[::2])


def distil(model: TrainingModel, whole: dict[str, Tensor], preds: Any) -> dict[str, Tensor]:
    vector, items = model.student.loss(whole, preds)
    return model.distil(whole, whole["img"], preds, dict(zip(items, vector / len(whole["img"]))))


def terms_of(
    model: TrainingModel, whole: dict[str, Tensor], progress: float = 0.5
) -> tuple[dict[str, Tensor], list[Tensor]]:
    """The method's terms, in a graph, and the student's neck outputs, leaves of their own graph."""
    preds = model.student.train()(whole["img"])
    model.progress = progress
    for x in preds["feats"]:
        x.retain_grad()
    return distil(model, whole, preds), preds["feats"]


@pytest.mark.parametrize("trains_head", [False, True])
@pytest.mark.parametrize("name", ["lgd", "sdd"])
def test_who_learns_from_what(name, trains_head):
    model = distilling(name, ahead=False, trains_head=trains_head)
    teacher = lambda: [p for n, p in model.distiller.named_parameters() if not n.startswith("adapt.")]  # noqa: E731
    terms, feats = terms_of(model, batch(3))
    terms[f"{name}_loss"].backward(retain_graph=True)
    assert all(x.grad.abs().sum() > 0 for x in feats)
    assert all(p.grad is None or not p.grad.any() for p in teacher()), "the teacher must not move towards the student"
    assert all(p.grad is None for p in model.student.model[-1].parameters())
    assert all(p.grad.abs().sum() > 0 for p in model.distiller.adapt.parameters())
    kept = [x.grad.clone() for x in feats]
    terms[f"{name}_teacher_loss"].backward()
    assert all(torch.equal(x.grad, before) for x, before in zip(feats, kept, strict=True)), "it must not reach the neck"
    assert all(p.grad.abs().sum() > 0 for p in teacher())
    assert any(p.grad is not None and p.grad.any() for p in model.student.model[-1].parameters()) == trains_head


def test_nothing_is_distilled_before_its_start():
    model, whole = distilling("sdd", start=0.25), batch(3)
    for progress, starts in ((0.0, False), (0.249, False), (0.25, True), (1.0, True)):
        terms, _ = terms_of(model, whole, progress)
        assert (terms["sdd_loss"] > 0) == starts and terms["sdd_teacher_loss"] > 0
    assert distilling("sdd", freeze_until=0.2).distiller.freeze_until == 0.2
    assert SDDDistiller(model.spec, None).start == pytest.approx(3000 / 18000)
    assert SDDDistiller(model.spec, None).freeze_until == pytest.approx(2000 / 18000)


@pytest.mark.parametrize("name", ["lgd", "sdd"])
@pytest.mark.parametrize(
    ("teacher", "student", "part"), [(0.25, 1.0, 0.75), (0.0, 1.0, 1.0), (1.0, 1.0, FAINTEST), (9.0, 1.0, FAINTEST), (0.0, 0.0, FAINTEST)]
)
def test_the_student_follows_as_far_as_the_teacher_is_ahead(name: str, teacher: float, student: float, part: float) -> None:
    method = distilling(name).distiller
    assert method.trust() == {}, "nothing is known before the first step"
    method.seen.fill_(9)
    method.errors.copy_(torch.tensor([teacher, student]))
    assert method.trust() == {name: pytest.approx(part)}
    assert Combined({name: method}, {}, spec_of(detector(), "student")).trust() == method.trust()
    method.ahead = False
    assert method.trust() == {}, "as in the paper"


@pytest.mark.parametrize("name", ["lgd", "sdd"])
def test_a_lead_scales_what_reaches_the_student(name: str) -> None:
    model, whole = distilling(name), batch(3)
    lengths = []
    for lead in (0.25, 0.5):
        model.distiller.seen.fill_(1e9)
        model.distiller.errors.copy_(torch.tensor([1 - lead, 1.0]))
        model.balance.steps.fill_(0)
        model.balance.measured.fill_(0)
        model.progress = 0.5
        model.train().loss(whole)
        lengths.append(model.balance.shares[0].item())
    assert lengths == pytest.approx([0.25 * model.balance.share, 0.5 * model.balance.share], rel=0.03)


def test_the_running_means_are_of_training_steps() -> None:
    model, whole = distilling("lgd"), batch(3)
    terms_of(model, whole)
    before = model.distiller.errors.clone()
    assert (before > 0).all()
    model.distiller.eval()
    terms_of(model, whole)
    assert torch.equal(model.distiller.errors, before)


def test_the_two_detection_losses_are_compared_by_their_running_means():
    method = LGDDistiller(spec_of(detector(), "student"), None)
    for teacher, student in ((4.0, 1.0), (2.0, 3.0)):
        method._compare(torch.tensor(teacher), torch.tensor(student))
    assert method.errors.tolist() == [3, 2]
    for _ in range(400):
        method._compare(torch.tensor(1.0), torch.tensor(5.0))
    assert method.errors.tolist() == pytest.approx([1, 5], rel=1e-2)
    assert {"errors", "seen"} <= set(method.state_dict()), "a resumed run goes on from them"


def test_gain_is_lambda():
    whole = batch(3)
    one, three = (terms_of(distilling("sdd", gain=g), whole)[0] for g in (1.0, 3.0))
    assert three["sdd_loss"].item() == pytest.approx(3 * one["sdd_loss"].item(), rel=1e-5)
    assert three["sdd_teacher_loss"].item() == one["sdd_teacher_loss"].item()


def test_the_heads_statistics_are_two_sets():
    model, whole = distilling(), batch(3)
    before = {k: v.clone() for k, v in model.student.model[-1].named_buffers()}
    own = {k: v.clone() for k, v in model.head_statistics.named_buffers()}
    preds = model.student.eval()(whole["img"])[1]
    model.student.train()
    distil(model, whole, preds)
    assert all(torch.equal(v, before[k]) for k, v in model.student.model[-1].named_buffers())
    assert own and all(not torch.equal(v, own[k]) for k, v in model.head_statistics.named_buffers())
    assert set(own) == {k.replace(".", "-") for k in before if k != "anchor_wh"}
    moved = {k: v.clone() for k, v in model.head_statistics.named_buffers()}
    distil(model.eval(), whole, preds)
    assert all(torch.equal(v, moved[k]) for k, v in model.head_statistics.named_buffers())


def test_evaluation_uses_the_teachers_own_statistics():
    model = distilling().eval()
    feats = [torch.randn(2, 8, 16, 16), torch.randn(2, 16, 8, 8)]
    usual = model.run_head(feats).output[0]
    for name, buffer in model.head_statistics.named_buffers():
        if name.endswith("running_mean"):
            buffer += 1
    assert not torch.equal(model.run_head(feats).output[0], usual)


def test_other_methods_keep_no_second_statistics():
    student = detector(8, "none", seed=1)
    model = pair(METHODS.get("attention"), student, detector(16, "none", seed=2), {})
    assert model.head_statistics is None and not any("statistics" in name for name in model.state_dict())


def crowd(kind: str) -> dict[str, Tensor]:
    whole = batch(2, boxes_of=[0, 0])
    boxes = {
        "none": torch.zeros(0, 4),
        "whole image": torch.tensor([[0.5, 0.5, 1.0, 1.0]]),
        "three hundred": torch.cat((torch.rand(300, 2) * 0.8 + 0.1, torch.rand(300, 2) * 0.2), 1),
        "smaller than a cell": torch.tensor([[0.3, 0.3, 0.001, 0.001], [0.999, 0.0, 0.0, 0.0]]),
    }[kind]
    labels = {"bboxes": boxes, "cls": torch.zeros(len(boxes), 1), "batch_idx": torch.ones(len(boxes))}
    return whole | labels


@pytest.mark.long
@pytest.mark.parametrize("kind", ["none", "whole image", "three hundred", "smaller than a cell"])
def test_crowds_and_empty_images_without_virtual_boxes(kind):
    """With them: tests/contract/test_every_method.py."""
    torch.manual_seed(0)
    model = distilling("sdd", virtual=False).train()
    total, items = model.loss(crowd(kind))
    total.sum().backward()
    assert all(value.isfinite() for value in items.values())
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dim": 3}, "expected dim to be 1, 2, 4 or 8, got 3"),
        ({"dim": True}, "expected dim"),
        ({"temperature": 0}, "expected temperature to be a number above 0, got 0; the paper's is 15"),
        ({"gain": -1}, "expected gain"),
        ({"start": 1.5}, "expected start"),
        ({"freeze_until": -0.1}, "expected freeze_until"),
        ({"ahead": 1}, "expected ahead to be true or false"),
        ({"trains_head": "no"}, "expected trains_head to be true or false"),
        ({"place": 1}, "expected place to be true or false"),
        ({"virtual": "no"}, "expected virtual to be true or false, without quotes, got 'no'"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(UserError, match=f"sdd: {message}"):
        distilling("sdd", **options)


def test_a_dim_that_does_not_divide_the_channels():
    spec = spec_of(detector(8, "none"), "student")
    spec = replace(spec, levels={"p2": Level(12, 4)})
    with pytest.raises(UserError, match="dim: expected a divisor of a level's 12 channels, got 8"):
        SDDDistiller(spec, None, dim=8)


def test_adaptors_belong_to_the_training_grid():
    method = distilling().distiller
    method.prepare(96, 160)
    assert method.adaptors["p2"].grid_hw == (24, 40) and method.adaptors["p3"].grid_hw == (12, 20)
    assert method.state_dict()["image_hw"].tolist() == [96, 160]
    method.prepare(100, 36)
    assert method.adaptors["p3"].grid_hw == (13, 5)
