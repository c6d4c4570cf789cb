"""Equations 5 to 13 of the attention distiller against naive float64 loops and numbers worked out by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import models.environment  # noqa: F401  (before ultralytics)
from cfg import UserError
from distill.adapters import Adapter
from distill.base import Level, Spec, Step, View, level_names
from distill.masks import Masks
from distill.methods.attention import AttentionDistiller, attention_mask, free_attention, masked_square_error, rescaled
from models.blocks.attention import DualAttention

BOXES = [  # image, x, y, w, h of the whole image
    (0, 0.33, 0.40, 0.42, 0.50), (0, 0.40, 0.45, 0.22, 0.20), (1, 0.70, 0.70, 0.10, 0.60), (1, 0.2, 0.2, 0.01, 0.01),
]  # fmt: skip


def spec(channels: int, label: str = "net", strides: tuple[int, ...] = (8,), nc: int = 2, names: Any = None) -> Spec:
    levels = dict(zip(level_names(list(strides)), (Level(channels, s) for s in strides)))
    return Spec(label, levels, nc, names or {i: str(i) for i in range(nc)})


def step(student: torch.Tensor, teacher: torch.Tensor, boxes: list = BOXES, module: nn.Module | None = None) -> Step:
    """One level p3; `module` is the teacher's own attention."""
    rows = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 5)
    batch = {"img": torch.zeros(len(student), 3, 8, 8), "batch_idx": rows[:, 0], "bboxes": rows[:, 1:]}
    view = View(spec(teacher.shape[1]), {"p3": teacher}, {}, {"p3": module} if module else {})
    return Step(batch, View(spec(student.shape[1]), {"p3": student}, {}), 0.0, see_teacher=lambda: view)


def same_width(channels: int, **options: Any) -> AttentionDistiller:
    """A distiller between nets of equal channels whose adapter changes nothing; by default the paper's, without `rescale`."""
    distiller = AttentionDistiller(spec(channels), spec(channels), **{"rescale": False} | options)
    distiller.adapters["p3"].solved.fill_(True)
    mix = distiller.adapters["p3"].mix
    mix.weight.data = torch.eye(channels).view(channels, channels, 1, 1)
    if mix.bias is not None:
        nn.init.zeros_(mix.bias)
    return distiller


def random_pair(batch: int = 2, channels: int = 6, grid: tuple[int, int] = (7, 5)) -> tuple[torch.Tensor, torch.Tensor]:
    random = torch.Generator().manual_seed(0)
    return tuple(torch.randn(batch, channels, *grid, generator=random) * 3 for _ in range(2))


# -- the naive reference ------------------------------------------------------------------------------------------------


def naive_softmax(values: list[float]) -> list[float]:
    highest = max(values)
    powers = [math.exp(v - highest) for v in values]
    return [p / sum(powers) for p in powers]


def naive_free(x: np.ndarray) -> np.ndarray:
    channels, height, width = x.shape
    cells = list(np.ndindex(height, width))
    by_channel = naive_softmax([sum(abs(x[c, i, j]) for i, j in cells) / len(cells) for c in range(channels)])
    by_cell = naive_softmax([sum(abs(x[c, i, j]) for c in range(channels)) / channels for i, j in cells])
    out = np.zeros_like(x)
    for c, i, j in np.ndindex(x.shape):
        out[c, i, j] = (by_channel[c] * channels + by_cell[i * width + j] * height * width) * x[c, i, j]
    return out


def naive_mask(attended: np.ndarray, temperature: float) -> np.ndarray:
    """eq. 10."""
    channels, height, width = attended.shape
    rows = [naive_softmax([value / temperature for value in attended[c].flatten()]) for c in range(channels)]
    return np.array(rows).reshape(attended.shape) * height * width


