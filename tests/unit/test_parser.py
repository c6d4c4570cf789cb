"""From YAML rows to layers: what is built, and what a mistake is told."""

from __future__ import annotations

import sys
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

sys.path.insert(0, str(Path(__file__).parents[1] / "contract"))
from small import description

from cfg import UserError
from distill.networks import attention_of, spec_of
from models.detector import Detector
from models.parser import build, read_model, scaler


def changed(**keys: Any) -> dict[str, Any]:
    return description() | keys


def row(section: str, index: int, value: Any) -> dict[str, Any]:
    rows = deepcopy(description())
    rows[section][index] = value
    return rows


# -- sizes of the paper's models ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name, megabytes, strides", [
    ("t-model.yaml", 81.6, [4, 8, 16, 32, 64, 128]),
    ("s-model.yaml", 25.1, [4, 8, 16, 32]),
])
@pytest.mark.long
def test_models_have_the_papers_size_and_heads(name: str, megabytes: float, strides: list[int]) -> None:
    model = Detector(name, nc=6)
    assert sum(p.numel() for p in model.parameters()) * 4 / 1e6 == pytest.approx(megabytes, rel=0.05)
    assert model.stride.tolist() == strides == model.head.stride.tolist()
    assert len(model.head.m) == len(strides)
    assert set(model.level_attention()) == set(range(len(strides)))


def test_yolov5_has_the_size_that_yolov5_prints() -> None:
    assert sum(p.numel() for p in Detector("yolov5n.yaml").parameters()) == 1_872_157
    assert sum(p.numel() for p in Detector("yolov5s.yaml").parameters()) == 7_235_389


def test_the_other_reading_of_six_heads_builds_from_yaml_alone() -> None:
    backbone = [[-1, 1, "Conv", [8, 3, 2]] for _ in range(5)]  # strides 2 ... 32, rows 0 ... 4
    neck = [
        [[-1, 3], 1, "BlockN", [8, "dual"]],  # 5, stride 16
        [[-1, 2], 1, "BlockN", [8, "dual"]],  # 6, stride 8
        [[-1, 5], 1, "BlockN", [16, "dual"]],  # 7, stride 16
        [[-1, 4], 1, "BlockN", [16, "dual"]],  # 8, stride 32
        [4, 1, "Attention", ["dual"]],  # 9, stride 32 of the top-down tower
    ]
    rows = neck + [[[6, 5, 9, 6, 7, 8], 1, "AnchorDetect", ["nc", 3, "decoupled", "dual", 8, 1]]]
    model = Detector({"nc": 2, "backbone": backbone, "head": rows})
    assert model.stride.tolist() == [8, 16, 32, 8, 16, 32]
    spec = spec_of(model, "both towers")
    assert list(spec.levels) == ["p3", "p4", "p5", "p3b", "p4b", "p5b"]
    assert len(attention_of(model)) == 6 and [level.channels for level in spec.levels.values()] == [8, 8, 8, 8, 16, 16]
    with torch.no_grad():
        y, _ = model.eval()(torch.zeros(1, 3, 64, 64))
    assert y.shape == (1, 6, 3 * 2 * (64 + 16 + 4))


# -- substitution, scaling, base ----------------------------------------------------------------------------------------


def test_rows_may_use_the_keys_of_the_yaml() -> None:
    rows = changed(tower="Last", kind="none", wide=24)
    rows["head"][0] = [[-1, 1], 1, "BlockN", ["wide", "kind"]]
    rows["head"][1] = [[-1, 2], 1, "tower", [1]]
    model = Detector(rows)
    assert model.model[3].mix.cv3.conv.out_channels == 24 and type(model.model[4]).__name__ == "Last"


def test_attention_is_found_behind_a_tower_that_was_left_out() -> None:
    rows = description()
    rows["head"] = [rows["head"][0], [[2, 3], 1, "Last", []], [[4, 2], 1, "AnchorDetect", ["nc", "anchors"]]]
    model = Detector(rows)
    assert model.level_attention() == {0: model.model[3].attention}


