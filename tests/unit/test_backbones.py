"""torchvision's backbones as a row, pyramids, coordinate attention: strides, names, and formulas by hand."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from torchvision.models import get_model

import models.environment  # noqa: F401  (before ultralytics)
from cfg import UserError
from models.blocks.backbones import NETWORKS, Backbone
from models.blocks.fpn import FPN
from models.blocks.hkn import HKN, CoordinateAttention
from models.detector import Detector
from models.parser import build


def description(backbone: list, *rows: list) -> dict:
    return {"nc": 2, "yaml_file": "test.yaml", "backbone": [backbone], "head": list(rows)}


# -- backbones ----------------------------------------------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.parametrize("name", list(NETWORKS))
def test_strides_and_channels_are_those_promised(name: str) -> None:
    taps = NETWORKS[name].taps
    levels = Backbone(name, tuple(taps)).eval()(torch.rand(1, 3, 96, 64))
    assert [x.shape[1] for x in levels] == [channels for _, channels in taps.values()]
    assert [tuple(x.shape[2:]) for x in levels] == [(96 // s, 64 // s) for s in taps]


def test_features_are_torchvisions() -> None:
    torch.manual_seed(0)
    whole = get_model("resnet18", weights=None).eval()
    ours = Backbone("resnet18", (8, 32)).eval()
    ours.load_state_dict({k: v for k, v in whole.state_dict().items() if not k.startswith("fc.")})
    images = torch.rand(2, 3, 64, 64)
    x = whole.maxpool(whole.relu(whole.bn1(whole.conv1(images))))
    stride8 = whole.layer2(whole.layer1(x))
    got = ours(images)
    assert torch.equal(got[0], stride8) and torch.equal(got[1], whole.layer4(whole.layer3(stride8)))


@pytest.mark.parametrize("name", ["mobilenet_v2", "mobilenet_v3_small", "shufflenet_v2_x0_5"])
def test_imagenet_weights_fit_by_name(name: str) -> None:
    theirs = get_model(name, weights=None).state_dict()
    ours = Backbone(name, (8, 16, 32)).state_dict()
    assert ours and all(key in theirs and theirs[key].shape == value.shape for key, value in ours.items())


def test_batch_norms_stay_as_imagenet_weights_want_them() -> None:
    rows = [[-1, 1, "FPN", [8, 3]], *([1, 1, "Level", [i]] for i in range(3)), [[2, 3, 4], 1, "GFLDetect", ["nc", "hkh"]]]
    model = Detector(description([-1, 1, "Backbone", ["resnet18", [8, 16, 32]]], *rows))
    assert (model.model[0].bn1.eps, model.model[0].bn1.momentum) == (1e-5, 0.1)
    large = Backbone("mobilenet_v3_large", (8, 16)).features[0][1]
    assert (large.eps, large.momentum) == (1e-3, 0.01)  # torchvision's own for this one


def test_layers_beyond_the_last_stride_are_left_out() -> None:
    assert not any(name.startswith("layer3") for name, _ in Backbone("resnet18", (4, 8)).named_parameters())


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["resnet81"], "unknown network 'resnet81'; did you mean"),
        (["resnet18", [8]], "at least two strides"),
        (["resnet18", [8, 64]], "at least two strides"),
        (["resnet18", [16, 8]], "in rising order"),
        ([], "expected arguments"),
    ],
)
def test_wrong_backbone_rows(args: list, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(description([-1, 1, "Backbone", args], [-1, 1, "Level", [0]]))


# -- rows with several outputs ------------------------------------------------------------------------------------------

BACKBONE = [-1, 1, "Backbone", ["shufflenet_v2_x0_5", [8, 16, 32]]]


def test_rows_of_a_pyramid() -> None:
    rows = [[-1, 1, "HKN", [16, 5]], *([1, 1, "Level", [i]] for i in range(5)), [[2, 3, 4, 5, 6], 1, "GFLDetect", ["nc", "hkh"]]]
    layers, kept = build(description(BACKBONE, *rows))
    assert layers[-1].stride.tolist() == [8, 16, 32, 64, 128] and {1, 2, 3, 4, 5, 6} <= set(kept)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([[[0, 0], 1, "FPN", [16]]], r"row 0 has 3 outputs; pick one with a row \[0, 1, Level, \[0\]\]"),
        ([[-1, 1, "Conv", [16]]], "takes one input, got 3"),
        ([[-1, 1, "Level", [3]]], "one of 3 levels, 0 to 2, got 3"),
        ([[-1, 1, "Level", [1]], [-1, 1, "Level", [0]]], "reads a row with several outputs"),
        ([[-1, 1, "FPN", [16, 2]]], "at least as many levels as inputs"),
        ([[-1, 1, "FPN", [16, 7]]], "strides go up to 256"),
    ],
)
def test_wrong_rows_around_several_outputs(rows: list, message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(description(BACKBONE, *rows, [[-1], 1, "GFLDetect", ["nc"]]))


# -- pyramids -----------------------------------------------------------------------------------------------------------


def maps(channels: tuple[int, ...] = (4, 6, 8), rows: int = 4, columns: int = 3) -> list[torch.Tensor]:
    torch.manual_seed(1)
    factors = [2 ** (len(channels) - 1 - i) for i in range(len(channels))]
    return [torch.randn(2, c, rows * f, columns * f) for c, f in zip(channels, factors)]


def test_fpn_by_hand() -> None:
    torch.manual_seed(0)
    pyramid, (a, b, c) = FPN((4, 6, 8), 5, 5), maps()
    laterals = [m(x) for m, x in zip(pyramid.laterals, (a, b, c))]
    middle = laterals[1] + laterals[2].repeat_interleave(2, 2).repeat_interleave(2, 3)
    fine = laterals[0] + middle.repeat_interleave(2, 2).repeat_interleave(2, 3)
    out = [m(x) for m, x in zip(pyramid.outputs, (fine, middle, laterals[2]))]
    out.append(pyramid.coarser[0](out[2]))
    out.append(pyramid.coarser[1](out[3]))
    got = pyramid([a, b, c])
    assert all(torch.allclose(x, y, atol=1e-6) for x, y in zip(got, out, strict=True))
    assert [tuple(x.shape[2:]) for x in got] == [(16, 12), (8, 6), (4, 3), (2, 2), (1, 1)]


def test_a_finer_grid_with_odd_sides() -> None:
    assert FPN((4, 6), 5, 2)([torch.randn(1, 4, 5, 7), torch.randn(1, 6, 3, 4)])[0].shape == (1, 5, 5, 7)


def test_hkn_uses_its_attention() -> None:
    neck, given = HKN((4, 6, 8), 8, 5).eval(), maps()
    before = neck(given)
    for lateral in neck.laterals:
        nn.init.constant_(lateral[1].rows.bias, -50.0)  # all gates shut
    shut = neck(given)
    assert all(not torch.allclose(a, b) for a, b in zip(before, shut))
    silent = [m(torch.zeros(2, 8, 8, 8)) for m in neck.outputs]
    assert torch.allclose(shut[0][..., 7, 5], silent[0][..., 4, 4], atol=1e-6)
    assert [(m[0].kernel_size, m[0].groups) for m in neck.outputs] == [((7, 7), 8)] * 3


def test_coordinate_attention_written_out() -> None:
    torch.manual_seed(0)
    block = CoordinateAttention(32).double().eval()
    nn.init.normal_(block.squeeze[1].running_mean)
    x = torch.randn(2, 32, 3, 5, dtype=torch.float64)
    norm = block.squeeze[1]

    def squeezed(pooled: torch.Tensor) -> torch.Tensor:  # (C,) -> (hidden,)
        y = (block.squeeze[0].weight[:, :, 0, 0] @ pooled - norm.running_mean) / (norm.running_var + norm.eps).sqrt()
        y = y * norm.weight + norm.bias
        return y * (y + 3).clamp(0, 6) / 6

    def gate(conv: nn.Conv2d, pooled: torch.Tensor) -> torch.Tensor:
        return torch.sigmoid(conv.weight[:, :, 0, 0] @ squeezed(pooled) + conv.bias)

    got = block(x)
    for n in range(2):
        for i in range(3):
            for j in range(5):
                row = gate(block.rows, sum(x[n, :, i, k] for k in range(5)) / 5)
                column = gate(block.columns, sum(x[n, :, k, j] for k in range(3)) / 3)
                assert torch.allclose(got[n, :, i, j], x[n, :, i, j] * row * column, atol=1e-12)
    assert block.squeeze[0].out_channels == 8 and CoordinateAttention(256).squeeze[0].out_channels == 16


def test_coordinate_attention_transposes_with_its_input() -> None:
    block, x = CoordinateAttention(8).eval(), torch.randn(1, 8, 4, 6)
    swapped = copy.deepcopy(block)
    swapped.rows, swapped.columns = block.columns, block.rows
    assert torch.allclose(block(x).transpose(2, 3), swapped(x.transpose(2, 3)), atol=1e-6)
