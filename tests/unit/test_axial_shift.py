"""FaultMLP's parts against eq. 1 in loops, at every size, and in ONNX."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from cfg import UserError
from models.blocks.axial_shift import AxialShift, FaultMLP, PatchEmbed, PatchReduce, shift
from models.blocks.mlp_fpn import TopDown
from models.detector import Detector

TABLE_I = ((64, 4), (128, 8), (256, 16), (512, 32))  # channels and stride of the four stages


def naive_shift(x: np.ndarray, dim: int, size: int, dilation: int) -> np.ndarray:
    """eq. 1's index arithmetic, cell by cell."""
    out = np.zeros_like(x)
    _images, channels, height, width = x.shape
    for c in range(channels):
        offset = (c // -(-channels // size) - size // 2) * dilation
        for i in range(height):
            for j in range(width):
                row, column = (i + offset, j) if dim == 2 else (i, j + offset)
                if 0 <= row < height and 0 <= column < width:
                    out[:, c, i, j] = x[:, c, row, column]
    return out


@pytest.mark.parametrize("channels", [5, 8, 13, 64])
@pytest.mark.parametrize(("size", "dilation"), [(1, 1), (3, 1), (5, 1), (5, 2), (4, 1), (9, 3)])
def test_shift_is_eq_1(channels, size, dilation):
    x = torch.randn(2, channels, 6, 7, dtype=torch.float64)
    for dim in (2, 3):
        assert np.array_equal(shift(x, dim, size, dilation).numpy(), naive_shift(x.numpy(), dim, size, dilation))


def test_shift_of_three_groups_by_hand():
    x = torch.arange(1.0, 4.0).view(1, 1, 1, 3).repeat(1, 3, 1, 1)  # each channel: 1 2 3
    assert shift(x, 3, 3).flatten(2)[0].tolist() == [[0, 1, 2], [1, 2, 3], [2, 3, 0]]
    assert shift(x, 2, 3).flatten(2)[0].tolist() == [[0, 0, 0], [1, 2, 3], [0, 0, 0]]


def gelu(x: np.ndarray) -> np.ndarray:
    return x * 0.5 * (1 + np.vectorize(math.erf)(x / np.sqrt(2)))


def norm(x: np.ndarray) -> np.ndarray:
    axes = (1, 2, 3)
    return (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + 1e-5)


def project(conv: torch.nn.Conv2d, x: np.ndarray) -> np.ndarray:
    weight, bias = conv.weight.detach().numpy()[:, :, 0, 0], conv.bias.detach().numpy()
    return np.einsum("oc,bchw->bohw", weight, x) + bias[:, None, None]


def test_axial_shift_is_the_published_formula():
    torch.manual_seed(0)
    layer, x = AxialShift(6, 3, 1).double(), torch.randn(2, 6, 4, 5, dtype=torch.float64)
    start = gelu(norm(project(layer.before[0], x.numpy())))
    across = gelu(project(layer.horizontal, naive_shift(start, 3, 3, 1)))
    down = gelu(project(layer.vertical, naive_shift(start, 2, 3, 1)))
    expected = project(layer.after[1], norm(across + down))
    np.testing.assert_allclose(layer(x).detach().numpy(), expected, atol=1e-10)


def test_a_cell_hears_its_axes_only():
    torch.manual_seed(0)
    layer, x = AxialShift(10, 5, 1).double().eval(), torch.randn(1, 10, 9, 9, dtype=torch.float64, requires_grad=True)
    for part in (layer.before[1], layer.after[0]):
        part.forward = lambda x: x  # the norms see the whole image
    layer(x)[0, :, 4, 4].sum().backward()
    heard = x.grad.abs().sum((0, 1)) > 0
    expected = torch.zeros(9, 9, dtype=torch.bool)
    expected[4, 2:7] = expected[2:7, 4] = True
    assert torch.equal(heard, expected)


@pytest.mark.parametrize("side", [(32, 32), (64, 96), (33, 70)])
def test_patches_are_concatenated(side):
    torch.manual_seed(0)
    layer, x = PatchEmbed(3, 7, 4), torch.randn(2, 3, *side)
    rows, columns = -(-side[0] // 4), -(-side[1] // 4)
    padded = torch.zeros(2, 3, rows * 4, columns * 4)
    padded[..., : side[0], : side[1]] = x
    patches = padded.view(2, 3, rows, 4, columns, 4).permute(0, 2, 4, 1, 3, 5).flatten(3)
    linear = patches @ layer.embed.weight.flatten(1).T + layer.embed.bias
    assert torch.allclose(layer(x), layer.norm(linear.permute(0, 3, 1, 2)), atol=1e-5)


def test_merging_joins_two_by_two():
    layer = PatchReduce(1, 4)
    torch.nn.init.dirac_(layer.reduce.weight)
    layer.norm = torch.nn.Identity()
    x = torch.arange(6.0).view(1, 1, 2, 3)  # 0 1 2 / 3 4 5, padded by a column of zeros
    assert layer(x)[0].flatten(1).T.tolist() == [[0, 3, 1, 4], [2, 5, 0, 0]]


def test_top_down_step_by_hand():
    layer = TopDown(1, 1)
    torch.nn.init.constant_(layer.lateral.weight, 2.0)
    torch.nn.init.constant_(layer.lateral.bias, 1.0)
    coarse, skip = torch.tensor([[[[10.0, 20.0]]]]), torch.arange(6.0).view(1, 1, 2, 3)
    assert layer([coarse, skip]).tolist() == [[[[11, 13, 25], [17, 19, 31]]]]


def test_published_stages():
    model = Detector("fault-mlp.yaml")
    stages = [layer for layer in model.model if isinstance(layer, FaultMLP)]
    found = []
    for layer in stages:
        layer.register_forward_hook(lambda layer, given, made: found.append((made.shape[1], 64 // made.shape[2])))
    model.eval()(torch.rand(1, 3, 64, 64))
    assert tuple(found) == TABLE_I
    assert all(len(layer.blocks) == 2 and layer.blocks[0].mix[1].size == 5 for layer in stages)
    # a block at C channels: four C x C projections, an MLP of ratio 4, and their norms and biases
    for layer, (c, _) in zip(stages, TABLE_I, strict=True):
        assert sum(p.numel() for p in layer.parameters()) == 2 * (12 * c * c + 9 * c + 8 * c)
    assert sum(p.numel() for p in model.parameters()) == 9_483_204


@pytest.mark.long
@pytest.mark.parametrize("channels", [256, 128, 64, 32, 16, 8])
def test_pyramid_widths_of_table_v(channels):
    model = Detector(f"sdd-5-{channels}.yaml")
    feats = model.eval()(torch.rand(1, 3, 64, 96))[1]["feats"]
    assert [tuple(f.shape[1:]) for f in feats] == [(channels, 64 // s, 96 // s) for s in (4, 8, 16, 32)]


@pytest.mark.parametrize("options", [{"shift": 0}, {"shift": 2.5}, {"dilation": 0}, {"mlp_ratio": 0}, {"shift": True}])
def test_bad_options(options):
    with pytest.raises(UserError, match=f"{next(iter(options))}: expected .*, got .*; "):
        FaultMLP(16, 1, **options)


@pytest.mark.long
def test_dynamic_export_is_exact(tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    small = {"nc": 2, "anchors": 2, "yaml_file": "small.yaml"}
    fine, coarse = [-1, 2, "FaultMLP", []], [-1, 1, "FaultMLP", [3, 2, 2]]
    small["backbone"] = [[-1, 1, "PatchEmbed", [24, 4]], fine, [-1, 1, "PatchReduce", [16]], coarse]  # groups of 5 and a last of 4
    pyramid = [[-1, 1, "Pointwise", [8]], [[-1, 1], 1, "TopDown", [8]]]
    small["head"] = [*pyramid, [[5, 4], 1, "AnchorDetect", ["nc", "anchors"]]]
    model = Detector(small).eval()
    model.head.export = True
    axes = {"x": {0: "b", 2: "h", 3: "w"}, "y": {0: "b", 2: "n"}}
    options = dict(input_names=["x"], output_names=["y"], dynamic_axes=axes, opset_version=17, dynamo=False)
    torch.onnx.export(model, (torch.rand(1, 3, 64, 64),), str(tmp_path / "m.onnx"), **options)
    session = runtime.InferenceSession(str(tmp_path / "m.onnx"), providers=["CPUExecutionProvider"])
    for size in ((1, 32, 32), (2, 96, 64), (1, 64, 160), (3, 32, 128)):
        x = torch.rand(size[0], 3, *size[1:])
        with torch.no_grad():
            expected = model(x).numpy()
        np.testing.assert_allclose(session.run(None, {"x": x.numpy()})[0], expected, atol=1e-3, rtol=1e-4)
