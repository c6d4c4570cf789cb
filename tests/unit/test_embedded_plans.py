"""Plans inside weights: read back, without a trace in what the model computes or in its digest; others' plans are refused."""

from __future__ import annotations

import ast
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import models.environment  # noqa: F401  (before ultralytics)
from cfg import UserError
from engine.checkpoint import read, save_student
from engine.decision.plans import check_embeddable, embed, find_plan, read_embedded
from engine.detection.options import DetectOptions
from inspection.belonging import MOST_BOXES, Settings, as_chosen, check_owner
from inspection.identity import identify
from inspection.plan import ClassRule, ModelFile, Plan, Promise, Tiling
from inspection.plan_file import plan_from_json, rules_digest, save_plan
from inspection.report.page import promise_lines
from tests.flow.tiny import NAMES, save_tiny, stock_detector

RULES = (ClassRule(0.4, review=0.125), ClassRule(0.3), ClassRule(0.2))
PLAN = Plan(tuple(NAMES.values()), RULES)


@pytest.fixture(scope="module")
def exported(tmp_path_factory) -> dict[str, Path]:
    from engine.export.export_check import ExportOptions
    from engine.export.exporter import export

    folder = tmp_path_factory.mktemp("weights")
    weights = {"pytorch": save_tiny(folder / "best.pt")}
    options = ExportOptions(weights=str(weights["pytorch"]), format="onnx,openvino,torchscript", check=False, simplify=False)
    files, _ = export(options)
    return weights | dict(zip(("onnx", "openvino", "torchscript"), files, strict=True))


PROMISE = Promise(0.01, 0.95, "joint", "image", 300, 100, 0, 0, 1, 0, (0.0, 0.05), rules=rules_digest(PLAN))


def signed(weights: Path) -> Plan:
    return replace(PLAN, model=identify(weights, imgsz=64, iou=0.45), promise=PROMISE)


@pytest.mark.long
@pytest.mark.parametrize("kind", ["pytorch", "onnx", "openvino"])
def test_a_plan_travels_inside_the_weights(exported, kind, capsys):
    weights = exported[kind]
    before = identify(weights)
    plan = signed(weights)
    for made in (PLAN, plan):  # the second in the place of the first
        embed(weights, made)
        assert identify(weights) == before and before.kind == kind
        assert plan_from_json(read_embedded(weights), "weights") == made
    check_embeddable(weights)
    assert find_plan(weights, None, NAMES) == plan
    assert capsys.readouterr().err == ""
    assert not [p for p in weights.parent.iterdir() if p.name.startswith(".")]


def test_the_runtimes_still_read_the_weights(exported):
    import onnx
    import openvino

    embed(exported["onnx"], PLAN)
    model = onnx.load(exported["onnx"])
    onnx.checker.check_model(model)
    entries = {entry.key: entry.value for entry in model.metadata_props}
    assert plan_from_json(entries["tandem_decision"], "") == PLAN and ast.literal_eval(entries["names"]) == NAMES
    embed(exported["openvino"], PLAN)
    network = openvino.Core().read_model(next(exported["openvino"].glob("*.xml")))
    assert network.get_rt_info(["model_info", "confidence_threshold"]).astype(float) == 0.125
    assert plan_from_json(network.get_rt_info(["model_info", "tandem_decision"]).astype(str), "") == PLAN


@pytest.mark.long
def test_what_is_computed_is_the_same(exported):
    from engine.weights import open_backend

    image = torch.from_numpy(np.random.default_rng(0).random((1, 3, 64, 64), dtype=np.float32))
    for kind in ("pytorch", "onnx", "openvino"):
        before = open_backend(exported[kind], torch.device("cpu"))[0](image)
        embed(exported[kind], PLAN)
        after = open_backend(exported[kind], torch.device("cpu"))[0](image)
        pairs = [(a, b) for a, b in zip(before, after, strict=True) if isinstance(a, torch.Tensor)] if isinstance(before, (list, tuple)) \
            else [(before, after)]  # fmt: skip
        assert pairs and all(torch.equal(a, b) for a, b in pairs)


def test_every_form_of_a_model_and_every_training_has_a_digest_of_its_own(exported, tmp_path):
    digests = {identify(path).sha256 for path in exported.values()}
    other = stock_detector()
    with torch.no_grad():
        next(other.parameters()).add_(1e-3)
    save_student(tmp_path / "other.pt", other, {})
    assert len(digests | {identify(tmp_path / "other.pt").sha256}) == 5


def test_a_plan_for_another_file_is_refused(exported, tmp_path):
    save_plan(tmp_path / "decision.yaml", signed(exported["onnx"]))
    assert find_plan(exported["onnx"], str(tmp_path / "decision.yaml"), NAMES) is not None
    for kind in ("pytorch", "openvino", "torchscript"):
        with pytest.raises(UserError, match=rf"expected a plan for .*\({kind}, .* got one for another file \(onnx, "):
            find_plan(exported[kind], str(tmp_path / "decision.yaml"), NAMES)
    with pytest.raises(UserError, match="belongs to another model"):
        find_plan(exported["onnx"], str(tmp_path / "decision.yaml"), {0: "a", 1: "b", 2: "c"})


