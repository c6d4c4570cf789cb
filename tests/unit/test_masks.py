"""Foreground and scale masks, exact by hand and against a loop over cells."""

from __future__ import annotations

import time

import pytest
import torch

from distill.masks import box_masks


def naive(boxes, images, batch_size: int, height: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
    foreground, scale = torch.zeros(batch_size, 1, height, width), torch.zeros(batch_size, 1, height, width)
    for b in range(batch_size):
        for box, image in zip(boxes.tolist(), images.tolist(), strict=True):
            if image != b:
                continue
            sides = []
            for centre, size, cells in ((box[1], box[3], height), (box[0], box[2], width)):
                inside = {c for c in range(cells) if centre - size / 2 <= (c + 0.5) / cells < centre + size / 2}
                sides.append(inside | {min(int(centre * cells), cells - 1)})
            for row in sides[0]:
                for column in sides[1]:
                    foreground[b, 0, row, column] = 1
                    share = 1 / (len(sides[0]) * len(sides[1]))
                    scale[b, 0, row, column] = max(scale[b, 0, row, column].item(), share)
        outside = foreground[b] == 0
        scale[b][outside] = 1 / max(int(outside.sum()), 1)
    return foreground, scale


def test_by_hand_with_overlap() -> None:
    # 4x4 grid. Box 1: centre (.5, .5), 1/2 x 1/2: rows and columns 1-2 (4 cells). Box 2: centre (.5, .25), 1 x 1/2:
    # rows 0-1, all columns (8 cells). Cells (1, 1) and (1, 2) lie in both and belong to box 1, the smaller.
    # Background: row 3, and (2, 0), (2, 3).
    boxes = torch.tensor([[0.5, 0.5, 0.5, 0.5], [0.5, 0.25, 1.0, 0.5]])
    fourth, eighth, sixth = 1 / 4, 1 / 8, 1 / 6
    foreground = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 1], [0, 1, 1, 0], [0, 0, 0, 0]]).float()
    scale = torch.tensor(
        [[eighth] * 4, [eighth, fourth, fourth, eighth], [sixth, fourth, fourth, sixth], [sixth] * 4]
    )
    for order in ([0, 1], [1, 0]):
        masks = box_masks(boxes[order], torch.zeros(2), 1, (4, 4))
        assert torch.equal(masks.foreground[0, 0], foreground)
        torch.testing.assert_close(masks.scale[0, 0], scale)


def test_box_smaller_than_a_cell_owns_the_cell_of_its_centre() -> None:
    masks = box_masks(torch.tensor([[0.6, 0.1, 0.01, 0.01]]), torch.zeros(1), 1, (4, 4))
    assert masks.foreground.sum() == 1 and masks.foreground[0, 0, 0, 2] == 1 and masks.scale[0, 0, 0, 2] == 1
    # A flat one, 1/2 x 0.01, at height 0.1 (row 0): columns 1-2 only.
    masks = box_masks(torch.tensor([[0.5, 0.1, 0.5, 0.01]]), torch.zeros(1), 1, (4, 4))
    assert masks.foreground[0, 0].nonzero().tolist() == [[0, 1], [0, 2]] and masks.scale[0, 0, 0, 1] == 0.5


@pytest.mark.parametrize("corner", [0.0, 1.0])
def test_box_on_the_edge_of_the_image(corner: float) -> None:
    masks = box_masks(torch.full((1, 4), corner) * torch.tensor([1, 1, 0, 0]), torch.zeros(1), 1, (3, 5))
    assert masks.foreground[0, 0].nonzero().tolist() == [[0, 0] if corner == 0 else [2, 4]]


def test_no_boxes_is_all_background() -> None:
    masks = box_masks(torch.zeros(0, 4), torch.zeros(0), 2, (3, 5))
    assert masks.foreground.shape == masks.scale.shape == (2, 1, 3, 5)
    assert masks.foreground.sum() == 0
    torch.testing.assert_close(masks.scale, torch.full((2, 1, 3, 5), 1 / 15))


def test_box_over_the_whole_image_leaves_no_background() -> None:
    masks = box_masks(torch.tensor([[0.5, 0.5, 1.0, 1.0]]), torch.zeros(1), 1, (4, 6))
    assert (masks.foreground == 1).all()
    torch.testing.assert_close(masks.scale, torch.full((1, 1, 4, 6), 1 / 24))


def test_images_are_independent_and_both_sides_sum_to_one() -> None:
    boxes = torch.tensor([[0.5, 0.5, 0.4, 0.4], [0.2, 0.3, 0.3, 0.2]])
    masks = box_masks(boxes, torch.tensor([0.0, 2.0]), 3, (20, 20))
    for i, own in enumerate((boxes[:1], boxes[:0], boxes[1:])):
        alone = box_masks(own, torch.zeros(len(own)), 1, (20, 20))
        assert torch.equal(masks.foreground[i], alone.foreground[0]) and torch.equal(masks.scale[i], alone.scale[0])
        assert (masks.scale[i] * (1 - masks.foreground[i])).sum().item() == pytest.approx(1)
        assert (masks.scale[i] * masks.foreground[i]).sum().item() == pytest.approx(float(len(own)))


def test_equals_a_loop_over_cells() -> None:
    generator = torch.Generator().manual_seed(0)
    boxes, images = torch.rand(40, 4, generator=generator), torch.randint(0, 3, (40,), generator=generator)
    boxes[:, 2:] *= 0.4
    copy = boxes.clone()
    for height, width in ((1, 1), (5, 7), (16, 12)):
        masks = box_masks(boxes, images, 3, (height, width))
        foreground, scale = naive(boxes, images, 3, height, width)
        assert torch.equal(masks.foreground, foreground)
        torch.testing.assert_close(masks.scale, scale)
    assert torch.equal(boxes, copy)


def test_300_boxes_on_six_grids_in_parts() -> None:
    generator = torch.Generator().manual_seed(1)
    boxes, images = torch.rand(300, 4, generator=generator) * torch.tensor([1, 1, 0.2, 0.2]), torch.zeros(300)
    start = time.perf_counter()
    masks = [box_masks(boxes, images, 1, (640 // s, 640 // s)) for s in (4, 8, 16, 32, 64, 128)]
    assert time.perf_counter() - start < 2  # about 0.03 s on one core
    assert all(m.scale.isfinite().all() and (m.scale > 0).all() for m in masks)


def test_memory_limit_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    boxes, images = torch.rand(30, 4), torch.randint(0, 2, (30,))
    whole = box_masks(boxes, images, 2, (8, 8))
    monkeypatch.setattr("distill.masks.CELLS_AT_ONCE", 200)  # three boxes at a time
    parts = box_masks(boxes, images, 2, (8, 8))
    assert all(map(torch.equal, whole, parts))