def test_attention_is_found_where_a_head_names_its_level_from_the_end() -> None:
    rows = description()
    rows["head"][2][0] = [3, -1]
    model = Detector(rows)
    assert model.level_attention() == {0: model.model[3].attention, 1: model.model[4].attention}


def test_width_and_depth() -> None:
    scale = scaler(0.5)
    assert [scale(c) for c in (64, 48, 20, 4)] == [32, 24, 16, 8]
    assert scaler(1.0)(12) == 16 and scaler(1.0, divisor=4)(12) == 12
    rows = row("backbone", 2, [-1, 6, "C3", [16]])
    rows["head"] = [[[1, 2], 1, "AnchorDetect", ["nc", [[9, 9], [9, 9]]]]]
    assert len(Detector(rows | {"depth_multiple": 0.5}).model[2].m) == 3
    assert len(Detector(rows | {"depth_multiple": 0.01}).model[2].m) == 1


def test_base_is_merged_and_overridden(tmp_path: Path) -> None:
    (tmp_path / "parent.yaml").write_text(yaml.safe_dump(description()))
    (tmp_path / "child.yaml").write_text("base: parent.yaml\nnc: 5\n")
    (tmp_path / "grandchild.yaml").write_text("base: child.yaml\nwidth_multiple: 2.0\n")
    model = Detector(tmp_path / "grandchild.yaml")
    assert model.nc == 5 and model.yaml["yaml_file"] == "grandchild.yaml" and "base" not in model.yaml
    assert model.model[0].conv.out_channels == 16


# -- mistakes: file, row, nearest name ----------------------------------------------------------------------------------


