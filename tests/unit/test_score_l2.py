"""ultralytics' score-weighted L2 on our views, against loops in float64."""

from __future__ import annotations

import inspect

import pytest
import torch
from pairs import arrays, cells, random_maps, set_identity, spec, step, view

from cfg import UserError
from distill.methods.score_l2 import Projector, ScoreDistiller
from models.losses.host import score_weighted_l2

from ultralytics.nn.distill_model import DistillationModel

NOISE = torch.Generator().manual_seed(3)


def naive(student: torch.Tensor, teacher: torch.Tensor, scores: torch.Tensor) -> float:
    """sum(score * error^2) / (C * sum(score)) over all images given."""
    error = total = 0.0
    for s, t, score in zip(arrays(student), arrays(teacher), arrays(scores)):
        for i, j in cells(s):
            error += score[i, j] * sum((s[:, i, j] - t[:, i, j]) ** 2)
            total += score[i, j] * len(s)
    return error / total


def point_views(channels: int = 6) -> tuple:
    teacher, student = random_maps()
    raw = {"scores": torch.randn(2, 2, 35, generator=NOISE)}
    return view(student[:, :channels]), view(teacher, raw, anchors=0)


def same_width(**options: float) -> ScoreDistiller:
    """A distiller whose projector is a ReLU."""
    distiller = ScoreDistiller(spec(6), spec(6, anchors=0), **options)
    set_identity(distiller.adapters["p3"][0])
    set_identity(distiller.adapters["p3"][2])
    return distiller


def test_the_librarys_function_is_the_formula() -> None:
    teacher, student = random_maps()
    scores = torch.rand(2, 1, 35, generator=NOISE)
    images = [naive(*(x[i : i + 1] for x in (student, teacher, scores.view(2, 7, 5)))) for i in range(2)]
    assert score_weighted_l2(student, teacher, scores).tolist() == pytest.approx(images, rel=1e-5)
    host = DistillationModel.loss_sl2(None, student[:1], teacher[:1], 0, (scores[:1],))
    assert host.item() == pytest.approx(images[0], rel=1e-5)
    cropped = torch.nn.functional.pad(teacher, (0, 3, 0, 2))[..., :7, :5]
    layouts = score_weighted_l2(student.to(memory_format=torch.channels_last), cropped, scores)
    assert layouts.tolist() == pytest.approx(images, rel=1e-5)


def test_the_loss_is_the_mean_of_the_librarys_over_images() -> None:
    student, teacher = point_views()
    found = same_width(gain=3.0).losses(step(student, teacher))
    scores = teacher.raw["scores"].sigmoid().amax(1).view(2, 7, 5)
    projected, target = student.feats["p3"].relu(), teacher.feats["p3"]
    single = [naive(projected[i : i + 1], target[i : i + 1], scores[i : i + 1]) for i in range(2)]
    assert list(found) == ["score_l2_loss"]
    assert found["score_l2_loss"].item() == pytest.approx(3 * sum(single) / 2, rel=1e-5)


def test_cells_where_the_teacher_sees_nothing_do_not_count() -> None:
    student, teacher = point_views()
    teacher.raw["scores"][..., 5:] = -200.0  # all but the first row
    before = same_width().losses(step(student, teacher))["score_l2_loss"]
    student.feats["p3"][:, :, 1:] += 100
    assert torch.equal(same_width().losses(step(student, teacher))["score_l2_loss"], before)
    teacher.raw["scores"][:] = -200.0
    assert torch.isfinite(same_width().losses(step(student, teacher))["score_l2_loss"])


def test_anchor_heads_as_teachers() -> None:
    student, _ = point_views()
    teacher_map = random_maps()[0]
    preds = torch.randn(2, 3, 7, 5, 7, generator=NOISE)
    teacher = view(teacher_map, {"preds": [preds]}, anchors=3)
    found = same_width().losses(step(student, teacher))["score_l2_loss"].item()
    scores = (preds[..., 4].sigmoid() * preds[..., 5:].sigmoid().amax(-1)).amax(1)
    single = [naive(*(x[i : i + 1] for x in (student.feats["p3"].relu(), teacher_map, scores))) for i in range(2)]
    assert found == pytest.approx(sum(single) / 2, rel=1e-5)


def test_projector_has_the_librarys_shape() -> None:
    source = inspect.getsource(DistillationModel.__init__)
    convs = [f"nn.Conv2d({side}_dim, teacher_dim, kernel_size=1" for side in ("student", "teacher")]
    rows = (convs[0], "nn.ReLU(", convs[1])
    assert [source.index(row) for row in rows] == sorted(source.index(row) for row in rows)
    projector = Projector(spec(4).levels["p3"], spec(6).levels["p3"])
    assert [tuple(p.shape) for p in projector.parameters()] == [(6, 4, 1, 1), (6,), (6, 6, 1, 1), (6,)]
    assert projector(torch.randn(2, 4, 7, 5), torch.zeros(2, 6, 14, 10)).shape == (2, 6, 14, 10)


def test_the_student_is_pulled_and_every_parameter_trained() -> None:
    student, teacher = point_views(channels=4)
    torch.manual_seed(0)
    distiller = ScoreDistiller(spec(4), spec(6, anchors=0))
    moved = student.feats["p3"].clone().requires_grad_(True)
    before = distiller.losses(step(view(moved), teacher))["score_l2_loss"]
    before.backward()
    assert all(p.grad.abs().sum() > 0 for p in distiller.parameters())
    further = view(moved.detach() - 1e-2 * moved.grad / moved.grad.norm())
    assert distiller.losses(step(further, teacher))["score_l2_loss"] < before


def test_pairs_and_options_that_are_refused() -> None:
    with pytest.raises(UserError, match="score_l2: expected predictions for each cell.*teacher T has none; use a"):
        ScoreDistiller(spec(4), spec(4, "teacher T"))
    with pytest.raises(UserError, match="score_l2: expected gain to be a number of at least 0"):
        ScoreDistiller(spec(4), spec(4, anchors=0), gain=-1)
    with pytest.raises(UserError, match="needs a teacher"):
        ScoreDistiller(spec(4), None)
    assert ScoreDistiller(spec(4), spec(4, anchors=3)).reads_head  # any student, whatever its head
