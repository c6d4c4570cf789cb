"""Localisation distillation at positive points (HSD): the divergence by hand, pairs of all kinds, what is refused."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "contract"))
from small import batch, detector, pair, stock

from cfg import UserError
from distill.assignment import detection_loss, of_task_aligned
from distill.base import Level, Spec, Step, View
from distill.localisation import level_logits, level_points, side_divergence
from distill.methods.hsd import HSDDistiller
from distill.model import FrozenTeacher, TrainingModel, spec_of, view_of
from engine.training.build import build_detector
from models.detector import raw_output
from models.points import PointAssignment

from ultralytics.cfg import get_cfg
from ultralytics.nn.tasks import DetectionModel

GFL = ["GFLDetect", ["nc"]]


def ultralytics(name: str) -> DetectionModel:
    """A model of ultralytics for two classes, as its trainer prepares it."""
    model = build_detector(name, 2)
    model.args = get_cfg()
    return model.train()


def spec(label: str = "net", levels: str = "p3 p4", bins: int | None = 3, nc: int = 2) -> Spec:
    return Spec(label, {n: Level(8, 2 ** int(n[1])) for n in levels.split()}, nc, {i: str(i) for i in range(nc)}, bins)


def view(owner: Spec, images: int, side: int, seed: int, padded: int = 0) -> View:
    """Random raw predictions on square images; a padded view has larger maps, of which `feats` shows the corner."""
    random = torch.Generator().manual_seed(seed)
    sides = [(side + padded) // level.stride for level in owner.levels.values()]
    count = sum(s * s for s in sides)
    raw = {
        "boxes": torch.randn(images, 4 * owner.bins, count, generator=random),
        "scores": torch.randn(images, owner.nc, count, generator=random),
        "feats": [torch.zeros(images, 8, s, s) for s in sides],
    }
    feats = {n: torch.zeros(images, 8, side // x.stride, side // x.stride) for n, x in owner.levels.items()}
    return View(owner, feats, raw)


def step_of(student: View, teacher: View, positives: list[tuple[int, int]]) -> Step:
    images, _, points = student.raw["boxes"].shape
    target = torch.full((images, points), -1)
    for i, (image, point) in enumerate(positives):
        target[image, point] = i
    assignment = PointAssignment(target, torch.zeros(images, points, 4))
    side = next(iter(student.feats.values())).shape[-1] * student.spec.strides[0]
    whole = {"img": torch.zeros(images, 3, side, side)}
    return Step(whole, student, 0.5, see_teacher=lambda: teacher, assign=lambda: assignment)


def naive_divergence(teacher: torch.Tensor, student: torch.Tensor, temperature: float) -> float:
    """T^2 KL, mean over sides, of (4 * R,) logits in Python floats."""
    total = 0.0
    for t, s in zip(teacher.double().view(4, -1).tolist(), student.double().view(4, -1).tolist()):
        p, q = ([math.exp(v / temperature) for v in side] for side in (t, s))
        p, q = [v / sum(p) for v in p], [v / sum(q) for v in q]
        total += sum(a * math.log(a / b) for a, b in zip(p, q))
    return temperature**2 * total / 4


# -- the formula --------------------------------------------------------------------------------------------------------


def test_divergence_by_hand() -> None:
    teacher, student = torch.zeros(1, 4, 2), torch.zeros(1, 4, 2)
    teacher[0, 0, 0] = 2 * math.log(3)  # at temperature 2: 3/4 and 1/4 on one of four sides
    expected = 4 * (0.75 * math.log(1.5) + 0.25 * math.log(0.5)) / 4
    assert side_divergence(teacher, student, 2.0).item() == pytest.approx(expected, rel=1e-6)
    assert side_divergence(teacher, teacher, 15.0).item() == 0


@pytest.mark.parametrize("temperature", [1.0, 15.0])
def test_the_loss_as_its_formula(temperature: float) -> None:
    student, teacher = view(spec(), 3, 32, 0), view(spec("teacher"), 3, 32, 1)
    positives = [(0, 3), (0, 17), (2, 5)]  # level p3 has 16 points, p4 has 4; image 1 has none
    distiller = HSDDistiller(student.spec, teacher.spec, temperature, gain=2.0)
    got = distiller.losses(step_of(student, teacher, positives))["hsd_loss"]
    images = {0: [0.0, 0.0], 2: [0.0, 0.0]}
    for image, point in positives:
        weight = max(1 / (1 + math.exp(-v)) for v in student.raw["scores"][image, :, point].tolist())
        error = naive_divergence(teacher.raw["boxes"][image, :, point], student.raw["boxes"][image, :, point], temperature)
        images[image][0] += weight * error
        images[image][1] += weight
    expected = 2.0 * sum(total / share for total, share in images.values()) / 3
    assert got.item() == pytest.approx(expected, rel=1e-4)


def test_levels_are_paired_by_stride_and_padding_is_cut() -> None:
    ours, theirs = spec("student", "p3 p4"), spec("teacher", "p2 p3 p5")
    student, teacher = view(ours, 2, 32, 0), view(theirs, 2, 32, 1, padded=32)
    distiller = HSDDistiller(ours, theirs)
    assert distiller.pairs == ["p3"]
    logits = level_logits(teacher, ["p3"], "boxes")
    start, width = 16 * 16, 8  # the padded p2 map comes first; p3 is 8 x 8 cells of which 4 x 4 are the image
    index = [start + row * width + column for row in range(4) for column in range(4)]
    assert torch.equal(logits, teacher.raw["boxes"][:, :, index])
    got = distiller.losses(step_of(student, teacher, [(0, 6), (1, 17)]))["hsd_loss"]  # (1, 17) is on p4: unpaired
    expected = naive_divergence(teacher.raw["boxes"][0, :, start + 8 + 2], student.raw["boxes"][0, :, 6], 15.0)
    assert got.item() == pytest.approx(expected / 2, rel=1e-4)
    assert level_points(student, ["p4"]).tolist() == [16, 17, 18, 19]


def test_no_gradient_reaches_weights_or_teacher() -> None:
    student, teacher = view(spec(), 1, 32, 0), view(spec("teacher"), 1, 32, 1)
    for v in (student, teacher):
        v.raw["boxes"].requires_grad_()
        v.raw["scores"].requires_grad_()
    HSDDistiller(student.spec, teacher.spec).losses(step_of(student, teacher, [(0, 3)]))["hsd_loss"].backward()
    moved = student.raw["boxes"].grad.abs().sum(1)[0]
    assert moved.nonzero()[:, 0].tolist() == [3]
    assert student.raw["scores"].grad is None and teacher.raw["boxes"].grad is None


@pytest.mark.long
def test_the_student_becomes_the_teacher() -> None:
    student, teacher = view(spec(), 1, 32, 0), view(spec("teacher"), 1, 32, 1)
    logits = student.raw["boxes"].requires_grad_()
    optimizer = torch.optim.SGD([logits], lr=0.5)
    distiller = HSDDistiller(student.spec, teacher.spec, 1.0)
    for _ in range(300):
        optimizer.zero_grad()
        distiller.losses(step_of(student, teacher, [(0, 3)]))["hsd_loss"].backward()
        optimizer.step()
    ours, theirs = (x[0, :, 3].view(4, 3).softmax(1) for x in (logits.detach(), teacher.raw["boxes"]))
    assert torch.allclose(ours, theirs, atol=0.02)


# -- pairs --------------------------------------------------------------------------------------------------------------


def boxes_of(images: int, rows: list[list[float]]) -> dict[str, torch.Tensor]:
    whole, table = batch(images, boxes_of=[0] * images), torch.tensor(rows).reshape(-1, 5)
    return whole | {"batch_idx": table[:, 0], "cls": torch.zeros(len(table), 1), "bboxes": table[:, 1:]}


ODD = {
    "none": [],
    "whole": [[1, 0.5, 0.5, 1.0, 1.0]],
    "tiny": [[0, 0.51, 0.51, 0.01, 0.01]],
    "300": [[0, 0.1 + 0.002 * i, 0.5, 0.05 + 0.002 * i, 0.4] for i in range(300)],
}


@pytest.mark.parametrize("rows", list(ODD.values()), ids=list(ODD))
def test_odd_batches_of_a_stock_pair_are_finite(rows: list) -> None:
    """Of a pair of ours: tests/contract/test_every_method.py."""
    model = pair(HSDDistiller, stock(8, 1), stock(16, 2), {}).train()
    total, items = model(boxes_of(2, rows))
    total.sum().backward()
    assert all(torch.isfinite(v) for v in items.values()) and (items["hsd_loss"] > 0 or len(rows) < 2)
    assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_a_stock_pair_learns_from_box_distributions() -> None:
    model = pair(HSDDistiller, stock(8, 1), stock(16, 2), {}).train()
    _total, items = model(batch(3))
    assert items["hsd_loss"] > 0 and model.distiller.bins == model.student.model[-1].reg_max
    assert model.distiller.pairs == list(model.spec.levels)


@pytest.mark.long
@pytest.mark.parametrize(("student", "teacher"), [("yolov8n.yaml", "yolo11n.yaml"), ("yolov10n.yaml", "yolov8n.yaml")])
def test_pairs_of_ultralytics(student: str, teacher: str) -> None:
    torch.manual_seed(0)
    nets = ultralytics(student), ultralytics(teacher)
    frozen = FrozenTeacher(nets[1], f"teacher {teacher}")
    model = TrainingModel(nets[0], HSDDistiller(spec_of(nets[0], student), frozen.spec), frozen).train()
    items = model(batch(2))[1]
    assert items["hsd_loss"] > 0 and model.distiller.pairs == ["p3", "p4", "p5"]


# -- the assignment of ultralytics' losses ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["yolov8n.yaml", "yolov10n.yaml"])
def test_the_assignment_is_the_losses_own(name: str) -> None:
    torch.manual_seed(0)
    model, whole = ultralytics(name), batch(3, boxes_of=[2, 0, 3])
    preds = model(whole["img"])
    vector, items, get = detection_loss(model, whole, preds)
    expected, named = model.loss(whole, preds)
    assert torch.equal(vector, expected) and list(items) == list(named)
    assignment = get()
    loss = getattr(model.criterion, "one2many", model.criterion)
    (positive, index, _boxes, *_), _, _ = loss.get_assigned_targets_and_loss(raw_output(preds), whole)
    assert torch.equal(assignment.target >= 0, positive) and positive[0].any() and not positive[1].any()
    image, point = assignment.positives()
    row = assignment.target[image, point]
    assert torch.equal(whole["batch_idx"][row].long(), image)
    assert torch.equal(assignment.target[0][positive[0]], index[0][positive[0]])
    assert torch.equal(assignment.target[2][positive[2]], index[2][positive[2]] + 2)
    xywh = whole["bboxes"][row] * 64
    expected = torch.cat((xywh[:, :2] - xywh[:, 2:] / 2, xywh[:, :2] + xywh[:, 2:] / 2), 1)
    assert torch.allclose(assignment.boxes_xyxy[image, point], expected, atol=1e-4)
    model.loss(batch(3, seed=9), preds)  # a later loss does not change what was taken
    assert torch.equal(get().target, assignment.target)
    assert not loss.assigner._forward_hooks, "nothing stays behind"


def test_a_batch_without_boxes_has_no_positives() -> None:
    whole = batch(2, boxes_of=[0, 0])
    returned = (torch.zeros(2, 5), torch.zeros(2, 5, 4), torch.zeros(2, 5, 3), torch.zeros(2, 5, dtype=torch.bool), torch.zeros(2, 5))
    assert (of_task_aligned(returned, whole["batch_idx"]).target == -1).all()


def test_our_heads_give_their_own_assignment() -> None:
    student, whole = detector(8, "none", 1, GFL), batch(3)
    preds = student(whole["img"])
    vector, items, get = detection_loss(student, whole, preds)
    assert torch.equal(vector, student.loss(whole, preds)[0]) and list(items) == ["box_loss", "cls_loss", "dfl_loss"]
    got, expected = get(), student.head.loss().assign(raw_output(preds), whole)
    assert torch.equal(got.target, expected.target) and (got.target >= 0).any() and got is get(), "computed once"
    assert view_of(student, spec_of(student, "student"), preds).box_bins().shape[1] == 4 * 17


# -- refusals -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("student", "teacher", "message"),
    [
        (spec("student a", bins=None), spec("teacher b"), "hsd: expected box distributions, the head of student a"),
        (spec("student a"), spec("teacher b", bins=None), "the head of teacher b predicts boxes as plain numbers"),
        (spec("student a", bins=16), spec("teacher b", bins=17), "student a has 16, teacher b 17"),
        (spec("student a", "p3"), spec("teacher b", "p5"), "no common stride"),
    ],
)
def test_pairs_that_cannot_be_served(student: Spec, teacher: Spec, message: str) -> None:
    with pytest.raises(UserError, match=message):
        HSDDistiller(student, teacher)


@pytest.mark.parametrize("options", [{"temperature": 0}, {"temperature": "hot"}, {"gain": -1}])
def test_wrong_options(options: dict) -> None:
    with pytest.raises(UserError, match="hsd: expected"):
        HSDDistiller(spec(), spec("teacher"), **options)