@pytest.mark.parametrize("rows, message", [
    (row("backbone", 1, [-1, 1, "Convv", [8, 3, 2]]), r"small.yaml, row 1 \(Convv\): unknown block 'Convv'; did you mean 'Conv'"),
    (row("backbone", 1, [-1, 1, "Swim", [8]]), r"row 1 \(Swim\): unknown block 'Swim'; did you mean 'Swin'"),
    (row("backbone", 1, [-1, 1, "Conv", [8, 3, 2, 1, 1, 1, True, "extra", 5]]), r"small.yaml, row 1 \(Conv\): .*arguments"),
    (row("backbone", 1, [-1, 1, "Conv", []]), r"row 1 \(Conv\): expected arguments \[channels, ...\], got \[\]"),
    (row("backbone", 1, [-1, 1, "Conv", ["wide", 3, 2]]), r"row 1 \(Conv\): expected a positive number of channels.*'wide'"),
    (row("head", 0, [[-1, 1], 1, "BlockN", ["wide"]]), r"row 3 \(BlockN\): expected a positive number of channels.*'wide'"),
    (row("head", 0, [[-1, 1], 1, "BlockN", [8, "daul"]]), r"row 3 \(BlockN\): unknown attention 'daul'.*did you mean 'dual'"),
    (row("head", 0, [[0, 1], 1, "Concat", []]), r"row 3 \(Concat\): inputs must share one stride, got strides \[2, 4\]"),
    (row("head", 0, [[0, 1], 1, "Conv", [8]]), r"row 3 \(Conv\): takes one input, got 2"),
    (row("backbone", 1, [-1, 1, "Swin", [8]]), r"row 1 \(Swin\): expected channels divisible by head_channels 32, got 8"),
    (row("backbone", 1, [7, 1, "Conv", [8, 3, 2]]), r"small.yaml, row 1 \(Conv\): 'from' must name an earlier row .* got 7"),
    (row("backbone", 1, [-2, 1, "Conv", [8, 3, 2]]), r"small.yaml, row 1 \(Conv\): 'from' must name an earlier row .* got -2"),
    (row("backbone", 1, ["a", 1, "Conv", [8]]), r"row 1 \(Conv\): 'from' must name an earlier row.*'a'"),
    (row("backbone", 1, [-1, 1, "Conv"]), r"small.yaml, row 1: expected \[from, repeats, block, \[args\]\], got"),
    (row("backbone", 1, [-1, 0, "Conv", [8]]), r"row 1: expected repeats as a whole number from 1 to 1000, got 0"),
    (row("backbone", 1, [-1, 99999999, "Conv", [8]]), r"row 1: expected repeats as a whole number from 1 to 1000, got 99999999"),
    (row("backbone", 1, [-1, 1, ["Conv"], [8]]), r"row 1: expected the name of a block in third place, got \['Conv'\]"),
    (row("head", 2, [-1, 1, "Conv", [8]]), r"row 5 \(Conv\): the last row must be a head \(AnchorDetect.*got a block"),
    (row("head", 2, [1, 1, "AnchorDetect", ["nc", "anchors"]]), r"row 5 \(AnchorDetect\): a head reads a list of levels"),
    (row("head", 0, [[1, 2], 1, "AnchorDetect", ["nc", "anchors"]]), r"row 3 \(AnchorDetect\): a head must be the last row"),
    (row("head", 2, [[3, 4], 1, "AnchorDetct", ["nc", "anchors"]]), r"row 5 \(AnchorDetct\): unknown head.*did you mean 'AnchorDetect'"),
    (row("head", 2, [[3, 4], 1, "AnchorDetect", ["nc"]]), r"row 5 \(AnchorDetect\): expected arguments \[nc, anchors"),
    (row("backbone", 1, [-1, 1, "Swin", [32, 0]]), r"row 1 \(Swin\): ZeroDivisionError integer modulo by zero"),
    (changed(anchors=[[8, 8]]), r"row 5 .*expected anchors for 2 levels \(strides \[4, 8\]\), got 1 rows"),
    (changed(anchors="large"), r"row 5 .*expected anchors to be rows of pixels or their number per level, got 'large'"),
    (changed(nc="six"), r"row 5 .*expected nc to be a number of classes above 0, got 'six'"),
    (changed(width_multiple="half"), r"small.yaml: expected width_multiple to be a number above 0, got 'half'"),
    (changed(depth_multiple=float("nan")), r"small.yaml: expected depth_multiple to be a number above 0, got nan"),
    (changed(divisor=0.5), r"small.yaml: expected divisor to be a whole number of at least 1, got 0.5"),
    (changed(depth_multiple=1e6) | {"backbone": [[-1, 2, "Conv", [8, 3, 2]]]}, r"row 0 \(Conv\): expected at most 1000 repeats, got 2 times"),
    (changed(anchors=[[8, -8], [16, 16]]), r"row 5 .*expected anchors of widths and heights above 0"),
    (changed(anchors=[[8, 8], [16, float("inf")]]), r"row 5 .*expected anchors of widths and heights above 0"),
    (changed(nc=True), r"row 5 .*expected nc to be a number of classes above 0, got True"),
    (row("head", 0, [[], 1, "Concat", []]), r"row 3 \(Concat\): 'from' names no row"),
    (row("head", 2, [[3, 4], 1, "AnchorDetect", ["nc", "anchors", "coupled", "daul"]]), r"row 5 .*unknown attention 'daul'.*did you mean 'dual'"),
    (row("head", 2, [[3, 4], 1, "AnchorDetect", ["nc", "anchors", "decoupled", "none", -8]]), r"row 5 .*expected hidden to be a whole number"),
    (row("backbone", 1, [-1, 1, "Conv", [8, 2]]), r"row 1 \(Conv\): expected a stride by which 256 can be divided.*grid of 129 x 129 cells"),
    (row("backbone", 1, [-1, 1, "Conv", [8, 3, 3]]), r"row 1 \(Conv\): expected a stride by which 256 can be divided"),
    (changed(head=[]), r"small.yaml: expected a list of rows under 'head:', got \[\]"),
    (changed(backbone="Conv"), r"small.yaml: expected a list of rows under 'backbone:', got 'Conv'"),
])  # fmt: skip
def test_a_mistake_names_file_row_and_fix(rows: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message) as error:
        build(read_model(rows))
    assert "\n" not in str(error.value)


