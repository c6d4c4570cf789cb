"""LD's valuable region: the algorithm in loops, and its term of the loss."""

from __future__ import annotations

import statistics
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "contract"))
sys.path.insert(0, str(Path(__file__).resolve().parent))
from small import batch, pair, stock
from test_hsd import naive_divergence, spec, step_of, view
from test_points import SHAPES, STRIDES, iou, random_boxes

from cfg import UserError
from distill.methods.ld import LDDistiller, valuable_region
from models.losses.iou import diou
from models.points import PointGrid


def naive_region(boxes: list[list[float]], gamma: float) -> list[bool]:
    """Algorithm 1 for one image, point by point."""
    points = [
        ((c + 0.5) * s, (r + 0.5) * s, s, level)
        for level, ((height, width), s) in enumerate(zip(SHAPES, STRIDES))
        for r in range(height)
        for c in range(width)
    ]
    squares = [[x - 4 * s, y - 4 * s, x + 4 * s, y + 4 * s] for x, y, s, _ in points]
    region = [False] * len(points)
    for box in boxes:
        cx, cy = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
        candidates = []
        for level in range(len(SHAPES)):
            mine = [i for i, p in enumerate(points) if p[3] == level]
            mine.sort(key=lambda i: (points[i][0] - cx) ** 2 + (points[i][1] - cy) ** 2)
            candidates += [iou(squares[i], box) for i in mine[:9]]
        limit = min(statistics.mean(candidates) + statistics.stdev(candidates), max(candidates))
        for i, (square, (x, y, _, _)) in enumerate(zip(squares, points)):
            hull = (max(square[2], box[2]) - min(square[0], box[0])) ** 2 + (max(square[3], box[3]) - min(square[1], box[1])) ** 2
            overlap = iou(square, box) - ((x - cx) ** 2 + (y - cy) ** 2) / hull
            region[i] |= gamma * limit <= overlap <= limit
    return region


def test_distance_iou_by_hand() -> None:
    a, b = torch.tensor([0.0, 0, 2, 2]), torch.tensor([1.0, 0, 3, 2])
    assert diou(a, b).item() == pytest.approx(1 / 3 - 1 / 13, rel=1e-5)  # centres 1 apart, diagonal^2 = 9 + 4
    assert diou(a, a).item() == pytest.approx(1.0)


@pytest.mark.parametrize("gamma", [0.0, 0.25, 0.75])
def test_the_region_as_the_algorithm_written_out(gamma: float) -> None:
    grid, found = PointGrid.of(SHAPES, STRIDES), 0
    for seed in range(6):
        boxes = random_boxes(3, seed, side=40)
        got = valuable_region(boxes, torch.zeros(3), 1, grid, gamma)[0].tolist()
        expected = naive_region(boxes.double().tolist(), gamma)
        assert got == expected
        found += sum(expected)
    assert found > 0


def test_regions_of_images_each_for_itself() -> None:
    grid, boxes = PointGrid.of(SHAPES, STRIDES), random_boxes(4, side=40)
    region = valuable_region(boxes, torch.tensor([0, 2, 2, 2]), 3, grid, 0.25)
    assert not region[1].any()
    assert torch.equal(region[0], valuable_region(boxes[:1], torch.zeros(1), 1, grid, 0.25)[0])
    assert torch.equal(region[2], valuable_region(boxes[1:], torch.zeros(3), 1, grid, 0.25)[0])


def test_boxes_without_area_have_no_region() -> None:
    grid = PointGrid.of(SHAPES, STRIDES)
    assert not valuable_region(torch.tensor([[20.0, 20, 20, 20]]), torch.zeros(1), 1, grid, 0.0).any()
    assert valuable_region(torch.zeros(0, 4), torch.zeros(0), 2, grid, 0.25).shape == (2, 64)


def test_the_terms_as_their_formulas() -> None:
    student, teacher = view(spec(), 2, 64, 0), view(spec("teacher"), 2, 64, 1)
    step = step_of(student, teacher, [(0, 27)])
    step.batch = step.batch | {"bboxes": torch.tensor([[0.45, 0.45, 0.7, 0.6]]), "batch_idx": torch.zeros(1)}
    grid = PointGrid.of([(8, 8), (4, 4)], [8, 16])
    region = valuable_region(torch.tensor([[0.1, 0.15, 0.8, 0.75]]) * 64, torch.zeros(1), 1, grid, 0.25)[0]
    region[27] = False
    chosen = region.nonzero()[:, 0].tolist()
    assert len(chosen) > 3
    distiller = LDDistiller(student.spec, teacher.spec, 5.0, region=3.0, gain=2.0)
    losses = distiller.losses(step)
    errors = [naive_divergence(teacher.raw["boxes"][0, :, p], student.raw["boxes"][0, :, p], 5.0) for p in chosen]
    assert losses["ld_region_loss"].item() == pytest.approx(2.0 * 3.0 * statistics.mean(errors) / 2, rel=1e-4)
    at_box = naive_divergence(teacher.raw["boxes"][0, :, 27], student.raw["boxes"][0, :, 27], 5.0)
    assert losses["ld_loss"].item() == pytest.approx(2.0 * at_box / 2, rel=1e-4)
    assert list(losses) == [term.name for term in LDDistiller.terms]


def test_a_stock_pair() -> None:
    model = pair(LDDistiller, stock(8, 1), stock(16, 2), {}).train()
    for counts in ([1, 2, 3], [0, 0, 0]):
        items = model(batch(3, boxes_of=counts))[1]
        assert (items["ld_region_loss"] > 0) == (sum(counts) > 0) and torch.isfinite(items["ld_loss"])


@pytest.mark.parametrize("options", [{"gamma": 1.0}, {"region": -1}, {"temperature": -1}])
def test_wrong_options(options: dict) -> None:
    with pytest.raises(UserError, match="ld: expected"):
        LDDistiller(spec(), spec("teacher"), **options)
