"""Tiles: every pixel is in one, cut objects become one box, neighbours stay two."""

from __future__ import annotations

import numpy as np
import pytest

from cfg.errors import UserError
from inspection.seams import TileBoxes, found_from, merge
from inspection.tiles import Tiling, overlap_for, tiling_asked, usual_overlap

TWO = Tiling(100, 0.2).windows(100, 180)  # (0, 0, 100, 100) and (80, 0, 180, 100): they share the strip x 80 to 100


def boxes(*rows: tuple[float, ...]) -> TileBoxes:
    """Boxes from rows of tile, x1, y1, x2, y2, score, class."""
    table = np.array(rows, dtype=float).reshape(-1, 7)
    return TileBoxes(table[:, 1:5], table[:, 5], table[:, 6].astype(int), table[:, 0].astype(int))


def merged(found: TileBoxes, windows: np.ndarray = TWO, **options) -> list[tuple[float, ...]]:
    """Rows of x1, y1, x2, y2, score, class."""
    return [(*box, score, index) for box, score, index in zip(*map(np.ndarray.tolist, merge(found, windows, 0.5, **options)))]


def test_the_grid_is_regular_and_its_last_tile_flush_with_the_edge() -> None:
    windows = Tiling(640, 0.2).windows(640, 2000)
    assert windows.tolist() == [[0, 0, 640, 640], [512, 0, 1152, 640], [1024, 0, 1664, 640], [1360, 0, 2000, 640]]
    assert Tiling(640, 0).windows(1280, 640).tolist() == [[0, 0, 640, 640], [0, 640, 640, 1280]]
    assert Tiling(640, 0.2).windows(1664, 1664).shape == (9, 4)  # 640 + 2 x 512: no tile more than needed


@pytest.mark.parametrize(("height", "width"), [(50, 70), (640, 640), (1, 5000)])
def test_an_image_smaller_than_a_tile_is_one(height: int, width: int) -> None:
    windows = Tiling(640, 0.2).windows(height, width)
    assert windows[0].tolist() == [0, 0, min(width, 640), height]
    assert (len(windows) == 1) == (width <= 640)


@pytest.mark.parametrize("seed", range(20))
def test_every_pixel_is_in_a_tile_and_neighbours_share_what_was_asked_for(seed: int) -> None:
    rng = np.random.default_rng(seed)
    side, overlap = int(rng.integers(32, 120)), float(rng.uniform(0, 0.9))
    height, width = (int(v) for v in rng.integers(1, 400, 2))
    windows = Tiling(side, overlap).windows(height, width)
    seen = np.zeros((height, width), dtype=bool)
    for x1, y1, x2, y2 in windows:
        assert (x2 - x1, y2 - y1) == (min(side, width), min(side, height))
        seen[y1:y2, x1:x2] = True
    assert seen.all()
    for axis in (0, 1):
        starts = np.unique(windows[:, axis])
        assert (np.diff(starts) <= side - overlap * side + 1e-9).all() or len(starts) == 1


@pytest.mark.parametrize(("side", "overlap", "word"), [(31, 0.2, "--tile 31"), (640, 1.0, "--overlap 1"), (640, -0.1, "--overlap -0.1")])
def test_tilings_that_make_no_sense(side: int, overlap: float, word: str) -> None:
    with pytest.raises(UserError, match=word):
        Tiling(side, overlap)


def test_the_overlap_that_defects_ask_for() -> None:
    sizes = np.arange(1, 101)  # 95th percentile 95.05 px
    assert overlap_for(sizes, 640) == 0.15  # 0.1485, rounded up
    assert usual_overlap(sizes, 640) == 0.2
    assert usual_overlap(sizes * 2, 640) == 0.3
    assert usual_overlap(sizes * 9, 640) == 0.5
    assert overlap_for(np.array([]), 640) == 0.0


def test_the_overlap_that_was_asked_for_is_compared_with_the_defects(capsys) -> None:
    sizes = np.full(20, 200.0)
    assert tiling_asked(None, None, sizes) is None
    assert tiling_asked(640, None) == Tiling(640, 0.2)
    assert capsys.readouterr().err == ""
    assert tiling_asked(640, None, sizes) == Tiling(640, 0.32)
    assert "overlap 0.32 = 205 px: 95 % of the defects are at most 200 px long and whole in a tile" in capsys.readouterr().err
    assert tiling_asked(640, 0.1, sizes) == Tiling(640, 0.1)
    assert "--overlap 0.32 would keep them whole" in capsys.readouterr().err
    assert tiling_asked(320, None, sizes) == Tiling(320, 0.5)
    assert "--tile 416 --overlap 0.5" in capsys.readouterr().err
    with pytest.raises(UserError, match="expected --tile"):
        tiling_asked(None, 0.2)


