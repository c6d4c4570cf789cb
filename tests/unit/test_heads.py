"""Anchor heads: decoding worked out by hand, styles that agree in shape, export flags."""

from __future__ import annotations

import math
from copy import deepcopy

import pytest
import torch
from torch import nn

import models.environment  # noqa: F401  (before ultralytics)
from cfg import UserError
from models.blocks.attention import CBAM, DualAttention, NoAttention
from models.detector import Detector
from models.heads.anchor import AnchorDetect, DecoupledBranches
from models.heads.gfl import GFLDetect

CHANNELS, STRIDES, ANCHORS = (4, 8), (8, 16), [[10, 20, 30, 40], [50, 60, 70, 80]]
STYLES = [("coupled",), ("decoupled",), ("decoupled", "dual"), ("decoupled", "cbam", 16, 1)]


def head(*style: object, nc: int = 3) -> AnchorDetect:
    torch.manual_seed(0)
    return AnchorDetect(nc, ANCHORS, CHANNELS, STRIDES, *style).eval()


def features() -> list[torch.Tensor]:
    return [torch.randn(2, 4, 6, 4), torch.randn(2, 8, 3, 2)]


def logit(p: float) -> float:
    return math.log(p / (1 - p))


def test_one_cell_decoded_by_hand() -> None:
    preds = [torch.full((1, 2, 6, 4, 8), -9.0), torch.full((1, 2, 3, 2, 8), -9.0)]
    # Level 1 (stride 16), anchor 1 (70 x 80), row 2, column 1.
    preds[1][0, 1, 2, 1] = torch.tensor([logit(p) for p in (0.5, 0.75, 0.25, 0.5, 0.9, 0.1, 0.8, 0.5)])
    y = head("coupled").decode(preds)
    assert y.shape == (1, 7, 2 * (24 + 6))
    position = 2 * 24 + 1 * 6 + 2 * 2 + 1  # level 0, then anchor 0 of level 1, then rows of anchor 1
    # x = (2 * 0.5 - 0.5 + 1) * 16, y = (2 * 0.75 - 0.5 + 2) * 16, w = (2 * 0.25)^2 * 70, h = (2 * 0.5)^2 * 80
    expected = [24.0, 48.0, 17.5, 80.0, 0.9 * 0.1, 0.9 * 0.8, 0.9 * 0.5]
    assert torch.allclose(y[0, :, position], torch.tensor(expected), atol=1e-4)
    assert y[0, 4:].argmax() % y.shape[2] == position


def test_order_of_predictions_is_level_anchor_row_column() -> None:
    preds = [torch.zeros(1, 2, 6, 4, 8), torch.zeros(1, 2, 3, 2, 8)]
    y = head("coupled").decode(preds)[0]  # sigmoid 1/2: centres in the middle of the cells, sizes those of the anchors
    assert y[:4, 0].tolist() == [4, 4, 10, 20] and y[:4, 1].tolist() == [12, 4, 10, 20]
    assert y[:4, 4].tolist() == [4, 12, 10, 20] and y[:4, 24].tolist() == [4, 4, 30, 40]
    assert y[:4, -1].tolist() == [24, 40, 70, 80]
    assert torch.equal(y[4:], torch.full((3, 60), 0.25))


def test_corners_where_they_are_asked_for() -> None:
    module, given = head("coupled"), features()
    xywh = module(given)[0]
    module.xyxy = True
    xyxy = module(given)[0]
    assert torch.allclose((xyxy[:, :2] + xyxy[:, 2:4]) / 2, xywh[:, :2], atol=1e-3)
    assert torch.allclose(xyxy[:, 2:4] - xyxy[:, :2], xywh[:, 2:4], atol=1e-3)
    assert torch.equal(xyxy[:, 4:], xywh[:, 4:])
    assert not AnchorDetect.xyxy


