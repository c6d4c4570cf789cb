"""The distillation benchmark's statistics: average precision of resampled images, intervals, verdicts, sample sizes."""

from __future__ import annotations

import json
import math
import shutil
from copy import deepcopy

import numpy as np
import pytest

from benchmarks.harness.compare import compare
from benchmarks.harness.plan import Method
from benchmarks.harness.plot import plot
from benchmarks.harness.report import said, write
from benchmarks.harness.runs import folder_name
from benchmarks.harness.statistics import (
    HELPS,
    HURTS,
    MOST_SEEDS,
    NOT_SHOWN,
    images_needed,
    paired_t,
    seeds_needed,
    verdict,
)  # fmt: skip
from cfg import UserError
from engine.validation import average_precision as ap
from engine.validation.box_files import load_boxes, save_boxes
from engine.validation.coco_metrics import Boxes, coco_metrics
from inspection.compare import Interval, percentile

CLASSES = 3


def scene(rng: np.random.Generator, precise: float = 4.0) -> tuple[Boxes, Boxes]:
    """Boxes of one image and what a detector of so many pixels' error finds: near misses, doubles and inventions."""
    count, invented = int(rng.integers(0, 5)), 40

    def boxes(n: int) -> np.ndarray:
        corner = rng.uniform(0, 150, (n, 2))
        return np.concatenate([corner, corner + rng.uniform(40, 60, (n, 2))], axis=1)

    true, kinds = boxes(count), rng.integers(0, CLASSES, count)
    near, off = (true + rng.normal(0, error, true.shape) for error in (precise, 1.5 * precise))
    found = [near, off, boxes(invented)]
    scores = np.concatenate([rng.beta(4, 2, count), rng.beta(2, 4, count), rng.beta(1, 6, invented)])
    guesses = np.concatenate([kinds, kinds, rng.integers(0, CLASSES, invented)])
    return Boxes(true, kinds), Boxes(np.concatenate(found), guesses, scores)


def scenes(seed: int, images: int = 40, precise: float = 4.0) -> tuple[list[Boxes], list[Boxes]]:
    rng = np.random.default_rng(seed)
    truths, found = zip(*(scene(rng, precise) for _ in range(images)))
    return list(truths), list(found)


# -- average precision -------------------------------------------------------------------------------------------------


def test_average_precision_is_that_of_the_coco_evaluator():
    truths, found = scenes(0)
    want = coco_metrics(truths, found, CLASSES)
    got = ap.average_precision(ap.match(truths, found, CLASSES), np.ones((1, len(truths)), dtype=int))[0]
    assert 0.3 < want["mAP50-95"] < 0.7
    assert got[0] == pytest.approx(want["mAP50"], abs=1e-12)
    assert got[5] == pytest.approx(want["AP75"], abs=1e-12)
    assert got.mean() == pytest.approx(want["mAP50-95"], abs=1e-12)


def test_resampled_images_score_as_copies_of_them_do():
    truths, found = scenes(1)
    draws = ap.resamples(len(truths), 3)
    got = ap.average_precision(ap.match(truths, found, CLASSES), draws)
    assert len(set(got[:, 0])) == 3
    for copies, scores in zip(draws, got):
        index = np.repeat(np.arange(len(truths)), copies)
        want = coco_metrics([truths[i] for i in index], [found[i] for i in index], CLASSES)
        assert [scores[0], scores.mean()] == pytest.approx([want["mAP50"], want["mAP50-95"]], abs=1e-12)


def test_average_precision_of_more_than_a_hundred_boxes():
    x, y = np.divmod(np.arange(400), 20)
    boxes = np.stack((x * 20, y * 20, x * 20 + 16, y * 20 + 16), 1).astype(float)
    truth, found = Boxes(boxes, np.zeros(400)), Boxes(boxes[:300], np.zeros(300), np.linspace(0.9, 0.1, 300))
    got = ap.average_precision(ap.match([truth], [found], 1), np.array([[1]]))
    assert got.mean() == pytest.approx(coco_metrics([truth], [found], 1)["mAP50-95"]) == pytest.approx(76 / 101)


def test_average_precision_by_hand():
    """Two boxes; the most confident detection misses, the next two hit: precision 2/3 at every recall up to 1."""
    truth = Boxes(np.array([[0.0, 0, 10, 10], [50, 50, 60, 60]]), np.array([0, 0]))
    boxes = np.array([[30.0, 30, 40, 40], [0, 0, 10, 10], [50, 50, 60, 60]])
    found = Boxes(boxes, np.zeros(3, int), np.array([0.9, 0.8, 0.7]))
    got = ap.average_precision(ap.match([truth], [found], 1), np.array([[1], [3]]))
    assert got == pytest.approx(np.full((2, 10), 2 / 3))


