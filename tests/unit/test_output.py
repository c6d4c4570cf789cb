"""Distillation of predictions: views of heads by cell, the losses in naive float64, and the pairs that are refused."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import pytest
import torch
from pairs import arrays, spec, step, view
from torch import Tensor

from cfg import UserError
from distill.base import View
from distill.methods.output import OutputDistiller
from distill.outputs import binary_kl, cell_logits, cell_scores, on_grid

GRIDS = ((3, 4), (2, 2))


def noise(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 2


def anchor_view(seed: int, nc: int = 2, grids: tuple = GRIDS, anchors: int = 3, batch: int = 2) -> View:
    """An anchor head's view: (B, na, H, W, 5 + nc) logits per level."""
    preds = [noise(batch, anchors, *grid, 5 + nc, seed=seed + i) for i, grid in enumerate(grids)]
    return view([torch.zeros(batch, 4, *grid) for grid in grids], {"preds": preds}, anchors=anchors, nc=nc)


def point_view(seed: int, nc: int = 2, grids: tuple = GRIDS, batch: int = 2) -> View:
    """A view of a head with one prediction per cell: (B, nc, A) logits, level after level."""
    scores = noise(batch, nc, sum(h * w for h, w in grids), seed=seed)
    return view([torch.zeros(batch, 4, *grid) for grid in grids], {"scores": scores}, anchors=0, nc=nc)


def distiller(anchors: int, nc: int = 2, **options: float) -> OutputDistiller:
    facts = spec(4, strides=(8, 16), anchors=anchors, nc=nc)
    return OutputDistiller(facts, facts, **options)


# -- predictions by cell -----------------------------------------------------------------------------------------------


def test_an_anchor_heads_logits_by_cell() -> None:
    seen = anchor_view(0)
    found = cell_logits(seen, "p4")
    assert found.shape == (2, 3, 7, 2, 2) and found[1, 2, 4, 0, 1] == seen.raw["preds"][1][1, 2, 0, 1, 4]


def test_a_point_heads_logits_by_cell_are_row_major_level_after_level() -> None:
    scores = torch.arange(16.0).view(1, 1, 16)
    seen = view([torch.zeros(1, 4, *grid) for grid in GRIDS], {"scores": scores}, anchors=0, nc=1)
    assert cell_logits(seen, "p3")[0, 0, 0].tolist() == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
    assert cell_logits(seen, "p4")[0, 0, 0].tolist() == [[12, 13], [14, 15]]


@pytest.mark.parametrize("make", [anchor_view, point_view])
def test_a_padded_teachers_predictions_are_cut_like_its_features(make: Any) -> None:
    seen = make(0)
    whole = {name: cell_logits(seen, name) for name in seen.feats}
    for name, x in seen.feats.items():
        seen.feats[name] = x[..., :2, : x.shape[3] - 1]
    for name, x in whole.items():
        assert torch.equal(cell_logits(seen, name), x[..., :2, : x.shape[4] - 1])


def test_scores_of_a_cell_are_its_highest() -> None:
    seen = anchor_view(0)
    preds = arrays(seen.raw["preds"][0])
    for b, i, j in product(range(2), range(3), range(4)):
        by_anchor = [1 / (1 + math.exp(-p[4])) * max(1 / (1 + math.exp(-v)) for v in p[5:]) for p in preds[b, :, i, j]]
        assert cell_scores(seen, "p3")[b, 0, i, j].item() == pytest.approx(max(by_anchor), rel=1e-5)
    points = point_view(0)
    expected = points.raw["scores"][..., :12].sigmoid().amax(1).view(2, 1, 3, 4)
    assert torch.allclose(cell_scores(points, "p3"), expected)


def test_another_grid_takes_the_nearest_cell() -> None:
    logits = torch.arange(4.0).view(1, 1, 1, 2, 2).expand(2, 3, 5, 2, 2)
    assert on_grid(logits, (2, 2)) is logits
    assert on_grid(logits, (2, 4))[1, 2, 4].tolist() == [[0, 0, 1, 1], [2, 2, 3, 3]]


