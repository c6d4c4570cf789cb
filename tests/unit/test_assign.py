"""Anchor assignment: hand-worked matches and a plain loop over boxes, anchors and cells."""

from __future__ import annotations

import torch

from models.assign import assign_anchors


def matches(level) -> set[tuple[int, ...]]:
    """(image, anchor, row, column, class, target) of every match."""
    columns = (level.image, level.anchor, level.row, level.column, level.cls, level.target)
    return set(zip(*(c.tolist() for c in columns), strict=True))


def naive(targets, shapes, anchors, strides, ratio: float = 4.0) -> list[set[tuple[int, ...]]]:
    found = []
    for (height, width), sizes, stride in zip(shapes, anchors.tolist(), strides.tolist(), strict=True):
        level = set()
        for t, (image, cls, x, y, w, h) in enumerate(targets.tolist()):
            x, y, column, row = x / stride, y / stride, int(x / stride), int(y / stride)
            for a, (aw, ah) in enumerate(sizes):
                if not (1 / ratio < w / aw < ratio and 1 / ratio < h / ah < ratio):
                    continue
                cells = [(row, column)]
                if x - column < 0.5 and column >= 1:
                    cells.append((row, column - 1))
                if x - column > 0.5 and column + 1 < width:
                    cells.append((row, column + 1))
                if y - row < 0.5 and row >= 1:
                    cells.append((row - 1, column))
                if y - row > 0.5 and row + 1 < height:
                    cells.append((row + 1, column))
                level |= {(int(image), a, r, c, int(cls), t) for r, c in cells}
        found.append(level)
    return found


def test_by_hand_centre_in_the_upper_left_of_its_cell() -> None:
    # Stride 8, 4x4 grid. Centre (18, 10) px = (2.25, 1.25) cells: cell row 1, column 2; nearest neighbours left (1, 1)
    # and above (0, 2). Box 20x20: anchor 10x10 (quotient 2) fits, 30x4 (20/4 = 5) does not, 79x79 (3.95) fits, 80x80
    # (4.0) does not.
    anchors = torch.tensor([[[10.0, 10], [30, 4], [79, 79], [80, 80]]])
    (level,) = assign_anchors(torch.tensor([[0.0, 2, 18, 10, 20, 20]]), [(4, 4)], anchors, torch.tensor([8.0]))
    assert matches(level) == {(0, a, r, c, 2, 0) for a in (0, 2) for r, c in ((1, 2), (1, 1), (0, 2))}
    assert len(level) == 6
    assert torch.equal(level.box_xywh, torch.tensor([[2.25, 1.25, 2.5, 2.5]]).expand(6, 4))


def test_by_hand_lower_right_and_the_corners_of_the_grid() -> None:
    anchors, strides = torch.tensor([[[8.0, 8]]]), torch.tensor([8.0])
    where = {
        (13.0, 14.0): {(1, 1), (1, 2), (2, 1)},  # (1.625, 1.75): right and below
        (2.0, 2.0): {(0, 0)},  # (0.25, 0.25): nothing left of or above the first cell
        (30.0, 30.0): {(3, 3)},  # (3.75, 3.75): nothing right of or below the last one
        (12.0, 12.0): {(1, 1)},  # the middle of a cell: no neighbour is nearer than its opposite
        (16.0, 12.0): {(1, 2), (1, 1)},  # on the line between two cells: both, and none twice
        (32.0, 32.0): {(3, 3), (3, 2), (2, 3)} - {(3, 2), (2, 3)},  # on the image's corner: the last cell
    }
    for (x, y), cells in where.items():
        (level,) = assign_anchors(torch.tensor([[0.0, 0, x, y, 8, 8]]), [(4, 4)], anchors, strides)
        assert {(r, c) for _, _, r, c, _, _ in matches(level)} == cells, (x, y)


def test_equals_the_plain_loop() -> None:
    generator = torch.Generator().manual_seed(0)
    targets = torch.rand(300, 6, generator=generator) * torch.tensor([4, 5, 320, 192, 300, 180])
    targets[:, :2] = targets[:, :2].floor()
    strides, shapes = torch.tensor([8.0, 16, 32]), [(24, 40), (12, 20), (6, 10)]
    anchors = torch.rand(3, 3, 2, generator=generator) * 100 * torch.tensor([0.3, 1, 3])[:, None, None] + 4
    for ratio in (4.0, 2.0):
        levels = assign_anchors(targets, shapes, anchors, strides, ratio)
        for level, expected in zip(levels, naive(targets, shapes, anchors, strides, ratio), strict=True):
            assert expected and matches(level) == expected
            assert len(level) == len(expected)  # none twice


def test_the_prediction_can_reach_every_centre() -> None:
    # Decoding spans -0.5 ... 1.5 cells around a cell's corner: any match outside could never be learned.
    targets = torch.cat((torch.zeros(500, 2), torch.rand(500, 2) * 160, torch.full((500, 2), 20.0)), 1)
    targets[:100, 2:4] = targets[:100, 2:4].round()
    for level in assign_anchors(targets, [(20, 20), (10, 10)], torch.full((2, 1, 2), 20.0), torch.tensor([8.0, 16.0])):
        offset = level.box_xywh[:, :2] - torch.stack((level.column, level.row), 1)
        assert offset.min() >= -0.5 and offset.max() <= 1.5


def test_no_boxes_and_boxes_without_area() -> None:
    anchors, strides, shapes = torch.full((2, 3, 2), 10.0), torch.tensor([8.0, 16]), [(4, 4), (2, 2)]
    for targets in (torch.zeros(0, 6), torch.tensor([[0.0, 0, 10, 10, 0, 0], [0, 0, 10, 10, 8, 0]])):
        for level in assign_anchors(targets, shapes, anchors, strides):
            assert len(level) == 0 and level.box_xywh.shape == (0, 4) and level.image.dtype == torch.int64


def test_indices_stay_on_the_grid_for_centres_outside() -> None:
    targets = torch.tensor([[0.0, 0, -3, 40, 10, 10], [0, 0, 33, -1, 10, 10]])
    (level,) = assign_anchors(targets, [(4, 4)], torch.full((1, 1, 2), 10.0), torch.tensor([8.0]))
    assert set(level.target.tolist()) == {0, 1}
    assert all(0 <= int(v) < 4 for v in torch.cat((level.row, level.column)))


def test_inputs_are_unchanged() -> None:
    targets, anchors, strides = torch.rand(5, 6) * 30, torch.full((1, 2, 2), 10.0), torch.tensor([8.0])
    copies = targets.clone(), anchors.clone(), strides.clone()
    assign_anchors(targets, [(4, 4)], anchors, strides)
    assert all(map(torch.equal, (targets, anchors, strides), copies))