def test_a_box_is_hit_once_and_by_the_most_confident():
    """The second detection is the better one of the same box, but the first has it at the thresholds it reaches."""
    boxes = np.array([[0.0, 0, 10, 10]])
    hits = ap._match_image(boxes, np.array([[0.0, 0, 10, 8], [0, 0, 10, 10]]))  # IoU 0.8 and 1
    assert hits[0].tolist() == [True] * 7 + [False] * 3  # 0.5 ... 0.8
    assert hits[1].tolist() == [False] * 7 + [True] * 3


def test_only_the_hundred_most_confident_of_a_class_count():
    truth = Boxes(np.array([[0.0, 0, 10, 10]]), np.array([0]))
    crowd = np.tile([[50.0, 50, 60, 60]], (100, 1))
    found = Boxes(np.concatenate([crowd, truth.boxes_xyxy]), np.zeros(101, int), np.linspace(0.9, 0.1, 101))
    assert ap.average_precision(ap.match([truth], [found], 1), np.ones((1, 1), int)).max() == 0
    fewer = Boxes(found.boxes_xyxy[1:], found.classes[1:], found.scores[1:])
    assert ap.average_precision(ap.match([truth], [fewer], 1), np.ones((1, 1), int)) == pytest.approx(0.01)


def test_classes_without_boxes_count_in_no_mean():
    truths = [Boxes(np.array([[0.0, 0, 10, 10]]), np.array([kind])) for kind in (0, 1)]
    perfect = Boxes(truths[0].boxes_xyxy, np.array([0]), np.array([0.9]))
    nothing = Boxes(np.zeros((0, 4)), np.zeros(0, int), np.zeros(0))
    got = ap.average_precision(ap.match(truths, [perfect, nothing], 3), np.array([[1, 1], [2, 0], [0, 2], [0, 0]]))
    assert got[:3, 0].tolist() == [0.5, 1.0, 0.0] and np.isnan(got[3]).all()


def test_resamples_are_as_large_as_the_data_and_always_the_same():
    draws = ap.resamples(50, 200)
    assert draws.shape == (200, 50) and set(draws.sum(1)) == {50} and draws.min() == 0 < draws.max() - 1
    assert (draws == ap.resamples(50, 200)).all()


def test_boxes_come_back_from_their_file(tmp_path):
    truths, found = scenes(2, images=5)
    nothing = Boxes(np.zeros((0, 4)), np.zeros(0, int), np.zeros(0))
    save_boxes(tmp_path / "boxes.npz", [f"/a/{i}.png" for i in range(6)], [*truths, truths[0]], [*found, nothing])
    files, again, seen = load_boxes(tmp_path / "boxes.npz")
    assert files == [f"{i}.png" for i in range(6)] and [len(b.classes) for b in seen][5] == 0
    for want, got in zip([*truths, *found], [*again[:5], *seen[:5]]):
        assert got.boxes_xyxy == pytest.approx(want.boxes_xyxy, abs=1e-4) and (got.classes == want.classes).all()
    assert seen[0].scores == pytest.approx(found[0].scores, abs=1e-6) and again[0].scores is None


# -- intervals and verdicts --------------------------------------------------------------------------------------------


def test_paired_t_interval_by_hand():
    """Differences 1, 2, 3: mean 2, s = 1, t(0.975; 2) = 4.3027: 2 +- 4.3027 / sqrt(3)."""
    got = paired_t([1.0, 2.0, 3.0])
    assert [got.low, got.high] == pytest.approx([2 - 4.302653 / math.sqrt(3), 2 + 4.302653 / math.sqrt(3)], abs=1e-5)
    two = paired_t([0.01, 0.03])  # mean 0.02, s / sqrt(2) = 0.01, t(0.975; 1) = 12.7062
    assert [two.low, two.high] == pytest.approx([0.02 - 0.127062, 0.02 + 0.127062], abs=1e-6)
    assert paired_t([0.5]) is None


def test_bootstrap_interval_is_the_middle_of_what_was_drawn():
    values = np.arange(1001) / 1000
    got = percentile(np.concatenate([values, [np.nan]]))
    assert [got.low, got.high] == pytest.approx([0.025, 0.975])