def test_options_of_a_loss_are_checked_when_the_model_is_built() -> None:
    with pytest.raises(UserError, match=r"small.yaml: loss: gains: expected balance to have 2 numbers .one per level., got 3"):
        Detector(changed(loss={"gains": {"balance": [4, 1, 0.4]}}))
    for loss, message in (({"gains": 3}, "gains: expected gains by name"), ({1: 2}, "expected options among .* got '1'")):
        with pytest.raises(UserError, match=f"small.yaml: loss: {message}"):
            Detector(changed(loss=loss))


def test_a_grid_of_one_cell_gets_no_coarser() -> None:
    down = [[-1, 1, "Conv", [8, 3, 2]]] * 8
    head = [[[6, -1], 1, "AnchorDetect", ["nc", 1]]]
    layers, _ = build(read_model({"nc": 2, "backbone": [*down, [-1, 1, "Conv", [8, 3, 1]]], "head": head}))
    assert layers[-1].stride.tolist() == [128, 256]
    message = r"row 8 \(Conv\): strides go up to 256"
    with pytest.raises(UserError, match=message):
        build(read_model({"nc": 2, "backbone": [*down, down[0]], "head": head}))


def test_channels_that_differ_from_the_promise_name_the_row(monkeypatch: pytest.MonkeyPatch) -> None:
    from models.blocks.fusion import WeightedFusion
    from models.rules import Plan

    monkeypatch.setattr(WeightedFusion, "rule", staticmethod(lambda site: Plan(99, (site.channels, site.strides))))
    with pytest.raises(UserError, match=r"row 3 \(WeightedFusion\): promised 99 output channels, gives 8"):
        build(read_model(row("head", 0, [[1, 0], 1, "WeightedFusion", []])))


def test_a_base_that_leads_back_to_itself(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("base: b.yaml\n")
    (tmp_path / "b.yaml").write_text("base: a.yaml\n")
    with pytest.raises(UserError, match=r"a.yaml: its 'base' leads back to itself"):
        read_model(tmp_path / "a.yaml")


@pytest.mark.parametrize(("text", "message"), [
    ("base: s-model.yaml\ndepth_mutiple: 3\n", "a.yaml: 'depth_mutiple' is used by no row; did you mean 'depth_multiple'"),
    ("base: s-model.yaml\natention: cbam\n", "a.yaml: 'atention' is used by no row; did you mean 'attention'"),
    ("base:\n", "expected 'base' to name a model YAML as s-model.yaml, got None"),
    ("base: 3\n", "expected 'base' to name a model YAML as s-model.yaml, got 3"),
])  # fmt: skip
def test_a_key_that_nothing_reads_and_a_base_without_a_name(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.yaml").write_text(text)
    with pytest.raises(UserError, match=message):
        read_model(tmp_path / "a.yaml")


def test_a_base_or_file_that_is_not_there(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("base: t-modl.yaml\n")
    with pytest.raises(UserError, match="'t-modl.yaml' not found.*did you mean 't-model.yaml'"):
        read_model(tmp_path / "a.yaml")
    with pytest.raises(UserError, match="not found"):
        Detector("s-modle.yaml")
    (tmp_path / "broken.yaml").write_text("nc: [1\n")
    with pytest.raises(UserError, match="broken.yaml: not valid YAML"):
        Detector(tmp_path / "broken.yaml")


def test_names_must_fit_the_classes() -> None:
    assert Detector(description(), nc=3, names={0: "a", 1: "b", 2: "c"}).names[2] == "c"
    with pytest.raises(UserError, match="expected 3 class names, got 1"):
        Detector(description(), nc=3, names={0: "a"})