@pytest.mark.parametrize("style", STYLES, ids=["-".join(map(str, s)) for s in STYLES])
def test_every_style_gives_the_same_shapes(style: tuple) -> None:
    module = head(*style)
    y, raw = module(features())
    assert y.shape == (2, 7, 60) and [tuple(p.shape) for p in raw["preds"]] == [(2, 2, 6, 4, 8), (2, 2, 3, 2, 8)]
    assert module.train()(features()).keys() == {"preds", "feats"}
    module.eval().export = True
    assert module(features()).shape == (2, 7, 60)


def test_coupled_logits_are_yolov5s() -> None:
    module, given = head("coupled"), features()
    raw = module(given)[1]["preds"][0]
    by_hand = nn.functional.conv2d(given[0], module.m[0].weight, module.m[0].bias)  # (B, na * no, H, W)
    assert torch.allclose(raw[1, 1, 5, 2], by_hand[1, 8:, 5, 2], atol=1e-6)


def test_decoupled_branches_are_told_apart() -> None:
    branch = DecoupledBranches(4, 4, 1, nc=3, anchors=2, attention="dual").eval()
    nn.init.zeros_(branch.class_out.weight)
    branch.class_out.bias.data = torch.arange(6.0) + 100  # classes of anchor 0: 100 ... 102, of anchor 1: 103 ... 105
    nn.init.zeros_(branch.box_out.weight)
    branch.box_out.bias.data = torch.arange(10.0)
    out = branch(torch.randn(1, 4, 2, 2))[0, :, 0, 0]
    assert out.tolist() == [0, 1, 2, 3, 4, 100, 101, 102, 5, 6, 7, 8, 9, 103, 104, 105]


def test_attention_stands_in_the_classification_branch_alone() -> None:
    for kind, part in (("dual", DualAttention), ("cbam", CBAM), ("none", NoAttention)):
        branch = DecoupledBranches(8, 8, 1, 3, 2, kind)
        assert isinstance(branch.classes[-1], part)
        assert not any(isinstance(m, (DualAttention, CBAM)) for m in branch.regression.modules())
    branch = DecoupledBranches(8, 8, 1, 3, 2, "dual").eval()
    branch.classes[-1].residual = False
    nn.init.constant_(branch.classes[-1].channel[-1].bias, -50.0)  # both gates shut
    nn.init.constant_(branch.classes[-1].spatial[-1].bias, -50.0)
    shut = branch(torch.randn(1, 8, 3, 3)).view(2, 8, 3, 3)
    assert torch.allclose(shut[:, 5:], branch.class_out.bias.view(2, 3, 1, 1).expand(2, 3, 3, 3), atol=1e-5)
    assert shut[:, :5].std() > 0


def test_hidden_width_is_capped() -> None:
    module = AnchorDetect(3, ANCHORS, (4, 64), STRIDES, "decoupled", "none", 16, 2)
    assert [b.stem.conv.out_channels for b in module.m] == [4, 16] and len(module.m[0].regression) == 2


@pytest.mark.parametrize("style", ["coupled", "decoupled"])
def test_heads_start_with_rare_objects(style: str) -> None:
    module = head(style)
    for branch, stride in zip(module.m, STRIDES):
        objectness = (branch.bias if style == "coupled" else branch.box_out.bias).view(2, -1)[:, 4]
        assert objectness.detach().mean() == pytest.approx(math.log(8 / (640 / stride) ** 2), abs=0.6)
        assert objectness.max() < -3.5
        classes = branch.bias.view(2, -1)[:, 5:] if style == "coupled" else branch.class_out.bias.view(2, -1)
        assert classes.detach().mean() == pytest.approx(math.log(0.6 / (3 - 0.99999)), abs=0.6)


def test_one_class_starts_finite() -> None:
    module = head("decoupled", nc=1)
    assert all(torch.isfinite(p).all() for p in module.parameters())