def test_the_verdict_needs_both_intervals():
    above, below, around = Interval(0.1, 0.2), Interval(-0.2, -0.1), Interval(-0.1, 0.1)
    assert verdict(above, above) == HELPS and verdict(below, below) == HURTS
    for pair in ((above, around), (around, above), (below, around), (around, below), (above, below), (None, above)):
        assert verdict(*pair) == NOT_SHOWN
    assert verdict(Interval(0.0, 0.1), above) == NOT_SHOWN  # 0 is inside


@pytest.mark.long
def test_seeds_needed_have_the_power_they_promise():
    """Effect = one standard deviation: 10 seeds (the textbook's number for 80 % power at 5 %), checked by drawing."""
    spread = np.array([-1.0, 1.0]) / math.sqrt(2)  # s = 1
    assert seeds_needed(1.0 + spread) == seeds_needed(-1.0 + spread) == 10
    rng = np.random.default_rng(0)
    shown = {n: np.mean([paired_t(rng.normal(1, 1, n)).low > 0 for _ in range(2000)]) for n in (8, 10)}
    assert shown[8] < 0.77 < shown[10]
    assert seeds_needed([0.1, 0.1]) is None and seeds_needed([0.1]) is None  # no spread, one seed
    assert seeds_needed([-1.0, 1.0001]) == MOST_SEEDS + 1


def test_images_needed_grow_with_the_square_of_the_width():
    assert images_needed(0.01, Interval(-0.01, 0.03), 360) == 360 * 4
    assert images_needed(-0.01, Interval(-0.03, 0.01), 360) == 360 * 4
    assert images_needed(0.0, Interval(-0.01, 0.01), 360) is None


# -- a whole comparison from finished runs -----------------------------------------------------------------------------


def record(label: str, seed: int, score: dict[str, float], **more) -> dict:
    known = {"label": label, "seed": seed, "status": "done", "commit": "abc", "threads": "1", "epochs": 4,
             "gpu_gb": None, "peak_bytes": 1e9, "epoch_seconds": 2.0 if label == "none" else 3.0, "train_seconds": 9.0,
             "metrics": dict.fromkeys(("AP75", "AR1", "AR10", "AR100"), 0.5) | score,
             "model": {"parameters": 10, "size_mb": 25.0, "gflops": 1.0}}  # fmt: skip
    return known | more


@pytest.fixture
def finished(comparison, tmp_path):
    """A copy of a comparison: methods, records, and its folder."""
    methods, records, folder = comparison
    shutil.copytree(folder / "runs", tmp_path / "runs")
    return deepcopy(methods), deepcopy(records), tmp_path


@pytest.fixture(scope="module")
def comparison(tmp_path_factory):
    """Two seeds of a student, of a better and a worse one, and of one that crashed."""
    tmp_path = tmp_path_factory.mktemp("comparison")
    errors, records = {"none": 6.0, "good": 2.0, "bad": 12.0}, {}
    for label, precise in errors.items():
        for seed in (0, 1):
            truths, found = scenes(7, 60, precise + 0.1 * seed)
            folder = tmp_path / "runs" / folder_name(label, seed)
            folder.mkdir(parents=True)
            save_boxes(folder / "boxes.npz", [f"{i}.png" for i in range(60)], truths, found)
            again = load_boxes(folder / "boxes.npz")
            score = coco_metrics(again[1], again[2], CLASSES)
            records[label, seed] = record(label, seed, {name: score[name] for name in ("mAP50", "mAP50-95")})
    crash = {"label": "gone", "status": "failed", "error": "no memory"}
    records |= {("gone", seed): crash | {"seed": seed} for seed in (0, 1)}
    return [Method(label, []) for label in (*errors, "gone")], records, tmp_path


@pytest.mark.long
def test_better_and_worse_detectors_are_told_apart(finished):
    methods, records, out = finished
    result = compare(methods, records, out, CLASSES, "none", 200)
    none, good, bad, gone = result["rows"]
    assert "verdict" not in none and good["verdict"] == HELPS and bad["verdict"] == HURTS
    assert gone["seeds"] == [] and gone["errors"] == ["seed 0: no memory", "seed 1: no memory"]
    for row in (good, bad):
        for name in ("mAP50", "mAP50-95"):
            one = row["difference"][name]
            want = [records[row["method"], s]["metrics"][name] - records["none", s]["metrics"][name] for s in (0, 1)]
            assert list(one["by_seed"].values()) == pytest.approx(want) and one["mean"] == pytest.approx(np.mean(want))
            assert one["over_images"][0] < one["mean"] < one["over_images"][1]
            assert one["over_seeds"] == pytest.approx([paired_t(want).low, paired_t(want).high])
    assert good["relative_epoch_seconds"] == 1.5 and good["peak_gb"] == 1.0
    assert any("WARNING: two seeds" in note for note in result["notes"])
    assert not any("not to be trusted" in note for note in result["notes"])


