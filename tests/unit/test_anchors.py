"""Anchor fitting and its measure."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import torch

from cfg.errors import UserError
from models.anchors import best_possible_recall, fit_anchors, kmeans_anchors
from models.assign import assign_anchors

NEU = Path(__file__).resolve().parents[2].parent / "shared/data/neu-det"


def test_recall_by_hand() -> None:
    # Against 10x10 and 100x100: 20x30 fits the first only (30/10 = 3; 100/20 = 5); 30x30 fits both (3, 3.33); 41x10
    # none (4.1, 10); 500x300 none (5). Two of four boxes are matched, by 1 + 2 anchors: recall 0.5, mean 0.75.
    # At threshold 6 the four match 2, 2, 1 and 1 anchors.
    wh = [[20, 30], [30, 30], [41, 10], [500, 300]]
    assert best_possible_recall(wh, [[[10, 10]], [[100, 100]]]) == (0.5, 0.75)
    assert best_possible_recall(wh, torch.tensor([[10.0, 10], [100, 100]]), ratio=6.0) == (1.0, 1.5)


def test_recall_agrees_with_the_assignment() -> None:
    rng = np.random.default_rng(0)
    wh, anchors = rng.uniform(2, 200, (200, 2)), rng.uniform(5, 100, (1, 3, 2))
    rows = np.concatenate((np.zeros((200, 2)), np.full((200, 2), 4.0), wh), 1)
    targets, sizes = torch.tensor(rows), torch.tensor(anchors)
    # (4, 4) px: a cell's middle, no neighbours.
    (level,) = assign_anchors(targets, [(32, 32)], sizes, torch.tensor([8.0]))
    recall, above = best_possible_recall(wh, anchors)
    assert len(level.target.unique()) / 200 == recall and len(level) / 200 == pytest.approx(above)


def test_three_clusters_are_found() -> None:
    rng = np.random.default_rng(1)
    centres = np.array([[12.0, 10], [40, 60], [150, 120]])
    wh = np.concatenate([c + rng.normal(0, 0.5, (50, 2)) for c in centres])
    for seed in range(5):
        np.testing.assert_allclose(kmeans_anchors(wh, 3, seed), centres, atol=0.3)


def test_few_distinct_sizes() -> None:
    # Two sizes for five anchors: both, their halves, then the first one doubled; sorted by area.
    got = kmeans_anchors([[10, 20], [40, 40], [10, 20]], 5)
    np.testing.assert_array_equal(got, [[5, 10], [10, 20], [20, 20], [20, 40], [40, 40]])
    assert kmeans_anchors([[10, 10]], 9).shape == (9, 2)
    assert best_possible_recall([[10, 10]], kmeans_anchors([[10, 10]], 9))[0] == 1.0


def test_one_varying_side() -> None:
    wh = np.stack((np.full(40, 16.0), np.arange(10, 50.0)), 1)  # no spread in width
    got = kmeans_anchors(wh, 4)
    assert np.isfinite(got).all() and (got[:, 0] == 16).all() and (np.diff(got[:, 1]) > 0).all()


def test_tiny_boxes_are_dropped_unless_there_are_no_others() -> None:
    wh = np.concatenate((np.full((500, 2), 0.7), [[20, 20], [30, 30], [40, 40]]))
    np.testing.assert_array_equal(kmeans_anchors(wh, 3), [[20, 20], [30, 30], [40, 40]])
    np.testing.assert_array_equal(kmeans_anchors([[0.5, 0.5], [1, 1]], 2), [[0.5, 0.5], [1, 1]])


def test_refinement_never_lowers_the_fit_and_all_is_seeded() -> None:
    rng = np.random.default_rng(2)
    wh = rng.lognormal(3, 1, (400, 2))
    plain, refined = kmeans_anchors(wh, 6, seed=1), kmeans_anchors(wh, 6, seed=1, generations=100)

    def fitness(anchors: np.ndarray) -> float:
        quotient = wh[(wh >= 2).any(1)][:, None] / anchors
        best = np.minimum(quotient, 1 / quotient).min(2).max(1)
        return float((best * (best > 0.25)).mean())

    assert fitness(refined) > fitness(plain)
    np.testing.assert_array_equal(refined, kmeans_anchors(wh, 6, seed=1, generations=100))
    np.testing.assert_array_equal(plain, kmeans_anchors(wh, 6, seed=1))


def test_fit_gives_small_anchors_to_small_strides_and_leaves_its_input() -> None:
    wh = np.random.default_rng(3).uniform(4, 300, (1000, 2))
    copy = wh.copy()
    anchors = fit_anchors(wh, (4, 8, 16, 32, 64, 128), 3)
    assert anchors.shape == (6, 3, 2) and (np.diff(anchors.prod(-1).ravel()) >= 0).all()
    towers = fit_anchors(wh, (32, 8, 16, 32), 3)
    assert np.array_equal(towers, fit_anchors(wh, (8, 16, 32), 3)[[2, 0, 1, 2]])
    assert np.array_equal(wh, copy)


def test_fit_goes_by_the_matching_threshold_of_the_loss() -> None:
    wh = np.random.default_rng(3).uniform(4, 300, (1000, 2))
    wide, narrow = (fit_anchors(wh, (8, 16, 32), 3, generations=100, ratio=ratio) for ratio in (4.0, 2.0))
    assert best_possible_recall(wh, narrow, 2.0)[0] > best_possible_recall(wh, wide, 2.0)[0]


@pytest.mark.parametrize("wh", [[], [[0, 0]], [[float("nan"), 3]]])
def test_no_box_at_all_is_refused(wh: list) -> None:
    for call in (lambda: fit_anchors(wh, (8, 16, 32), 3), lambda: best_possible_recall(wh, [[1, 1]])):
        with pytest.raises(UserError, match="at least one box"):
            call()


@pytest.mark.real
def test_neu_det_is_covered() -> None:
    files = sorted((NEU / "annotations").glob("*.xml"))
    if not files:
        pytest.skip("needs NEU-DET's annotations in ../shared/data/neu-det")
    corners = [
        [float(box.findtext(side)) for side in ("xmin", "ymin", "xmax", "ymax")]
        for file in files for box in ElementTree.parse(file).getroot().iter("bndbox")
    ]
    boxes = np.array(corners) * 224 / 200
    assert len(boxes) > 1000
    wh = boxes[:, 2:] - boxes[:, :2]
    assert best_possible_recall(wh, fit_anchors(wh, (4, 8, 16, 32), 3))[0] > 0.99
