"""Points of a pyramid and ATSS: hand-worked grids, and the algorithm written out in loops."""

from __future__ import annotations

import statistics

import pytest
import torch

from models.atss import assign_atss
from models.points import PointGrid, decode_distances, encode_distances, pixel_boxes

SHAPES, STRIDES = [(8, 6), (4, 3), (2, 2)], [8, 16, 32]


def random_boxes(count: int, seed: int = 0, side: float = 30.0) -> torch.Tensor:
    random = torch.Generator().manual_seed(seed)
    corner = torch.rand(count, 2, generator=random) * torch.tensor([40.0, 56.0])
    return torch.cat((corner, corner + 2 + side * torch.rand(count, 2, generator=random)), 1)


def iou(a: list[float], b: list[float]) -> float:
    wide = max(0.0, min(a[2], b[2]) - max(a[0], b[0]))
    high = max(0.0, min(a[3], b[3]) - max(a[1], b[1]))
    union = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - wide * high
    return wide * high / union


def naive_atss(boxes: list[list[float]], top: int, scale: float) -> list[int]:
    """ATSS for one image, step by step; the chosen box of each point or -1."""
    points = [
        ((c + 0.5) * s, (r + 0.5) * s, s, level)
        for level, ((height, width), s) in enumerate(zip(SHAPES, STRIDES))
        for r in range(height)
        for c in range(width)
    ]
    best: dict[int, tuple[float, int]] = {}
    for j, box in enumerate(boxes):
        cx, cy = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
        candidates = []
        for level in range(len(SHAPES)):
            mine = [i for i, p in enumerate(points) if p[3] == level]
            mine.sort(key=lambda i: (points[i][0] - cx) ** 2 + (points[i][1] - cy) ** 2)
            candidates += mine[:top]
        overlap = {}
        for i in candidates:
            x, y, s, _ = points[i]
            half = scale * s / 2
            overlap[i] = iou([x - half, y - half, x + half, y + half], box)
        limit = min(statistics.mean(overlap.values()) + statistics.stdev(overlap.values()), max(overlap.values()))
        for i, value in overlap.items():
            inside = box[0] < points[i][0] < box[2] and box[1] < points[i][1] < box[3]
            if value >= limit and inside and value > best.get(i, (-1.0, -1))[0]:
                best[i] = (value, j)
    return [best.get(i, (0.0, -1))[1] for i in range(len(points))]


def test_points_of_a_grid_by_hand() -> None:
    grid = PointGrid.of([(2, 3), (1, 1)], [8, 32])
    assert grid.xy.tolist() == [[4, 4], [12, 4], [20, 4], [4, 12], [12, 12], [20, 12], [16, 16]]
    assert grid.stride.tolist() == [8.0] * 6 + [32.0] and grid.counts == (6, 1) and len(grid) == 7


def test_distances_there_and_back() -> None:
    box, point = torch.tensor([[10.0, 20.0, 50.0, 80.0]]), torch.tensor([[20.0, 70.0]])
    distances = encode_distances(box, point)
    assert distances.tolist() == [[10, 50, 30, 10]]  # left, top, right, bottom
    assert torch.equal(decode_distances(distances, point), box)


def test_boxes_of_a_batch_in_pixels() -> None:
    batch = {"img": torch.zeros(1, 3, 40, 100), "bboxes": torch.tensor([[0.5, 0.25, 0.2, 0.5]])}
    assert pixel_boxes(batch, "cpu").tolist() == [[40, 0, 60, 20]]


@pytest.mark.parametrize("top", [1, 4, 9])
@pytest.mark.parametrize("scale", [3.0, 8.0])
def test_atss_as_the_algorithm_written_out(top: int, scale: float) -> None:
    grid = PointGrid.of(SHAPES, STRIDES)
    found = 0
    for seed in range(8):
        boxes = random_boxes(6, seed)
        whole = assign_atss(boxes, torch.zeros(6), 1, grid, top, scale)
        expected = naive_atss(boxes.double().tolist(), top, scale)
        assert whole.target[0].tolist() == expected
        found += sum(j >= 0 for j in expected)
    assert found > 8


def test_images_are_assigned_each_for_itself() -> None:
    grid, boxes = PointGrid.of(SHAPES, STRIDES), random_boxes(7)
    image = torch.tensor([0, 2, 0, 2, 2, 0, 2])
    whole = assign_atss(boxes, image, 4, grid)
    assert (whole.target[[1, 3]] == -1).all()
    for i in (0, 2):
        rows = (image == i).nonzero()[:, 0]
        alone = assign_atss(boxes[rows], torch.zeros(len(rows)), 1, grid)
        chosen = alone.target[0] >= 0
        assert torch.equal(whole.target[i] >= 0, chosen)
        assert torch.equal(whole.target[i][chosen], rows[alone.target[0][chosen]])
        assert torch.equal(whole.boxes_xyxy[i][chosen], boxes[whole.target[i][chosen]])
    image_of, point = whole.positives()
    assert set(image_of.tolist()) == {0, 2} and (whole.target[image_of, point] >= 0).all()


def test_of_two_equal_boxes_the_first_is_answered() -> None:
    boxes = random_boxes(1, side=20).repeat(2, 1)
    target = assign_atss(boxes, torch.zeros(2), 1, PointGrid.of(SHAPES, STRIDES)).target
    assert set(target.flatten().tolist()) == {-1, 0}


def test_a_small_box_that_every_candidate_holds_is_answered() -> None:
    grid = PointGrid.of([(16, 16), (8, 8)], [4, 8])
    box = torch.tensor([[28.0, 28.0, 36.0, 36.0]])  # IoU 64 / 1024 nine times, 64 / 4096 nine times
    target = assign_atss(box, torch.zeros(1), 1, grid).target[0]
    assert target.eq(0).nonzero()[:, 0].tolist() == [7 * 16 + 7, 7 * 16 + 8, 8 * 16 + 7, 8 * 16 + 8]


def test_odd_boxes() -> None:
    grid = PointGrid.of(SHAPES, STRIDES)
    none = assign_atss(torch.zeros(0, 4), torch.zeros(0), 2, grid)
    assert none.target.shape == (2, 64) and (none.target == -1).all()
    tiny = torch.tensor([[8.5, 8.5, 9.0, 9.0], [20.0, 20.0, 20.0, 20.0]])  # no cell's middle inside; no area
    assert (assign_atss(tiny, torch.zeros(2), 1, grid).target == -1).all()
    whole = assign_atss(torch.tensor([[0.0, 0.0, 48.0, 64.0]]), torch.zeros(1), 1, grid)
    assert (whole.target == 0).sum() >= 1
    many = assign_atss(random_boxes(300), torch.zeros(300), 1, grid)
    assert many.target.max() < 300
    single = assign_atss(torch.tensor([[1.0, 1.0, 30.0, 30.0]]), torch.zeros(1), 1, PointGrid.of([(1, 1)], [32]))
    assert single.target.tolist() == [[0]]  # one candidate: its deviation is 0