def test_the_bootstrap_is_paired(finished):
    """The same images are drawn for both detectors: their difference varies less than if each had its own."""
    methods, records, out = finished
    one = compare(methods, records, out, CLASSES, "none", 200)["rows"][1]["difference"]["mAP50-95"]
    own = []
    for label in ("none", "good"):
        _, truths, found = load_boxes(out / "runs" / f"{label}-s0" / "boxes.npz")
        matches = ap.match(truths, found, CLASSES)
        own.append(ap.average_precision(matches, ap.resamples(60, 200, seed=len(own) + 1)).mean(1))
    unpaired = percentile(own[1] - own[0])
    assert one["over_images"][1] - one["over_images"][0] < 0.8 * (unpaired.high - unpaired.low)


def test_what_would_settle_it_is_what_is_not_settled(finished, monkeypatch):
    """Two seeds that agree, and an interval over images that holds 0: more images are asked for, and no seeds."""
    methods, records, out = finished
    monkeypatch.setattr("benchmarks.harness.compare.percentile", lambda resampled: Interval(-0.5, 0.9))
    row = compare(methods, records, out, CLASSES, "none", 20)["rows"][1]
    one = row["difference"]["mAP50-95"]
    assert one["verdict"] == NOT_SHOWN and one["over_seeds"][0] > 0
    assert one["seeds_needed"] is None and one["images_needed"] > 60 and "seeds" not in said(row)
    one["seeds_needed"] = MOST_SEEDS + 1
    assert "would need more than 1,000 seeds and " in said(row)


def test_the_warning_names_the_rows_that_have_few_seeds(finished):
    methods, records, out = finished
    del records["bad", 1]
    notes = compare(methods, records, out, CLASSES, "none", 20)["notes"]
    assert any(note.startswith("Only one seed (bad): ") for note in notes)
    assert any(note.startswith("WARNING: two seeds (good). ") for note in notes)


def test_one_seed_shows_nothing(finished):
    methods, records, out = finished
    first = {key: value for key, value in records.items() if key[1] == 0}
    result = compare(methods, first, out, CLASSES, "none", 100)
    assert result["rows"][1]["verdict"] == NOT_SHOWN and result["rows"][1]["difference"]["mAP50"]["over_seeds"] is None
    assert any(note.startswith("Only one seed: ") for note in result["notes"])


def test_a_score_that_the_evaluator_does_not_confirm_is_told(finished):
    methods, records, out = finished
    records["good", 1]["metrics"]["mAP50"] += 0.002
    notes = compare(methods, records, out, CLASSES, "none", 20)["notes"]
    assert [note for note in notes if "good, seed 1: mAP50" in note and "not to be trusted" in note]


def test_runs_on_other_images_are_refused(finished):
    methods, records, out = finished
    truths, found = scenes(7, 59)
    save_boxes(out / "runs/good-s1/boxes.npz", [f"{i}.png" for i in range(59)], truths, found)
    with pytest.raises(UserError, match="good-s1: scored on other images than none-s0"):
        compare(methods, records, out, CLASSES, "none", 20)


@pytest.mark.long
def test_report_and_picture(finished):
    methods, records, out = finished
    result = compare(methods, records, out, CLASSES, "none", 50)
    facts = {"title": "s on d", "command": "python benchmarks/kd.py", "commit": "abc", "machine": "m", "date": "today",
             "baseline": "none", "protocol": "As written."}  # fmt: skip
    write(out, facts | result)
    text = (out / "results.md").read_text()
    good = next(line for line in text.splitlines() if line.startswith("| good | +"))
    assert good.endswith("| **HELPS** |") and f"{100 * result['rows'][1]['difference']['mAP50']['mean']:+.1f}" in good
    assert "| gone | 0 | - " in text and "* **gone**, seed 0: no memory" in text and "abc" in text
    assert {line.count("|") for line in text.splitlines() if line.startswith("| none")} == {13}
    assert json.loads((out / "results.json").read_text())["rows"][1]["verdict"] == HELPS
    assert plot(facts | result, out / "results.png") and (out / "results.png").stat().st_size > 10_000
    assert not plot(facts | {"rows": result["rows"][:1]}, out / "none.png")