def test_the_halves_of_a_cut_object_become_one_box_of_the_higher_score() -> None:
    found = boxes((0, 40, 50, 100, 60, 0.6, 1), (1, 80, 51, 150, 61, 0.9, 1))
    assert merged(found) == [(40, 50, 150, 61, 0.9, 1)]


def test_plain_suppression_would_leave_these_halves() -> None:
    """Their IoU is 20 x 9 of 600 + 700 - 180: 0.16."""
    apart = np.array([[0, 0, 100, 100], [100, 0, 180, 100]])  # tiles that share nothing
    assert len(merged(boxes((0, 40, 50, 100, 60, 0.6, 1), (1, 100, 51, 150, 61, 0.9, 1)), apart)) == 2


def test_a_scratch_over_many_tiles_becomes_one_box() -> None:
    """2,000 px long, in tiles of 640 which begin at 0, 512, 1024 and 1360; pieces end a few pixels off the seams."""
    windows = Tiling(640, 0.2).windows(640, 2000)
    found = boxes((0, 5, 300, 636, 312, 0.5, 0), (1, 515, 301, 1149, 313, 0.4, 0), (2, 1024, 300, 1660, 311, 0.8, 0),
                  (3, 1363, 299, 1995, 312, 0.3, 0))  # fmt: skip
    assert merged(found, windows) == [(5, 299, 1995, 313, 0.8, 0)]


def test_a_diagonal_scratch_becomes_one_box() -> None:
    windows = Tiling(640, 0.2).windows(1152, 1152)  # 2 x 2; the scratch goes through the corner tiles' common square
    found = boxes((0, 10, 10, 640, 640, 0.7, 0), (3, 512, 512, 1100, 1100, 0.6, 0), (1, 512, 512, 640, 640, 0.5, 0),
                  (2, 512, 512, 640, 640, 0.5, 0))  # fmt: skip
    assert merged(found, windows) == [(10, 10, 1100, 1100, 0.7, 0)]


def test_an_object_cut_in_one_tile_and_whole_in_the_next_is_the_whole_one() -> None:
    """IoU 0.45: suppression alone would keep both."""
    found = boxes((0, 82, 50, 100, 60, 0.6, 1), (1, 82, 50, 122, 60, 0.5, 1))
    assert merged(found) == [(82, 50, 122, 60, 0.6, 1)]


def test_an_object_whole_in_both_tiles_is_one() -> None:
    found = boxes((0, 83, 50, 95, 60, 0.6, 1), (1, 83, 50, 94, 60, 0.7, 1))
    assert merged(found) == [(83, 50, 94, 60, 0.7, 1)]


def test_parallel_scratches_stay_two_though_their_boxes_overlap() -> None:
    found = boxes((0, 10, 40, 100, 52, 0.9, 0), (0, 10, 50, 100, 62, 0.8, 0), (1, 80, 40, 170, 52, 0.7, 0),
                  (1, 80, 50, 170, 62, 0.6, 0))  # fmt: skip
    assert merged(found) == [(10, 40, 170, 52, 0.9, 0), (10, 50, 170, 62, 0.8, 0)]


def test_what_is_never_united() -> None:
    whole = boxes((0, 20, 50, 90, 60, 0.9, 0), (1, 84, 50, 150, 60, 0.8, 0))  # neither ends at a seam
    assert len(merged(whole)) == 2
    classes = boxes((0, 40, 50, 100, 60, 0.6, 0), (1, 80, 50, 150, 60, 0.9, 1))
    assert len(merged(classes)) == 2
    weak = boxes((0, 40, 50, 100, 60, 0.05, 0), (1, 80, 50, 150, 60, 0.9, 0))
    assert len(merged(weak)) == 2
    edge_of_the_image = boxes((0, 0, 50, 40, 60, 0.6, 0), (0, 0, 55, 38, 75, 0.5, 0))
    assert len(merged(edge_of_the_image)) == 2


def test_a_further_piece_of_a_cut_object_is_no_object() -> None:
    """Of the strip's two boxes in the left tile one is united; the other lies in the result by nine tenths."""
    found = boxes((0, 40, 50, 100, 60, 0.6, 1), (0, 70, 50, 100, 61, 0.3, 1), (1, 80, 50, 150, 60, 0.9, 1))
    assert merged(found) == [(40, 50, 150, 60, 0.9, 1)]


def test_classes_suppress_each_other_only_when_asked_to() -> None:
    found = boxes((0, 82, 10, 95, 30, 0.9, 0), (1, 82, 10, 95, 29, 0.8, 1))
    assert len(merged(found)) == 2
    assert merged(found, agnostic=True) == [(82, 10, 95, 30, 0.9, 0)]