def test_divergence_of_coins_by_hand_and_at_extremes() -> None:
    value = binary_kl(torch.tensor(math.log(3)), torch.tensor(0.0))  # 3/4 against 1/2
    assert value.item() == pytest.approx(0.75 * math.log(1.5) + 0.25 * math.log(0.5), rel=1e-6)
    far = torch.tensor([-200.0, 200.0, 0.0], requires_grad=True)
    values = binary_kl(torch.tensor([200.0, 200.0, -200.0]), far)
    values.sum().backward()
    assert torch.isfinite(values).all() and torch.isfinite(far.grad).all() and values[1] == 0


# -- the losses --------------------------------------------------------------------------------------------------------


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def naive_kl(t: float, s: float, temperature: float, beta: float) -> float:
    p, q = sigmoid(t / temperature), sigmoid(s / temperature)
    divergence = p * math.log(p / q) + (1 - p) * math.log((1 - p) / (1 - q))
    return temperature**2 * abs(p - q) ** beta * divergence


def naive_anchors(teacher: View, student: View, temperature: float, beta: float) -> dict[str, float]:
    sums = dict.fromkeys(("output_obj_loss", "output_cls_loss"), 0.0)
    for image in range(2):
        objects = objectness = classes = 0.0
        for t_level, s_level in zip(teacher.raw["preds"], student.raw["preds"]):
            rows = zip(arrays(t_level)[image].reshape(-1, 7), arrays(s_level)[image].reshape(-1, 7))
            for t, s in rows:
                objects += sigmoid(t[4])
                objectness += naive_kl(t[4], s[4], temperature, beta)
                classes += sigmoid(t[4]) * sum(naive_kl(a, b, temperature, 0) for a, b in zip(t[5:], s[5:])) / 2
        sums["output_obj_loss"] += objectness / max(objects, 1) / 2
        sums["output_cls_loss"] += classes / max(objects, 1) / 2
    return sums


@pytest.mark.parametrize("temperature, beta", [(1.0, 2.0), (3.0, 1.0), (1.0, 0.0)])
def test_anchor_heads_equal_the_naive_reference(temperature: float, beta: float) -> None:
    teacher, student = anchor_view(0), anchor_view(10)
    found = distiller(3, temperature=temperature, beta=beta).losses(step(student, teacher, []))
    expected = naive_anchors(teacher, student, temperature, beta)
    assert list(found) == list(expected)
    for name, value in expected.items():
        assert found[name].item() == pytest.approx(value, rel=1e-4), name


@pytest.mark.parametrize("temperature, beta", [(1.0, 2.0), (3.0, 1.0), (1.0, 0.0)])
def test_point_heads_equal_the_naive_reference(temperature: float, beta: float) -> None:
    teacher, student = point_view(0), point_view(10)
    found = distiller(0, temperature=temperature, beta=beta, gain=2.0).losses(step(student, teacher, []))
    expected = 0.0
    for t_image, s_image in zip(arrays(teacher.raw["scores"]), arrays(student.raw["scores"])):
        objects = sum(max(sigmoid(v) for v in cell) for cell in t_image.T)
        pairs = zip(t_image.flat, s_image.flat)
        expected += sum(naive_kl(t, s, temperature, beta) for t, s in pairs) / max(objects, 1)
    assert list(found) == ["output_cls_loss"]
    assert found["output_cls_loss"].item() == pytest.approx(2 * expected / 2, rel=1e-4)


def test_equal_predictions_cost_nothing_and_others_are_pulled() -> None:
    for make, anchors in ((anchor_view, 3), (point_view, 0)):
        method, teacher, student = distiller(anchors), make(0), make(10)
        assert all(v.abs() < 1e-6 for v in method.losses(step(make(0), teacher, [])).values())
        key = "preds" if anchors else "scores"
        logits = student.raw[key][0] if anchors else student.raw[key]
        logits.requires_grad_(True)
        loss = sum(method.losses(step(student, teacher, [])).values())
        loss.backward()
        assert anchors == 0 or (logits.grad[..., :4] == 0).all(), "boxes are not compared"
        with torch.no_grad():
            logits -= 1e-2 * logits.grad / logits.grad.norm()
            assert sum(method.losses(step(student, teacher, [])).values()) < loss