def test_anchors_of_the_yaml() -> None:
    assert head("coupled").anchor_wh.tolist() == [[[10, 20], [30, 40]], [[50, 60], [70, 80]]]
    assert "anchor_wh" in head("coupled").state_dict()
    squares = AnchorDetect(3, 3, CHANNELS, STRIDES).anchor_wh
    assert squares.tolist() == [[[16, 16], [32, 32], [48, 48]], [[32, 32], [64, 64], [96, 96]]]
    with pytest.raises(UserError, match=r"anchors for 2 levels \(strides \[8, 16\]\), got 1 rows"):
        AnchorDetect(3, [[1, 2]], CHANNELS, STRIDES)
    with pytest.raises(UserError, match="unknown head style 'decupled'.*did you mean 'decoupled'"):
        head("decupled")


@pytest.mark.parametrize("move", [deepcopy, lambda m: m.double(), lambda m: m.half(), lambda m: m.to("meta")])
def test_strides_stay_with_a_model_that_is_copied_or_moved(move) -> None:
    model = move(Detector("yolov5n.yaml", nc=2))
    assert model.head.pixels_per_cell == (8.0, 16.0, 32.0) and model.head.stride.shape == (3,)
    model.head.stride = torch.tensor([4.0, 8.0, 16.0])
    assert model.head.pixels_per_cell == (4.0, 8.0, 16.0), "two numbers for one thing"


@pytest.mark.long
def test_compiled_it_is_one_graph() -> None:
    """torch.compile splits a network where Python looks at a tensor's content; `fullgraph` refuses to.

    A whole detector of the blocks of S, with decoupled branches; the coupled head of YOLOv5 and the head with box distributions alone.
    """
    convs = [[-1, 1, "Conv", [8, 3, 2]], [-1, 1, "Conv", [16, 3, 2]], [-1, 1, "C3", [16]], [-1, 1, "Conv", [32, 3, 2]]]
    neck = [[-1, 1, "Swin", [4, 16, 2]], [-1, 1, "SPP", [32, [5, 9, 13]]], [[-1, 2], 1, "BlockN", [16, "dual", "skip"]],
            [[-1, 5], 1, "BlockN", [32, "dual", "skip"]]]  # fmt: skip
    rows = [*neck, [[6, 7], 1, "AnchorDetect", ["nc", 2, "decoupled", "none", 8, 1]]]
    fast = Detector({"nc": 2, "backbone": convs, "head": rows, "yaml_file": "small.yaml"}).eval().fuse(verbose=False)
    shared = GFLDetect(3, CHANNELS, STRIDES, hidden=8).eval()
    for module, given in ((fast, torch.rand(1, 3, 64, 64)), (head("coupled"), features()), (shared, features())):
        torch._dynamo.reset()
        with torch.inference_mode():
            compiled = torch.compile(module, fullgraph=True, backend="eager")(given)
            assert torch.allclose(compiled[0], module(given)[0], atol=1e-4)
    torch._dynamo.reset()


def test_half_precision_decodes_in_float32_outside_export() -> None:
    preds = [p.half() for p in head("coupled")(features())[1]["preds"]]
    assert head("coupled").decode(preds).dtype == torch.float32
    module = head("coupled")
    module.export = True
    assert module.decode(preds).dtype == torch.float16


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"alpah": 0.3}, "mine.yaml: loss: expected options among alpha, beta, gains, anchor_ratio, score, got 'alpah'; did you mean"),
        ({"alpha": "high"}, "mine.yaml: loss: alpha: expected a number from 0 to 1, got 'high'"),
        ({"anchor_ratio": True}, "anchor_ratio: expected a number above 1, got True"),
        ({"gains": {"box": float("inf")}}, "mine.yaml: loss: gains: expected box to be a number"),
        (3, "mine.yaml: loss: expected options by name"),
    ],
)
def test_loss_section_of_a_model_yaml(section: object, message: str) -> None:
    rows = {"nc": 2, "backbone": [[-1, 1, "Conv", [8, 3, 2]]], "head": [[[0], 1, "AnchorDetect", ["nc", 1]]]}
    with pytest.raises(UserError, match=message):
        Detector(rows | {"loss": section, "yaml_file": "mine.yaml"})