def test_boxes_of_one_tile_were_suppressed_before() -> None:
    found = boxes((0, 10, 10, 30, 30, 0.9, 0), (0, 10, 10, 30, 29, 0.8, 0))
    assert len(merged(found)) == 2


def test_the_best_are_kept_where_there_are_too_many() -> None:
    found = boxes(*[(0, 10 * i, 0, 10 * i + 5, 5, 0.1 + 0.1 * i, 0) for i in range(8)])
    assert [row[4] for row in merged(found, most=3)] == pytest.approx([0.8, 0.7, 0.6])


def test_nothing_found() -> None:
    assert [len(part) for part in merge(boxes(), TWO, 0.5)] == [0, 0, 0]


def noise(seed: int) -> tuple[TileBoxes, np.ndarray]:
    """Boxes at random, many of them at seams, in 3 x 3 tiles."""
    rng = np.random.default_rng(seed)
    windows = Tiling(100, 0.25).windows(250, 250)
    tiles = rng.integers(0, len(windows), 150)
    corners = np.sort(rng.integers(0, 101, (150, 2, 2)), axis=1).reshape(150, 4) + np.tile(windows[tiles, :2], 2)
    corners[:, 2:] = np.maximum(corners[:, 2:], corners[:, :2] + 1)
    return TileBoxes(corners.astype(float), rng.uniform(0, 1, 150), rng.integers(0, 3, 150), tiles), windows


@pytest.mark.parametrize("seed", range(10))
def test_the_order_of_boxes_and_tiles_does_not_matter(seed: int) -> None:
    found, windows = noise(seed)
    rng = np.random.default_rng(seed + 100)
    shuffled, places = rng.permutation(150), rng.permutation(len(windows))
    tiles = np.argsort(places)[found.tiles][shuffled]
    other = TileBoxes(found.boxes_xyxy[shuffled], found.scores[shuffled], found.classes[shuffled], tiles)
    for one, two in zip(merge(found, windows, 0.5), merge(other, windows[places], 0.5)):
        assert one.tolist() == two.tolist()


@pytest.mark.parametrize("seed", range(10))
def test_a_threshold_chosen_on_boxes_of_low_scores_holds_where_these_are_not_looked_at(seed: int) -> None:
    found, windows = noise(seed)
    keep = found.scores > found_from(0.6)
    strong = TileBoxes(found.boxes_xyxy[keep], found.scores[keep], found.classes[keep], found.tiles[keep])
    every, fewer = (merge(x, windows, 0.5) for x in (found, strong))
    for one, two in zip(every, fewer):
        assert one[every[1] > 0.6].tolist() == two[fewer[1] > 0.6].tolist()


@pytest.mark.parametrize("seed", range(10))
def test_results_are_unions_of_what_was_found(seed: int) -> None:
    found, windows = noise(seed)
    kept, scores, classes = merge(found, windows, 0.5)
    assert set(scores) <= set(found.scores) and (np.diff(scores) <= 0).all()
    for edge in range(4):
        assert set(kept[:, edge]) <= set(found.boxes_xyxy[:, edge])
    assert scores[0] == found.scores.max() and set(classes) <= set(found.classes)


def test_beside_sahi() -> None:
    """On objects smaller than the overlap, of which each tile finds what it shows, both end with the objects themselves."""
    pytest.importorskip("sahi", reason="SAHI is not installed; it is compared with where it is")
    from sahi.postprocess.combine import GreedyNMMPostprocess
    from sahi.prediction import ObjectPrediction
    from sahi.slicing import get_slice_bboxes

    windows = Tiling(100, 0.3).windows(240, 310)
    assert windows.tolist() == get_slice_bboxes(240, 310, 100, 100, False, 0.3, 0.3)
    rng = np.random.default_rng(0)
    corners = np.array([(x, y) for x in range(5, 290, 40) for y in range(5, 220, 40)]) + rng.integers(0, 10, (48, 2))
    objects = np.concatenate([corners, corners + rng.integers(8, 20, (48, 2))], axis=1).astype(float)
    found = boxes(*[
        (t, *np.maximum(box[:2], window[:2]), *np.minimum(box[2:], window[2:]), 0.9 - 0.01 * t, 0)
        for t, window in enumerate(windows) for box in objects
        if (np.minimum(box[2:], window[2:]) - np.maximum(box[:2], window[:2]) > 2).all()
    ])  # fmt: skip
    ours = sorted(row[:4] for row in merged(found, windows))
    given = [ObjectPrediction(b.tolist(), 0, "x", score=float(s), full_shape=[240, 310])
             for b, s in zip(found.boxes_xyxy, found.scores)]  # fmt: skip
    theirs = sorted(tuple(one.bbox.to_xyxy()) for one in GreedyNMMPostprocess(0.5, "IOS", True)(given))
    assert ours == theirs == sorted(map(tuple, np.minimum(objects, (310, 240, 310, 240))))
