"""Suppression in validation: the same boxes as with all candidates and all the time in the world."""

from __future__ import annotations

import time

import pytest
import torch

from engine.validation import nms
from engine.validation.nms import capacity, complete_nms, select_classes

from ultralytics.utils.nms import non_max_suppression


def crowded(images: int = 2, boxes: int = 3000, classes: int = 3, side: float = 400.0) -> torch.Tensor:
    """Predictions (B, 4 + nc, N) with many overlaps and every score above 0.001, all different."""
    generator = torch.Generator().manual_seed(0)
    xy = torch.rand(images, 2, boxes, generator=generator) * side
    wh = torch.rand(images, 2, boxes, generator=generator) * side / 8 + 4
    scores = torch.linspace(0.002, 0.9, images * classes * boxes)[torch.randperm(images * classes * boxes, generator=generator)]
    return torch.cat((xy, wh, scores.view(images, classes, boxes)), 1)


@pytest.mark.long
@pytest.mark.parametrize("side", [400.0, 40.0])  # 40: so crowded that the first candidates leave too few boxes
def test_equals_suppression_of_all_candidates(side: float) -> None:
    preds = crowded(side=side)
    reference = non_max_suppression(preds, 0.001, 0.5, multi_label=True, max_det=300, max_nms=30000, max_time_img=1e6)
    for got, expected in zip(complete_nms(preds, 0.001, 0.5, False, 300, False), reference, strict=True):
        assert torch.equal(got, expected)


def test_more_candidates_are_taken_only_when_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    limits: list[int] = []

    def spy(*args, **options):
        limits.append(options["max_nms"])
        return non_max_suppression(*args, **options)

    monkeypatch.setattr(nms, "non_max_suppression", spy)
    complete_nms(crowded(images=1), 0.001, 0.7, False, 100, False)
    assert limits == [2048]
    complete_nms(crowded(images=1, side=1.0), 0.001, 0.5, False, 100, False)  # all on one spot: few boxes survive
    assert limits[1:] == [2048, 8192, 30000]
    complete_nms(crowded(images=1, side=1.0), 0.001, 0.5, False, 9000, False)
    assert limits[-1] == 36000  # more boxes may be kept than usual


def test_no_image_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    now = iter(range(0, 10**6, 100))  # a clock on which every look is 100 s later
    monkeypatch.setattr(time, "time", lambda: next(now))
    kept = complete_nms(crowded(images=3, boxes=50), 0.001, 0.5, False, 300, False)
    assert all(len(k) for k in kept)


def test_end_to_end_output_passes_through() -> None:
    row = torch.tensor([[[0.0, 0, 10, 10, 0.9, 1], [0, 0, 10, 10, 0.0005, 1]]])
    assert torch.equal(complete_nms((row, None), 0.001, 0.5, False, 300, True)[0], row[0, :1])


def test_other_classes_of_a_model_are_dropped_before_suppression() -> None:
    preds = crowded(images=1, boxes=500, classes=4)
    for agnostic in (False, True):
        got = complete_nms(select_classes((preds, None), [2, 0], False), 0.001, 0.5, agnostic, 300, False)[0]
        alone = complete_nms(preds[:, [0, 1, 2, 3, 6, 4]], 0.001, 0.5, agnostic, 300, False)[0]
        assert torch.equal(got, alone) and set(got[:, 5].tolist()) == {0.0, 1.0}


def test_other_classes_of_finished_boxes_are_dropped() -> None:
    rows = torch.tensor([[[0.0, 0, 10, 10, 0.9, 3], [0, 0, 20, 20, 0.8, 1], [0, 0, 30, 30, 0.7, 0]]])
    got = complete_nms(select_classes((rows, None), [3, 0], True), 0.001, 0.5, False, 300, True)[0]
    assert got.tolist() == [[0, 0, 10, 10, pytest.approx(0.9), 0], [0, 0, 30, 30, pytest.approx(0.7), 1]]
    assert rows[0, 1, 4] == pytest.approx(0.8), "the given predictions were changed"


def test_how_many_boxes_a_model_gives() -> None:
    assert capacity(torch.zeros(2, 7, 80), False) == 80 == capacity((torch.zeros(2, 80, 6), None), True)
    assert capacity(torch.zeros(2, 300, 6), False) == 300  # exported with suppression