def naive_masks(boxes: list[tuple], height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """eqs. 6-8: foreground, and the inverse area of the smallest box over a cell, or of the background."""
    foreground, scale = np.zeros((height, width)), np.zeros((height, width))
    covers = []
    for _, x, y, w, h in boxes:
        rows = [i for i in range(height) if y - h / 2 <= (i + 0.5) / height < y + h / 2 or i == int(y * height)]
        columns = [j for j in range(width) if x - w / 2 <= (j + 0.5) / width < x + w / 2 or j == int(x * width)]
        covers.append((rows, columns))
    for i, j in np.ndindex(height, width):
        areas = [len(rows) * len(columns) for rows, columns in covers if i in rows and j in columns]
        if areas:
            foreground[i, j], scale[i, j] = 1, 1 / min(areas)
    scale[foreground == 0] = 1 / max((foreground == 0).sum(), 1)
    return foreground, scale


def naive_losses(teacher: torch.Tensor, student: torch.Tensor, temperature: float, attend: Any) -> dict[str, float]:
    """eqs. 11-13 with `BOXES`, mean over images."""
    sums = dict.fromkeys(("fg_loss", "bg_loss", "att_loss", "global_loss"), 0.0)
    for image, (f_t, f_s) in enumerate(zip(teacher.double().numpy(), student.double().numpy())):
        m_t, m_s = attend(f_t), attend(f_s)
        mask_t, mask_s = naive_mask(m_t, temperature), naive_mask(m_s, temperature)
        foreground, scale = naive_masks([b for b in BOXES if b[0] == image], *f_t.shape[1:])
        for c, i, j in np.ndindex(f_t.shape):
            error = mask_t[c, i, j] * (f_t[c, i, j] - f_s[c, i, j]) ** 2 * scale[i, j]
            sums["fg_loss" if foreground[i, j] else "bg_loss"] += error
            gap = abs(mask_t[c, i, j] - mask_s[c, i, j])
            sums["att_loss"] += (0.5 * gap**2 if gap < 1 else gap - 0.5) / f_t.size
            sums["global_loss"] += (m_t[c, i, j] - m_s[c, i, j]) ** 2 / f_t.size
    return {name: value / len(teacher) for name, value in sums.items()}


@pytest.mark.parametrize("temperature", [0.5, 20.0])
def test_all_terms_equal_the_naive_reference_with_free_attention(temperature: float) -> None:
    teacher, student = random_pair()
    found = same_width(6, temperature=temperature).losses(step(student, teacher))
    expected = naive_losses(teacher, student, temperature, naive_free)
    for name, value in expected.items():
        assert found[name].item() == pytest.approx(value, rel=1e-4), name


def test_all_terms_equal_the_naive_reference_with_the_teachers_attention() -> None:
    teacher, student = random_pair(channels=8)
    torch.manual_seed(1)
    module = DualAttention(8).eval().requires_grad_(False)
    found = same_width(8).losses(step(student, teacher, module=module))

    def attend(x: np.ndarray) -> np.ndarray:
        return module.attend(torch.from_numpy(x)[None].float())[0].double().numpy()  # eqs. 2-4 are tested in test_blocks

    for name, value in naive_losses(teacher, student, 20.0, attend).items():
        assert found[name].item() == pytest.approx(value, rel=1e-4), name


def test_the_teachers_side_is_what_its_attention_was_given() -> None:
    teacher, student = random_pair()
    given = step(student, teacher * 2)
    given.teacher.unattended["p3"] = teacher
    expected = same_width(6).losses(step(student, teacher))
    assert {k: v.item() for k, v in same_width(6).losses(given).items()} == {k: v.item() for k, v in expected.items()}


# -- by hand ------------------------------------------------------------------------------------------------------------


def test_two_by_two_by_hand() -> None:
    """One channel of 2 x 2 cells, a box over the left column, attention M(F) = F (both maps 1/2 each)."""
    module = DualAttention(4).eval()
    for parameter in module.parameters():
        nn.init.zeros_(parameter)
    ln2 = math.log(2)
    teacher = torch.zeros(1, 4, 2, 2)
    teacher[0, 0] = torch.tensor([[2 * ln2, 0.0], [ln2, ln2]])  # T = 1: softmax 4/9, 1/9, 2/9, 2/9, times 4
    student = torch.zeros(1, 4, 2, 2)
    boxes = [(0, 0.25, 0.5, 0.5, 1.0)]
    found = same_width(4, temperature=1.0).losses(step(student, teacher, boxes, module))
    # eq. 7: 1/2 in each column. eq. 11: foreground (16/9 * 4 ln2^2 + 8/9 * ln2^2) / 2, background (0 + 8/9 * ln2^2) / 2
    assert found["fg_loss"].item() == pytest.approx(36 / 9 * ln2**2, rel=1e-5)
    assert found["bg_loss"].item() == pytest.approx(4 / 9 * ln2**2, rel=1e-5)
    # eq. 12: the student's mask is 1, gaps 7/9, 5/9, 1/9, 1/9 in one of four channels
    assert found["att_loss"].item() == pytest.approx(0.5 * (49 + 25 + 1 + 1) / 81 / 16, rel=1e-5)
    # eq. 13
    assert found["global_loss"].item() == pytest.approx((4 + 1 + 1) * ln2**2 / 16, rel=1e-5)


def test_free_attention_means_1_by_hand() -> None:
    flat = torch.ones(1, 2, 2, 2) * 3
    assert torch.allclose(free_attention(flat), 2 * flat)  # both gates are exactly 1
    x = torch.tensor([[[[math.log(2) * 2, 0.0]], [[0.0, 0.0]]]])  # (1, 2, 1, 2)
    # Channels: mean |F| ln2, 0 -> softmax 2/3, 1/3, times 2. Positions: mean |F| ln2, 0 -> 2/3, 1/3, times 2.
    assert torch.allclose(free_attention(x)[0, 0, 0, 0], torch.tensor((4 / 3 + 4 / 3) * 2 * math.log(2)))
    features = torch.randn(3, 5, 4, 6)
    gates = free_attention(features) / features  # channel + spatial gate, each of mean 1
    assert torch.allclose(gates.mean((1, 2, 3)), torch.full((3,), 2.0), atol=1e-4)


def test_attention_mask_has_mean_1_and_flattens_with_temperature() -> None:
    attended = torch.randn(2, 3, 4, 5) * 10
    for temperature in (0.5, 20.0, 1e6):
        assert torch.allclose(attention_mask(attended, temperature).mean((2, 3)), torch.ones(2, 3), atol=1e-5)
    assert torch.allclose(attention_mask(attended, 1e6), torch.ones_like(attended), atol=1e-3)
    assert attention_mask(attended, 1.0).std() > attention_mask(attended, 20.0).std() * 5
    assert torch.isfinite(attention_mask(attended * 1e5, 0.01)).all()


def test_foreground_and_background_share_every_cell_once() -> None:
    ones = torch.ones(1, 1, 2, 2)
    masks = Masks(torch.tensor([[[[1.0, 0.0], [0.0, 0.0]]]]), torch.tensor([[[[1.0, 1 / 3], [1 / 3, 1 / 3]]]]))
    foreground, background = masked_square_error(ones * 3, ones, ones, masks)
    assert foreground.item() == pytest.approx(4) and background.item() == pytest.approx(4)


# -- boxes, scale, batch ------------------------------------------------------------------------------------------------


def test_no_boxes_is_background_only() -> None:
    teacher, student = random_pair()
    found = same_width(6).losses(step(student, teacher, boxes=[]))
    assert found["fg_loss"] == 0 and found["bg_loss"] > 0 and all(torch.isfinite(v) for v in found.values())


def test_one_box_covering_all_is_foreground_only() -> None:
    teacher, student = random_pair()
    boxes = [(i, 0.5, 0.5, 1.0, 1.0) for i in (0, 1)]
    covered = same_width(6).losses(step(student, teacher, boxes))
    assert covered["bg_loss"] == 0
    empty = same_width(6).losses(step(student, teacher, boxes=[]))
    assert covered["fg_loss"].item() == pytest.approx(empty["bg_loss"].item(), rel=1e-5)  # the same mean over the cells


def test_the_loss_does_not_depend_on_the_grids_size() -> None:
    teacher, student = (x.repeat_interleave(2, 2).repeat_interleave(2, 3) for x in random_pair(grid=(6, 6)))
    fine = same_width(6).losses(step(student, teacher, boxes=[]))
    coarse = same_width(6).losses(step(student[..., ::2, ::2], teacher[..., ::2, ::2], boxes=[]))
    for name in ("bg_loss", "att_loss"):
        assert fine[name].item() == pytest.approx(coarse[name].item(), rel=1e-4)


def test_weights_and_gains_multiply_their_terms() -> None:
    teacher, student = random_pair()
    plain = same_width(6).losses(step(student, teacher))
    options = {"foreground": 2.0, "background": 3.0, "gains": {"feature": 10.0, "attention": 5.0, "global": 7.0}}
    weighted = same_width(6, **options).losses(step(student, teacher))
    for name, factor in {"fg_loss": 20, "bg_loss": 30, "att_loss": 5, "global_loss": 7}.items():
        assert weighted[name].item() == pytest.approx(plain[name].item() * factor, rel=1e-5)


def test_levels_add_up() -> None:
    teacher, student = random_pair()
    both = AttentionDistiller(spec(6, strides=(8, 16)), spec(6, strides=(8, 16)), rescale=False)
    for adapter in both.adapters.values():
        adapter.load_state_dict(same_width(6).adapters["p3"].state_dict())
    given, one = step(student, teacher), same_width(6).losses(step(student, teacher))
    given.student.feats["p4"], given.teacher.feats["p4"] = student, teacher
    for name, value in both.losses(given).items():
        assert value.item() == pytest.approx(2 * one[name].item(), rel=1e-5)


# -- gradients, adapter -------------------------------------------------------------------------------------------------


def test_identical_features_cost_nothing() -> None:
    teacher, _ = random_pair()
    for module in (None, DualAttention(6).eval()):
        found = same_width(6).losses(step(teacher.clone(), teacher, module=module))
        assert all(value.abs() < 1e-9 for value in found.values())


def test_rescaled_features_differ_by_their_pattern_alone() -> None:
    student, teacher = random_pair()
    distiller = same_width(6, rescale=True)
    scale, shift = torch.rand(1, 6, 1, 1) + 0.5, torch.randn(1, 6, 1, 1)
    assert all(v.item() < 1e-6 for v in distiller.losses(step(teacher * scale + shift, teacher)).values())
    one, other = (distiller.losses(step(s, teacher)) for s in (student, student * scale + shift))
    assert all(one[k].item() == pytest.approx(other[k].item(), rel=1e-4) and one[k] > 0 for k in one)
    plain = same_width(6).losses(step(student, teacher))
    assert all(one[k].item() != pytest.approx(plain[k].item(), rel=1e-3) for k in one)


def test_rescaled_by_hand() -> None:
    student = torch.tensor([0.0, 2, 4, 6]).view(1, 1, 2, 2)  # mean 3, deviation sqrt 5
    teacher = torch.tensor([10.0, 10, 20, 20]).view(1, 1, 2, 2)  # mean 15, deviation 5
    expected = 15 + (student - 3) * 5 / math.sqrt(5)
    assert torch.allclose(rescaled(student, teacher), expected, atol=1e-4)
    flat = rescaled(torch.full((1, 1, 2, 2), 7.0, requires_grad=True), teacher)
    assert torch.equal(flat, torch.full((1, 1, 2, 2), 15.0))


def test_gradients_reach_student_and_adapter_only() -> None:
    teacher, student = random_pair()
    module = DualAttention(6).eval().requires_grad_(False)
    student.requires_grad_(True)
    distiller = same_width(6)
    sum(distiller.losses(step(student, teacher, module=module)).values()).backward()
    assert student.grad.abs().sum() > 0 and all(p.grad.abs().sum() > 0 for p in distiller.parameters())
    assert teacher.grad is None and all(p.grad is None for p in module.parameters())
    assert [name for name, _ in distiller.named_parameters()] == ["adapters.p3.mix.weight", "adapters.p3.mix.bias"]


def test_each_term_pulls_the_student_towards_the_teacher() -> None:
    teacher, student = random_pair()
    for name in ("fg_loss", "bg_loss", "att_loss", "global_loss"):
        distiller, moved = same_width(6, temperature=1.0), student.clone().requires_grad_(True)
        before = distiller.losses(step(moved, teacher))[name]
        gradient = torch.autograd.grad(before, moved)[0]
        after = distiller.losses(step(moved.detach() - 1e-2 * gradient / gradient.norm(), teacher))[name]
        assert after < before, name


def test_adapter_changes_channels_and_grid() -> None:
    adapter = Adapter(Level(3, 8), Level(5, 8)).eval()
    x, same, other, flat = torch.randn(2, 3, 4, 6), torch.zeros(2, 5, 4, 6), torch.zeros(2, 5, 8, 3), torch.zeros(1, 5, 1, 4)
    assert torch.equal(adapter(x, same), adapter.mix(x)) and adapter(x, other).shape == (2, 5, 8, 3)
    nn.init.constant_(adapter.mix.weight, 1.0)
    nn.init.zeros_(adapter.mix.bias)
    stretched = adapter(torch.tensor([[[[0.0, 3.0]]]]).expand(1, 3, 1, 2), flat)[0, 0, 0]
    assert torch.allclose(stretched, torch.tensor([0.0, 0.75, 2.25, 3.0]) * 3)  # bilinear between cell centres


def test_half_precision_features_are_compared_in_float32() -> None:
    teacher, student = random_pair()
    found = same_width(6).losses(step(student.bfloat16(), teacher.bfloat16()))
    assert all(v.dtype == torch.float32 for v in found.values())


# -- pairs it cannot serve ----------------------------------------------------------------------------------------------


def test_pairs_are_made_by_stride_and_refused_without_one() -> None:
    distiller = AttentionDistiller(spec(4, strides=(8, 16, 32)), spec(6, strides=(4, 32, 8)))
    assert distiller.pairs == ["p3", "p5"] and "levels p3, p5" in distiller.describe()
    assert f"{2 * 4 * 6} adapter parameters" in distiller.describe(), "no bias, which rescaling takes out"
    paper = AttentionDistiller(spec(4, strides=(8, 16, 32)), spec(6, strides=(4, 32, 8)), rescale=False)
    assert f"{2 * (4 * 6 + 6)} adapter parameters" in paper.describe()
    with pytest.raises(UserError, match=r"no common stride: student S has strides \[8\], teacher T \[16, 32\]"):
        AttentionDistiller(spec(4, "student S"), spec(4, "teacher T", strides=(16, 32)))


def test_pairs_of_other_classes_are_refused() -> None:
    with pytest.raises(UserError, match="teacher T knows 3 classes, student S 2"):
        AttentionDistiller(spec(4, "student S"), spec(4, "teacher T", nc=3))
    with pytest.raises(UserError, match="same order"):
        AttentionDistiller(spec(4, names={0: "pit", 1: "crack"}), spec(4, names={0: "crack", 1: "pit"}))
    AttentionDistiller(spec(4, names={0: "pit", 1: "crack"}), spec(4))  # a teacher without names is taken at its word


@pytest.mark.parametrize("options, message", [
    ({"temperature": 0}, "temperature to be a number above 0, got 0"),
    ({"temperature": "hot"}, "temperature to be a number above 0, got 'hot'"),
    ({"gains": {"featur": 1.0}}, "gains among feature, attention, global, got 'featur'; did you mean 'feature'"),
    ({"gains": {"global": -1}}, "global to be a number of at least 0, got -1"),
    ({"background": math.nan}, "background to be a number of at least 0, got nan"),
])  # fmt: skip
def test_wrong_options_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        AttentionDistiller(spec(4), spec(4), **options)
    with pytest.raises(UserError, match="needs a teacher"):
        AttentionDistiller(spec(4), None)
