"""Focal and global distillation against loops in float64 and by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from pairs import BOXES, WHOLE_IMAGE, arrays, assert_pulls, cells, random_maps, spec, step
from torch import nn

from cfg import UserError
from distill.adapters import UNEQUAL
from distill.methods.fgd import FocalGlobalDistiller, Relation, attention

TERMS = ["fgd_fg_loss", "fgd_bg_loss", "fgd_att_loss", "fgd_global_loss"]


def same_width(channels: int = 6, **options: Any) -> FocalGlobalDistiller:
    torch.manual_seed(1)
    return awake(FocalGlobalDistiller(spec(channels), spec(channels), **{"mix": UNEQUAL} | options))


def awake(distiller: FocalGlobalDistiller) -> FocalGlobalDistiller:
    """As after some training: relation blocks start as the identity."""
    for blocks in (distiller.student_relation, distiller.target_relation):
        for block in blocks.values():
            nn.init.normal_(block.transform[-1].weight, std=0.5)
            nn.init.normal_(block.transform[-1].bias, std=0.5)
    return distiller


# -- the naive reference -----------------------------------------------------------------------------------------------


def naive_softmax(values: list[float]) -> list[float]:
    powers = [math.exp(v - max(values)) for v in values]
    return [p / sum(powers) for p in powers]


def naive_attention(x: np.ndarray, temperature: float) -> tuple[np.ndarray, np.ndarray]:
    channels, height, width = x.shape
    by_cell = [sum(abs(x[c, i, j]) for c in range(channels)) / channels / temperature for i, j in cells(x)]
    by_channel = [sum(abs(x[c, i, j]) for i, j in cells(x)) / (height * width) / temperature for c in range(channels)]
    spatial = np.array(naive_softmax(by_cell)).reshape(height, width) * height * width
    return spatial, np.array(naive_softmax(by_channel)) * channels


def naive_masks(image: int, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Foreground, and the inverse number of cells of the smallest box over a cell, or of the background."""
    foreground, scale, covers = np.zeros((height, width)), np.zeros((height, width)), []
    for _, x, y, w, h in (b for b in BOXES if b[0] == image):
        rows = [i for i in range(height) if y - h / 2 <= (i + 0.5) / height < y + h / 2 or i == int(y * height)]
        columns = [j for j in range(width) if x - w / 2 <= (j + 0.5) / width < x + w / 2 or j == int(x * width)]
        covers.append((rows, columns))
    for i, j in np.ndindex(height, width):
        areas = [len(rows) * len(columns) for rows, columns in covers if i in rows and j in columns]
        foreground[i, j], scale[i, j] = bool(areas), 1 / min(areas) if areas else 0
    scale[foreground == 0] = 1 / (foreground == 0).sum()
    return foreground, scale


def naive_relation(x: np.ndarray, block: Relation) -> np.ndarray:
    key, (first, norm, _, last) = arrays(block.key.weight)[0, :, 0, 0], block.transform
    share = naive_softmax([float(key @ x[:, i, j]) for i, j in cells(x)])
    context = sum(s * x[:, i, j] for s, (i, j) in zip(share, cells(x)))
    hidden = arrays(first.weight) @ context + arrays(first.bias)
    hidden = (hidden - hidden.mean()) / math.sqrt(hidden.var() + norm.eps) * arrays(norm.weight) + arrays(norm.bias)
    return x + (arrays(last.weight) @ np.maximum(hidden, 0) + arrays(last.bias))[:, None, None]


def naive_losses(distiller: FocalGlobalDistiller, teacher: torch.Tensor, student: torch.Tensor) -> dict[str, float]:
    sums = dict.fromkeys(TERMS, 0.0)
    blocks = distiller.target_relation["p3"], distiller.student_relation["p3"]
    for image, (t, s) in enumerate(zip(arrays(teacher), arrays(student))):
        (spatial, channel), (own_spatial, own_channel) = (naive_attention(x, distiller.temperature) for x in (t, s))
        foreground, scale = naive_masks(image, *t.shape[1:])
        for c, i, j in np.ndindex(t.shape):
            error = scale[i, j] * spatial[i, j] * channel[c] * (t[c, i, j] - s[c, i, j]) ** 2
            sums["fgd_fg_loss" if foreground[i, j] else "fgd_bg_loss"] += error
        sums["fgd_att_loss"] += np.abs(spatial - own_spatial).mean() + np.abs(channel - own_channel).mean()
        gap = naive_relation(t, blocks[0]) - naive_relation(s, blocks[1])
        sums["fgd_global_loss"] += (gap**2).mean()
    return {name: value / len(teacher) for name, value in sums.items()}


@pytest.mark.parametrize("temperature", [0.5, 3.0])
def test_all_terms_equal_the_naive_reference(temperature: float) -> None:
    teacher, student = random_maps()
    distiller = same_width(temperature=temperature, background=1.0)
    found = distiller.losses(step(student, teacher))
    assert list(found) == TERMS
    for name, value in naive_losses(distiller, teacher, student).items():
        assert found[name].item() == pytest.approx(value, rel=1e-4), name


