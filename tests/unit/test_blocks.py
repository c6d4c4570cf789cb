"""Fusion (eq. 1), dual attention (eqs. 2-4, 9), CBAM and block-N, with numbers worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

import models.environment  # noqa: F401  (before ultralytics)
from cfg import UserError
from models.blocks import BLOCKS
from models.blocks.attention import CBAM, Attention, DualAttention, NoAttention, make_attention
from models.blocks.fusion import Reshape, WeightedFusion
from models.blocks.host import Concat, Conv, First, Last, Upsample
from models.blocks.neck import BlockN
from models.detector import Detector
from models.rules import Site


def site(channels: tuple[int, ...], strides: tuple[int, ...], *args: object, repeats: int = 1) -> Site:
    return Site(channels, strides, repeats, args, scale=lambda c: c)


def sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


# -- weighted residual fusion -------------------------------------------------------------------------------------------


def pass_through(stage: Reshape, factor: float) -> None:
    """Make a stage of one channel multiply by `factor`: the 3x3 conv takes the cell itself."""
    nn.init.zeros_(stage.shrink.weight)
    stage.shrink.weight.data[0, 0, 1, 1] = 1
    nn.init.zeros_(stage.shrink.bias)
    nn.init.constant_(stage.mix.weight, factor)
    nn.init.zeros_(stage.mix.bias)


def test_fusion_is_eq_1() -> None:
    fusion = WeightedFusion((1, 1, 1), (2, 1, 4))
    for stage, factor in zip(fusion.stages, (1.0, 10.0, 100.0)):
        pass_through(stage, factor)
    fusion.logits.data = torch.tensor([0.0, math.log(2), math.log(5)])  # softmax: 1/8, 2/8, 5/8
    fusion.out = nn.Identity()  # f, tested by its effect below
    target = torch.tensor([[1.0, 2.0], [3.0, 4.0]]).view(1, 1, 2, 2)
    fine = torch.arange(16.0).view(1, 1, 4, 4)  # strided by 2: cells 0 2 / 8 10
    coarse = torch.full((1, 1, 1, 1), 0.08)  # enlarged to every cell
    fused = fusion([target, fine, coarse])[0, 0]
    # 1 + (1/8) 1 + (2/8) 10 * 0 + (5/8) 100 * 0.08 = 6.125, and so on
    expected = [[1 + 0.125 + 0 + 5, 2 + 0.25 + 5 + 5], [3 + 0.375 + 20 + 5, 4 + 0.5 + 25 + 5]]
    assert torch.allclose(fused, torch.tensor(expected))


def test_fusion_weights_are_a_softmax_that_learns() -> None:
    fusion = WeightedFusion((4, 8), (8, 4))
    assert fusion.logits.softmax(0).tolist() == [0.5, 0.5]
    fusion([torch.rand(2, 4, 3, 3), torch.rand(2, 8, 6, 6)]).sum().backward()
    assert fusion.logits.grad.abs().sum() > 0
    assert fusion.logits.grad.sum().abs() < 1e-4 * fusion.logits.grad.abs().sum() + 1e-6  # a softmax: only shares count


@pytest.mark.parametrize("size", [(4, 4), (5, 7), (1, 3)])
def test_fusion_fits_odd_grids(size: tuple[int, int]) -> None:
    height, width = size
    fusion = WeightedFusion((4, 2), (32, 4)).eval()
    out = fusion([torch.rand(1, 4, height, width), torch.rand(1, 2, height * 8, width * 8)])
    assert out.shape == (1, 4, height, width)


def test_first_and_last_take_the_place_of_fusion_and_block_n() -> None:
    features = [torch.rand(1, 3, 2, 2), torch.rand(1, 5, 4, 4)]
    assert First()(features) is features[0] and Last()(features) is features[1]
    assert First()(features[0]) is features[0]
    assert First.rule(site((3, 5), (8, 4))).out_channels == 3 and Last.rule(site((3, 5), (8, 4))).out_channels == 5


# -- dual attention -----------------------------------------------------------------------------------------------------


def conv(x: np.ndarray, layer: nn.Conv2d) -> np.ndarray:
    """A convolution of x (C, H, W) in float64 by loops, zero outside the grid."""
    weight = layer.weight.detach().double().numpy()
    dilation, padding = layer.dilation[0], layer.padding[0]
    _, height, width = x.shape
    out = np.zeros((len(weight), height, width))
    for o, r, c in np.ndindex(out.shape):
        for i, j in np.ndindex(weight.shape[2:]):
            row, column = r + i * dilation - padding, c + j * dilation - padding
            if 0 <= row < height and 0 <= column < width:
                out[o, r, c] += weight[o, :, i, j] @ x[:, row, column]
    return out + (layer.bias.detach().double().numpy()[:, None, None] if layer.bias is not None else 0)


def norm(x: np.ndarray, layer: nn.BatchNorm2d) -> np.ndarray:
    parts = (layer.running_mean, layer.running_var, layer.weight, layer.bias)
    mean, variance, scale, shift = (p.detach().double().numpy()[:, None, None] for p in parts)
    return (x - mean) / np.sqrt(variance + layer.eps) * scale + shift


def woken(module: nn.Module) -> nn.Module:
    random = torch.Generator().manual_seed(0)
    for tensor in (*module.parameters(), *module.buffers()):
        if tensor.is_floating_point():
            tensor.data = torch.rand(tensor.shape, generator=random) * 0.8 + 0.1 - (0.4 if tensor.ndim == 4 else 0)
    return module.eval()


def test_dual_attention_is_eqs_2_to_4() -> None:
    module = woken(DualAttention(32))
    features = torch.randn(2, 32, 6, 5, generator=torch.Generator().manual_seed(1))
    first, squeeze, _, expand, last, channel_norm = module.channel
    dilated, to_one, spatial_norm = module.spatial
    assert squeeze.out_channels == 4 and dilated.dilation == to_one.dilation == (4, 4)
    with torch.no_grad():
        channel_map, spatial_map, attended, out = (
            f(features).double().numpy() for f in (module.channel_map, module.spatial_map, module.attend, module)
        )
    for image, x in enumerate(features.double().numpy()):
        hidden = np.maximum(conv(conv(x, first), squeeze), 0)
        m_c = sigmoid(norm(conv(conv(hidden, expand), last), channel_norm))  # eq. 2
        m_s = sigmoid(norm(conv(conv(x, dilated), to_one), spatial_norm))  # eq. 3
        np.testing.assert_allclose(channel_map[image], m_c, atol=1e-5)
        np.testing.assert_allclose(spatial_map[image], m_s, atol=1e-5)
        np.testing.assert_allclose(attended[image], (m_c + m_s) * x, atol=1e-5)  # eqs. 4 and 9
        np.testing.assert_allclose(out[image], x + (m_c + m_s) * x, atol=1e-5)  # Fig. 7: with the residual path


def test_attend_of_eq_9_has_no_residual_whatever_the_module_returns() -> None:
    features = torch.randn(1, 16, 4, 4)
    module = woken(DualAttention(16, residual=False))
    assert torch.equal(module(features), module.attend(features))
    module.residual = True
    assert torch.allclose(module(features) - features, module.attend(features), atol=1e-6)


@pytest.mark.parametrize("channels", [8, 64])
def test_dual_attention_folded_is_the_same_function(channels: int) -> None:
    module = woken(DualAttention(channels)).eval()
    x = torch.randn(2, channels, 9, 7)
    with torch.no_grad():
        before = module(x)
        module.fold()
        module.fold()  # nothing is left to fold
        assert len(module.channel) == 3 and torch.allclose(module(x), before, atol=1e-5)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in module.modules())


def test_a_fused_detector_has_no_attention_left_to_fold() -> None:
    detector = Detector("s-model-fast.yaml").eval()
    x = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        before = detector(x)[0]
        after = detector.fuse(verbose=False)(x)[0]
    assert torch.allclose(after, before, atol=1e-3, rtol=1e-4)
    folded = [m for m in detector.modules() if isinstance(m, DualAttention)]
    assert folded and all(len(m.channel) == 3 for m in folded)



def test_closed_gates_by_hand() -> None:
    module = DualAttention(8).eval()
    for parameter in module.parameters():
        nn.init.zeros_(parameter)  # all maps are sigmoid(0) = 1/2, so M(F) = F and F + M(F) = 2 F
    features = torch.randn(1, 8, 3, 3)
    assert torch.allclose(module.attend(features), features) and torch.allclose(module(features), 2 * features)


def test_cbam_gates_channels_then_positions() -> None:
    module = CBAM(4).eval()
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    features = torch.randn(2, 4, 5, 5)
    assert torch.allclose(module(features), features / 4)  # two gates of 1/2
    module.spatial.weight.data[0, 1, 3, 3] = 1.0  # the position's own channel maximum
    expected = features / 2 * (features / 2).amax(1, keepdim=True).sigmoid()
    assert torch.allclose(module(features), expected)


def test_the_attention_slot() -> None:
    assert isinstance(Attention(8).attention, DualAttention) and isinstance(Attention(8, "cbam").attention, CBAM)
    features = torch.rand(1, 8, 2, 2)
    assert NoAttention(8)(features) is features
    with pytest.raises(UserError, match="unknown attention 'daul'.*did you mean 'dual'"):
        make_attention("daul", 8)


# -- block-N, resampling ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("strides, grid", [((16, 8), (4, 4)), ((4, 8), (16, 16))])
def test_block_n_goes_up_and_down_by_its_strides(strides: tuple[int, int], grid: tuple[int, int]) -> None:
    plan = BlockN.rule(site((6, 10), strides, 16, "none", repeats=2))
    block = BlockN(*plan.args).eval()
    assert plan.out_channels == 16 and len(block.mix.m) == 2
    features = [torch.rand(1, 6, *grid), torch.rand(1, 10, 8, 8)]
    out = block(features)
    assert out.shape == (1, 16, 8, 8)
    assert torch.equal(out, block.mix(torch.cat((block.resample(features[0]), features[1]), 1)))


def test_block_n_ends_with_its_attention() -> None:
    plan = BlockN.rule(site((6, 10), (16, 8), 16, "dual"))
    block = BlockN(*plan.args).eval()
    features = [torch.rand(1, 6, 4, 4), torch.rand(1, 10, 8, 8)]
    mixed = block.mix(torch.cat((block.resample(features[0]), features[1]), 1))
    assert isinstance(block.attention, DualAttention)
    assert torch.allclose(block(features), mixed + block.attention.attend(mixed))


@pytest.mark.parametrize("channels, strides, resampled", [
    ((10, 10), (16, 8), Upsample), ((6, 10), (16, 8), nn.Sequential), ((6, 10), (4, 8), Conv),
])  # fmt: skip
def test_block_n_may_join_its_skip_at_the_skip_s_width(channels: tuple[int, ...], strides: tuple[int, ...], resampled: type) -> None:
    """As in YOLOv5's neck: an input that has the skip's channels already is enlarged as it is."""
    plan = BlockN.rule(site((*channels, 99), (*strides, 8), 16, "none", "skip"))  # a third input is not read
    block = BlockN(*plan.args).eval()
    side = 8 * 8 // strides[0]
    features = [torch.rand(1, channels[0], side, side), torch.rand(1, 10, 8, 8), torch.rand(1, 99, 8, 8)]
    moved = block.resample(features[0])
    assert type(block.resample) is resampled and moved.shape == (1, 10, 8, 8)
    assert torch.equal(block(features), block.mix(torch.cat((moved, features[1]), 1)))
    assert Last()(features) is features[2]
    with pytest.raises(UserError, match="expected resampled to be out or skip, got 'skp'; did you mean 'skip'"):
        BlockN(*plan.args[:-1], "skp")


def test_block_n_of_earlier_checkpoints_has_the_tensors_it_had() -> None:
    names = set(BlockN(6, 10, 16, 1, True, "none").state_dict()), set(BlockN(6, 10, 16, 1, False, "none").state_dict())
    assert "resample.0.conv.weight" in names[0] and "resample.conv.weight" in names[1]
    assert len(names[0]) == len(names[1]) == 6 + 30


@pytest.mark.parametrize("channels, strides, message", [
    ((6, 10), (32, 8), "one level from its skip, got strides 32 and 8"),
    ((6, 10), (8, 8), "one level from its skip"),
    ((6,), (8,), "two inputs"),
])
def test_block_n_refuses_other_inputs(channels: tuple[int, ...], strides: tuple[int, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        BlockN.rule(site(channels, strides, 16))


def test_concat_and_upsample() -> None:
    with pytest.raises(UserError, match=r"one stride, got strides \[8, 16\]"):
        Concat.rule(site((2, 3), (8, 16)))
    assert Concat()([torch.zeros(1, 2, 2, 2), torch.ones(1, 3, 2, 2)])[0, :, 0, 0].tolist() == [0, 0, 1, 1, 1]
    assert Upsample()(torch.tensor([[[[1.0, 2.0]]]]))[0, 0].tolist() == [[1, 1, 2, 2], [1, 1, 2, 2]]


def test_all_blocks_of_the_paper_are_there() -> None:
    assert {"Conv", "C3", "SPP", "Swin", "PatchMerging", "WeightedFusion", "BlockN", "Attention"} <= set(BLOCKS)