def test_easy_background_hardly_counts_and_missed_objects_do() -> None:
    """One cell at which the teacher is sure of an object and 1,000 where both are sure that there is none."""
    def seen(first: float) -> View:
        scores = torch.full((1, 2, 1001), -6.0)
        scores[0, 0, 0] = first
        return view(torch.zeros(1, 4, 7, 143), {"scores": scores}, anchors=0)

    facts = spec(4, anchors=0)
    teacher = seen(6.0)
    teacher.raw["scores"][..., 1:] = -7.0
    missed = OutputDistiller(facts, facts).losses(step(seen(-6.0), teacher, []))["output_cls_loss"]
    found = OutputDistiller(facts, facts).losses(step(seen(6.0), teacher, []))["output_cls_loss"]
    assert missed > 1 and found < 1e-5


def test_an_image_in_which_the_teacher_sees_nothing_pulls_little() -> None:
    teacher, student = anchor_view(0), anchor_view(10)
    for level in teacher.raw["preds"]:
        level[..., 4] = -12.0
    found = distiller(3).losses(step(student, teacher, []))
    assert found["output_cls_loss"] < 1e-3 < found["output_obj_loss"]  # false alarms are still corrected


def test_with_one_class_too_its_score_is_a_factor_of_what_is_compared() -> None:
    teacher, student = anchor_view(0, nc=1), anchor_view(0, nc=1)
    assert distiller(3, nc=1).losses(step(student, teacher, []))["output_cls_loss"] == pytest.approx(0, abs=1e-6)
    for level in student.raw["preds"]:
        level[..., 5] += 4.0  # the same objectness, a far higher score
    found = distiller(3, nc=1).losses(step(student, teacher, []))
    assert found["output_cls_loss"] > 0.01 and found["output_obj_loss"] == pytest.approx(0, abs=1e-6)
    assert distiller(0, nc=1).losses(step(point_view(10, nc=1), point_view(0, nc=1), []))["output_cls_loss"] > 0


def test_levels_are_paired_by_stride() -> None:
    teacher, student = anchor_view(0), anchor_view(10)
    small = view([student.feats["p3"]], {"preds": student.raw["preds"][:1]}, anchors=3)
    method = OutputDistiller(small.spec, teacher.spec)
    before = method.losses(step(small, teacher, []))
    teacher.raw["preds"][1] += 5.0  # a level that the student has not
    assert method.pairs == ["p3"] and method.losses(step(small, teacher, [])) == before


# -- what is refused ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("student, teacher, message", [
    (3, 2, "student S has 3 anchors, teacher T 2 anchors; use a feature method"),
    (0, 3, "student S has one without anchors, teacher T 3 anchors; use a feature method"),
    (3, None, "output: expected predictions for each cell .*, teacher T has none; use a feature method"),
    (None, 0, "student S has none; use a feature method"),
])  # fmt: skip
def test_heads_that_do_not_match_are_refused(student: int | None, teacher: int | None, message: str) -> None:
    with pytest.raises(UserError, match=message):
        OutputDistiller(spec(4, "student S", anchors=student), spec(4, "teacher T", anchors=teacher))


@pytest.mark.parametrize("options, message", [
    ({"temperature": 0}, "temperature to be a number above 0"),
    ({"beta": -1}, "beta to be a number of at least 0"),
    ({"beta": 0.5}, "beta to be 0 or at least 1, got 0.5"),
    ({"gain": -1}, "gain to be a number of at least 0"),
])  # fmt: skip
def test_wrong_options_are_refused(options: dict[str, float], message: str) -> None:
    with pytest.raises(UserError, match=message):
        distiller(3, **options)


def test_terms_follow_the_heads() -> None:
    assert {t.name for t in distiller(3).terms} == {"output_obj_loss", "output_cls_loss"}
    assert {t.name for t in distiller(0).terms} == {"output_cls_loss"} and OutputDistiller.reads_head
    assert "objectness" in distiller(3).describe() and "objectness" not in distiller(0).describe()