# -- by hand -----------------------------------------------------------------------------------------------------------


def test_attentions_by_hand_and_of_mean_1() -> None:
    x = torch.tensor([[[[2 * math.log(2), 0.0]], [[0.0, 0.0]]]])  # (1, 2, 1, 2)
    spatial, channel = attention(x, 0.5)  # means over channels and over cells: ln2, 0; over T = 1/2: 2 ln2, 0
    assert torch.allclose(spatial.flatten(), torch.tensor([8 / 5, 2 / 5]))
    assert torch.allclose(channel.flatten(), torch.tensor([8 / 5, 2 / 5]))
    spatial, channel = attention(torch.randn(3, 5, 4, 6), 0.5)
    assert torch.allclose(spatial.mean((1, 2, 3)), torch.ones(3))
    assert torch.allclose(channel.mean(1), torch.ones(3, 1, 1))


def test_relation_of_a_flat_map_by_hand() -> None:
    block = Relation(4)
    nn.init.eye_(block.transform[0].weight)
    nn.init.eye_(block.transform[3].weight)
    for layer in (block.transform[0], block.transform[3]):
        nn.init.zeros_(layer.bias)
    x = torch.tensor([3.0, 1.0, 5.0, 7.0]).view(1, 4, 1, 1).expand(1, 4, 2, 3)
    # Every cell is the context: LN(3, 1) = (1, -1), ReLU (1, 0), added to the first two of the four channels.
    assert torch.allclose(block(x), x + torch.tensor([1.0, 0, 0, 0]).view(1, 4, 1, 1), atol=1e-4)


def test_weights_and_gains_multiply_their_terms() -> None:
    teacher, student = random_maps()
    plain = same_width(background=1.0).losses(step(student, teacher))
    options = {"foreground": 2.0, "background": 3.0, "gains": {"feature": 10.0, "attention": 5.0, "global": 7.0}}
    weighted = same_width(**options).losses(step(student, teacher))
    for name, factor in zip(TERMS, (20, 30, 5, 7)):
        assert weighted[name].item() == pytest.approx(plain[name].item() * factor, rel=1e-5)
    half = same_width().losses(step(student, teacher))  # the paper's alpha : beta
    assert half["fgd_bg_loss"].item() == pytest.approx(plain["fgd_bg_loss"].item() / 2, rel=1e-5)


def test_no_boxes_is_background_only_and_a_full_box_foreground_only() -> None:
    teacher, student = random_maps()
    empty = same_width(background=1.0).losses(step(student, teacher, boxes=[]))
    full = same_width().losses(step(student, teacher, boxes=WHOLE_IMAGE))
    assert empty["fgd_fg_loss"] == 0 == full["fgd_bg_loss"]
    assert empty["fgd_bg_loss"].item() == pytest.approx(full["fgd_fg_loss"].item(), rel=1e-5)


def test_no_term_depends_on_the_grids_size() -> None:
    teacher, student = (x.repeat_interleave(2, 2).repeat_interleave(2, 3) for x in random_maps(grid=(6, 6)))
    fine = same_width().losses(step(student, teacher, boxes=[]))
    coarse = same_width().losses(step(student[..., ::2, ::2], teacher[..., ::2, ::2], boxes=[]))
    for name in TERMS:
        assert fine[name].item() == pytest.approx(coarse[name].item(), rel=1e-4), name


# -- gradients, refusals -----------------------------------------------------------------------------------------------


def test_the_student_is_pulled_and_every_parameter_trained() -> None:
    (teacher,), (student,) = random_maps(1), random_maps(1, channels=4)
    torch.manual_seed(0)
    assert_pulls(awake(FocalGlobalDistiller(spec(4), spec(6))), student, teacher)


def test_a_relation_block_starts_as_the_identity() -> None:
    x = random_maps(1)[0]
    assert torch.equal(Relation(x.shape[1])(x), x)


def test_identical_features_and_blocks_cost_nothing() -> None:
    teacher = random_maps(1)[0]
    distiller = same_width()
    distiller.student_relation.load_state_dict(distiller.target_relation.state_dict())
    assert all(v.abs() < 1e-6 for v in distiller.losses(step(teacher.clone(), teacher)).values())


@pytest.mark.parametrize("options, message", [
    ({"temperature": 0}, "temperature to be a number above 0, got 0; the paper's is 0.5"),
    ({"background": -1}, "background to be a number of at least 0, got -1"),
    ({"gains": {"globl": 1}}, "gains among feature, attention, global, got 'globl'; did you mean 'global'"),
    ({"gains": {"feature": math.inf}}, "feature to be a number of at least 0, got inf"),
])  # fmt: skip
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        FocalGlobalDistiller(spec(4), spec(4), **options)
