"""Swin blocks against a naive float64 reference, at every size and after a dynamic ONNX export."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from cfg import UserError
from models.blocks.swin import PatchMerging, Swin, SwinBlock, WindowAttention, from_windows, roll, to_windows, window_mask

SIZES = [(5, 5), (7, 7), (8, 8), (13, 9), (4, 12), (1, 1), (16, 3)]


def naive_attention(x: np.ndarray, layer: WindowAttention, window: int, shift: int) -> np.ndarray:
    """Attention output per cell of x (H, W, C): each cell looks at the cells of its shifted window that the image has."""
    height, width, channels = x.shape
    heads, size = layer.heads, channels // layer.heads
    weight, bias = layer.qkv.weight.detach().double().numpy(), layer.qkv.bias.detach().double().numpy()
    table = layer.position_bias.detach().double().numpy()
    qkv = (x @ weight.T + bias).reshape(height, width, 3, heads, size)
    out = np.zeros((height, width, heads, size))
    for r in range(height):
        for c in range(width):
            # Windows are cut from row and column -shift on: shifted windows stand `shift` further along the grid.
            near = [(i, j) for i in range(height) for j in range(width)
                    if (i - shift) // window == (r - shift) // window and (j - shift) // window == (c - shift) // window]
            for h in range(heads):
                logits = [qkv[r, c, 0, h] @ qkv[i, j, 1, h] / math.sqrt(size)
                          + table[(r - i + window - 1) * (2 * window - 1) + (c - j + window - 1), h] for i, j in near]
                weights = np.exp(np.array(logits) - max(logits))
                out[r, c, h] = sum(w * qkv[i, j, 2, h] for w, (i, j) in zip(weights / weights.sum(), near))
    mixed = out.reshape(height, width, channels)
    return mixed @ layer.out.weight.detach().double().numpy().T + layer.out.bias.detach().double().numpy()


def naive_block(x_nhwc: torch.Tensor, block: SwinBlock) -> torch.Tensor:
    """The whole block, image by image."""
    double = x_nhwc.double()
    normed = nn.functional.layer_norm(double, double.shape[-1:], block.norm1.weight.double(), block.norm1.bias.double())
    mixed = [naive_attention(n.detach().numpy(), block.attention, block.window, block.shift) for n in normed]
    double = double + torch.from_numpy(np.stack(mixed))
    mlp = nn.Sequential(*block.mlp).double()
    second = block.norm2
    result = double + mlp(nn.functional.layer_norm(double, double.shape[-1:], second.weight.double(), second.bias.double()))
    block.mlp.float()
    return result


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("shift", [0, 2])
def test_block_equals_the_naive_reference(size: tuple[int, int], shift: int) -> None:
    torch.manual_seed(0)
    block = SwinBlock(channels=8, heads=2, window=4, shift=shift, mlp_ratio=2.0).eval()
    nn.init.normal_(block.attention.position_bias, std=1.0)
    x = torch.randn(2, *size, 8)
    with torch.no_grad():
        assert torch.allclose(block(x).double(), naive_block(x, block), atol=2e-5)


def test_shifted_windows_look_across_plain_ones() -> None:
    torch.manual_seed(0)
    x = torch.randn(1, 8, 8, 8)
    changed = x.clone()
    changed[0, 4, 4] += 1  # first cell of the last plain window of 4 x 4
    for shift, reaches in ((0, False), (2, True)):
        block = SwinBlock(8, 2, 4, shift, 2.0).eval()
        with torch.no_grad():
            assert torch.equal(block(x)[0, 3, 3], block(changed)[0, 3, 3]) != reaches


def test_first_and_last_cells_stay_apart_when_the_grid_is_rolled() -> None:
    block = SwinBlock(8, 2, 4, 2, 2.0).eval()
    x = torch.randn(1, 8, 8, 8)
    changed = x.clone()
    changed[0, 7, 7] += 1
    with torch.no_grad():
        assert torch.equal(block(x)[0, 0, 0], block(changed)[0, 0, 0])


def test_relative_position_bias_is_used() -> None:
    torch.manual_seed(0)
    layer = WindowAttention(4, 1, 2)
    nn.init.zeros_(layer.qkv.weight)
    nn.init.zeros_(layer.qkv.bias)
    nn.init.zeros_(layer.out.bias)
    layer.qkv.weight.data[8:] = torch.eye(4)  # values = input; all logits 0
    layer.out.weight.data = torch.eye(4)
    nn.init.zeros_(layer.position_bias)
    layer.position_bias.data[4] = math.log(3)  # offset (0, 0): a cell weighs itself 3 times as much as others
    x = torch.eye(4).view(1, 1, 4, 4)  # one window of 2 x 2 cells
    with torch.no_grad():
        out = layer(x, torch.zeros(1, 1, 4, 4))[0, 0]
    assert torch.allclose(out, (torch.ones(4, 4) + 2 * torch.eye(4)) / 6)
    layer.position_bias.data[4] = 0
    layer.position_bias.data[5] = math.log(3)  # offset (0, +1): the cell to the left, as seen from the right one
    with torch.no_grad():
        out = layer(x, torch.zeros(1, 1, 4, 4))[0, 0]
    assert torch.allclose(out[1], torch.tensor([3.0, 1.0, 1.0, 1.0]) / 6)
    assert torch.allclose(out[0], torch.full((4,), 0.25))


def test_windows_and_back() -> None:
    x = torch.arange(2 * 8 * 12 * 3.0).view(2, 8, 12, 3)
    windows = to_windows(x, 4)
    assert windows.shape == (2, 6, 16, 3)
    assert torch.equal(windows[0, 1, 0], x[0, 0, 4]) and torch.equal(windows[0, 3, 5], x[0, 5, 1])
    assert torch.equal(from_windows(windows, 4, 8, 12), x)
    assert torch.equal(roll(x, 3), torch.roll(x, (-3, -3), (1, 2))) and roll(x, 0) is x


def test_mask_of_a_padded_unshifted_grid_hides_the_padding() -> None:
    mask = window_mask(1, 2, (2, 2), 2, 0, torch.zeros(1))[0, 0]  # cells: image image / padding padding
    hidden = mask < 0
    assert hidden.tolist() == [[False, False, True, True]] * 2 + [[True, True, False, False]] * 2


def test_shifts_alternate_and_wrong_widths_are_refused() -> None:
    assert [b.shift for b in Swin(32, 4, window=6).blocks] == [0, 3, 0, 3]
    with pytest.raises(UserError, match="divisible by head_channels 32, got 40"):
        Swin(40, 2)


def test_patch_merging_takes_four_neighbours_and_pads_odd_sides() -> None:
    merge = PatchMerging(1, 4)
    merge.norm = nn.Identity()
    merge.reduce.weight.data = torch.eye(4)
    x = torch.arange(6.0).view(1, 1, 2, 3)  # 0 1 2 / 3 4 5
    out = merge(x)
    assert out.shape == (1, 4, 1, 2)
    assert out[0, :, 0, 0].tolist() == [0, 3, 1, 4] and out[0, :, 0, 1].tolist() == [2, 5, 0, 0]


@pytest.mark.long
@pytest.mark.parametrize("window", [4, 7])
def test_dynamic_onnx_export_is_exact_at_every_size(tmp_path: Path, window: int) -> None:
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnx")
    torch.manual_seed(0)
    model = Swin(8, 2, window=window, head_channels=4).eval()
    for block in model.blocks:
        nn.init.normal_(block.attention.position_bias, std=1.0)
    path = tmp_path / "swin.onnx"
    axes = {"x": {0: "batch", 2: "height", 3: "width"}, "y": {0: "batch", 2: "height", 3: "width"}}
    torch.onnx.export(
        model, torch.randn(1, 8, 16, 16), str(path), input_names=["x"], output_names=["y"], dynamic_axes=axes,
        opset_version=17, dynamo=False,
    )  # fmt: skip
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    for batch, (height, width) in zip((1, 2, 1, 2, 1), [(5, 5), (7, 7), (8, 8), (13, 9), (20, 14)]):
        x = torch.randn(batch, 8, height, width)
        with torch.no_grad():
            expected = model(x).numpy()
        np.testing.assert_allclose(session.run(None, {"x": x.numpy()})[0], expected, atol=2e-5)


def test_patch_merging_beside_a_conv_is_their_sum() -> None:
    from models.blocks.swin import MergeConv

    block = MergeConv(8, 16).eval()
    x = torch.randn(2, 8, 7, 10)
    assert block(x).shape == (2, 16, 4, 5) and torch.equal(block(x), block.conv(x) + block.merge(x))
