"""Decision plans: what is read back is what was written, and what is wrong is told in one line."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from cfg import UserError
from inspection.plan import ClassRule, ModelFile, Plan, Promise, Regions, Tiling
from inspection.plan_file import load_plan, plan_from_json, plan_json, save_plan

NAMES = ("scratch", "pit")
FULL = Plan(
    names=("scratch", "yes", "1.0"),  # YAML would read the last two as True and as a number
    rules=(
        ClassRule(0.4, review=0.123456789012, severity="critical", min_length_mm=0.5, min_area_mm2=0.25, max_count=2),
        ClassRule(0.25), ClassRule(severity="none"),
    ),
    mm_per_pixel=0.05,
    regions=Regions("pixels", look_at=(((0, 0), (50, 0), (50, 40)),), width=64, height=48),
    tiling=Tiling(640, 0.25),
    ng_images="by_rules",
    model=ModelFile("ab" * 32, "onnx-int8", imgsz=640, iou=0.45),
    promise=Promise(0.01, 0.95, "joint", "part", 473, 100, 1, 1, 5, 2, (0.01, 0.12), data="d.yaml", date="2026-11-26"),
)  # fmt: skip


def write(folder: Path, text: str) -> Path:
    path = folder / "decision.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_what_was_written_is_read_back(tmp_path):
    save_plan(tmp_path / "decision.yaml", FULL)
    assert load_plan(tmp_path / "decision.yaml") == FULL
    assert load_plan(tmp_path / "decision.yaml", dict(enumerate(FULL.names))) == FULL
    assert [p.name for p in tmp_path.iterdir()] == ["decision.yaml"]


def test_embedded_text_is_one_line_and_read_back():
    assert "\n" not in plan_json(FULL)
    assert plan_from_json(plan_json(FULL), "best.pt") == FULL


def test_a_plan_by_hand_gives_what_it_leaves_out_its_default(tmp_path):
    plan = load_plan(write(tmp_path, "classes:\n  pit: {min_length_mm: 1}\nmm_per_pixel: 0.1\n"), NAMES)
    assert plan.rules == (ClassRule(), ClassRule(min_length_mm=1.0))
    assert not plan.complete and plan.promise is None and plan.regions == Regions()


def test_limits_by_class(tmp_path):
    plan = load_plan(write(tmp_path, "classes: {scratch: {threshold: .5, review: .2}, pit: {severity: none, threshold: .1}}"))
    assert plan.thresholds.tolist() == [0.5, float("inf")] and plan.review_limits.tolist() == [0.2, float("inf")]
    assert plan.complete and plan.lowest == 0.2
    assert not replace(plan, rules=(ClassRule(), ClassRule(0.1))).complete


BAD = [
    ("classes: {scrach: {threshold: 0.5}}", "expected classes of the model (scratch, pit), got 'scrach'; did you mean 'scratch'?"),
    ("classes: {pit: {min_length_cm: 3}}", "got 'min_length_cm'; did you mean 'min_length_mm'?"),
    ("clases: {}", "got 'clases'; did you mean 'classes'?"),
    ("classes: {pit: {threshold: 1.5}}", "pit: threshold: expected a number greater than 0 and at most 1, got '1.5'"),
    ("classes: {pit: {threshold: 0}}", "pit: threshold: expected a number greater than 0"),
    ("classes: {pit: {threshold: high}}", "pit: threshold: expected a number"),
    ("classes: {pit: {threshold: nan}}", "pit: threshold: expected a number"),
    ("classes: {pit: {threshold: 0.3, review: 0.3}}", "pit: review: expected a score below the class's threshold, got 0.3"),
    ("classes: {pit: {review: 0.3}}", "got 0.3 beside no threshold"),
    ("classes: {pit: {severity: bad}}", "pit: severity: expected critical or major or minor or none, got 'bad'"),
    ("classes: {pit: {max_count: 1.5}}", "pit: max_count: expected a whole number"),
    ("classes: {pit: {max_count: -1}}", "pit: max_count: expected a number of at least 0"),
    ("classes: {pit: 0.5}", "pit: expected key: value lines, got '0.5'"),
    ("classes: {pit: {min_area_mm2: 1}}", "expected mm_per_pixel beside rules in mm"),
    ("classes: {pit: {severity: none}, scratch: {severity: none}}", "expected a class that counts"),
    ("mm_per_pixel: 0", "mm_per_pixel: expected a number greater than 0"),
    ("regions: {unit: mm, look_at: []}", "regions: unit: expected pixels or relative, got 'mm'"),
    ("regions: {look_at: [[[0, 0], [2, 0], [1, 1]]]}", "look_at: polygon 1: expected corners inside the image (0 to 1, 0 to 1), got [2, 0]"),
    ("regions: {unit: pixels, width: 9, height: 9, leave_out: [[[0, 0], [5, 0], [5, 10]]]}", "(0 to 9, 0 to 9), got [5, 10]"),
    ("regions: {unit: pixels, look_at: []}", "expected width and height of the image beside unit: pixels"),
    ("regions: {width: 9}", "with unit: pixels only"),
    ("regions: {look_at: [[[0, 0], [1, 1]]]}", "expected at least three corners"),
    ("regions: {look_at: [[[0, 0], [0.3, 0.3], [0.9, 0.9]]]}", "polygon 1: expected corners around an area, got all of them on one line"),
    ("regions: {look_at: 3}", "expected a list of polygons"),
    ("tiling: {size: 640, overlap: 1}", "overlap: expected a number of at least 0 and at most 0.9, got '1'"),
    ("tiling: {size: 16}", "tiling: size: expected a number of at least 32, got '16'"),
    ("tiling: {overlap: 0.1}", "tiling: size: expected a number"),
    ("ng_images: all", "ng_images: expected any_label or by_rules, got 'all'"),
    ("names: [pit, scratch]", "expected the classes of the model (scratch, pit), got a plan for pit, scratch"),
    ("version: 9", "version: expected 1 or older, got 9"),
    ("model: {kind: onnx}", "model: expected sha256, got none"),
    ("promise: {max_escape: 0.01}", "promise: expected confidence, got none"),
    ("- 3", "expected a YAML mapping"),
    ("classes: {pit: [", "not valid YAML"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "message"), BAD, ids=[text[:40] for text, _ in BAD])
def test_what_is_wrong_is_told_in_one_line(tmp_path, text, message):
    with pytest.raises(UserError) as told:
        load_plan(write(tmp_path, text), NAMES)
    assert message in str(told.value) and "decision.yaml" in str(told.value) and "\n" not in str(told.value)


def test_a_plan_that_cannot_be_written_leaves_nothing(tmp_path):
    (tmp_path / "decision.yaml").mkdir()
    with pytest.raises(UserError, match="cannot be written"):
        save_plan(tmp_path / "decision.yaml", FULL)
    assert [p.name for p in tmp_path.iterdir()] == ["decision.yaml"]


def test_text_that_is_no_plan():
    with pytest.raises(UserError, match="expected a decision plan as JSON"):
        plan_from_json("{", "best.onnx")