def test_what_a_plan_no_longer_promises_is_said(exported, tmp_path, capsys):
    plan = signed(exported["onnx"])
    save_plan(tmp_path / "decision.yaml", replace(plan, rules=(ClassRule(0.5), *RULES[1:])))
    find_plan(exported["onnx"], str(tmp_path / "decision.yaml"), NAMES)
    assert "changed by hand" in capsys.readouterr().err
    save_plan(tmp_path / "decision.yaml", PLAN)
    find_plan(exported["onnx"], str(tmp_path / "decision.yaml"), NAMES)
    assert "nothing is promised" in capsys.readouterr().err


def test_a_plan_without_thresholds_is_refused(exported, tmp_path):
    save_plan(tmp_path / "decision.yaml", Plan(PLAN.names, (ClassRule(),) * 3))
    with pytest.raises(UserError, match="expected a threshold for every class that counts"):
        find_plan(exported["onnx"], str(tmp_path / "decision.yaml"), NAMES)


def test_weights_without_a_plan(exported, tmp_path):
    assert find_plan(save_tiny(tmp_path / "best.pt"), None, NAMES) is None
    assert find_plan(exported["torchscript"], None, NAMES) is None
    with pytest.raises(UserError, match="--embed: expected a .pt of Tandem"):
        check_embeddable(exported["torchscript"])


def test_damaged_files(tmp_path):
    (tmp_path / "a.onnx").write_bytes(b"\x0f nothing")
    with pytest.raises(UserError, match="damaged file"):
        identify(tmp_path / "a.onnx")
    with pytest.raises(UserError, match="expected a model that can be read"):
        embed(tmp_path / "a.onnx", PLAN)
    assert (tmp_path / "a.onnx").read_bytes() == b"\x0f nothing" and read_embedded(tmp_path / "a.onnx") is None


def test_embedding_keeps_a_checkpoint_as_it_is(exported):
    embed(exported["pytorch"], PLAN)
    content = read(exported["pytorch"])
    assert content["meta"]["train_args"]["imgsz"] == 64 and set(content) >= {"yaml", "state", "names"}
    assert check_owner(signed(exported["pytorch"]), identify(exported["pytorch"]), "", exported["pytorch"]) is None


def test_a_plan_brings_its_settings(capsys) -> None:
    plan = replace(PLAN, model=ModelFile("pytorch", "1", imgsz=96, iou=0.45, precision="fp32"), tiling=Tiling(640, 0.35))
    for asked in (Settings(), Settings(tile=640), Settings(overlap=0.35), Settings(imgsz=[96], iou=0.45, precision="fp32", max_det=MOST_BOXES)):
        used, doubts = as_chosen(plan, asked)
        assert (used.imgsz, used.iou, used.tile, used.overlap) == ([96], 0.45, 640, 0.35) and doubts == ()
    assert capsys.readouterr().err == "" and DetectOptions("w", []).max_det == MOST_BOXES


@pytest.mark.parametrize(("asked", "words"), [
    (Settings(imgsz=[64]), "--imgsz [64]: the plan's thresholds were chosen at [96]"), (Settings(iou=0.7), "--iou 0.7: "),
    (Settings(precision="half"), "--precision half: "), (Settings(tile=320), "--tile 320: the plan's thresholds were chosen at 640"),
    (Settings(tile=640, overlap=0.2), "--overlap 0.2: the plan's thresholds were chosen at 0.35"),
    (Settings(max_det=2), "--max-det 2: the plan's thresholds were chosen at 300"),
    (Settings(agnostic_nms=True), "--agnostic-nms: the plan's thresholds were chosen without it"),
])  # fmt: skip
def test_settings_under_which_the_promise_does_not_hold(asked: Settings, words: str, capsys) -> None:
    """They are told, and so does the report; a report also says what was changed by hand."""
    model = ModelFile("pytorch", "1", imgsz=96, iou=0.45, precision="fp32")
    plan = replace(PLAN, model=model, tiling=Tiling(640, 0.35))
    plan = replace(plan, promise=replace(PROMISE, rules=rules_digest(plan)))
    _, (doubt,) = as_chosen(plan, asked)
    assert doubt.startswith(words) and doubt.endswith("its promise does not hold here") and capsys.readouterr().err == f"{doubt}\n"
    assert promise_lines(plan)[0] == "With 95 % confidence, at most 1 % of NG images pass as OK."
    assert promise_lines(plan, [doubt]) == ["No escape rate is promised here.", doubt]
    changed = replace(plan, rules=(ClassRule(0.99), *plan.rules[1:]))
    assert promise_lines(changed) == ["No escape rate is promised here.", "The plan was changed by hand since its thresholds were chosen."]
