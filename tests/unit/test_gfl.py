"""GFL head and loss: decoding by hand, and the loss against its formulas written out in float64 loops."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch

import models.environment  # noqa: F401  (before ultralytics)
from cfg import UserError
from models.heads.gfl import GFLDetect
from models.losses.gfl import GFLLoss, distribution_focal, expected_bin, image_mean

CHANNELS, STRIDES = (8, 16), (8, 16)
SHAPES = [(6, 4), (3, 2)]


def head(*args: object, nc: int = 3) -> GFLDetect:
    torch.manual_seed(0)
    return GFLDetect(nc, CHANNELS, STRIDES, *args).eval()


def features() -> list[torch.Tensor]:
    return [torch.randn(2, c, h, w) for c, (h, w) in zip(CHANNELS, SHAPES)]


# -- head ---------------------------------------------------------------------------------------------------------------


def test_one_point_decoded_by_hand() -> None:
    boxes, scores = torch.zeros(1, 4 * 5, 30), torch.full((1, 3, 30), -9.0)
    position = 24 + 1 * 2 + 1  # level 1 (stride 16), row 1, column 1: its middle is at (24, 24)
    for side, bin_ in enumerate((1, 2, 3, 4)):  # left, top, right, bottom in strides
        boxes[0, side * 5 + bin_, position] = 60.0
    scores[0, 1, position] = math.log(3.0)
    y = head("gfl", 8, 1, 5).decode({"boxes": boxes, "scores": scores, "feats": features()})
    # x from 24 - 16 to 24 + 48, y from 24 - 32 to 24 + 64
    assert torch.allclose(y[0, :, position], torch.tensor([40.0, 40.0, 64.0, 96.0, 0, 0.75, 0]), atol=2e-4)
    assert torch.allclose(y[0, :4, 0], torch.tensor([4.0, 4.0, 32.0, 32.0]))  # flat distributions: 2 strides per side
    assert torch.allclose(y[0, :2, 5], torch.tensor([12.0, 12.0]))  # row 1, column 1 of level 0


def test_corners_where_they_are_asked_for() -> None:
    module, given = head("hkh", 16), features()
    xywh = module(given)[0]
    module.xyxy = True
    xyxy = module(given)[0]
    assert torch.allclose((xyxy[:, :2] + xyxy[:, 2:4]) / 2, xywh[:, :2], atol=1e-3)
    assert torch.allclose(xyxy[:, 2:4] - xyxy[:, :2], xywh[:, 2:4], atol=1e-3)
    assert torch.equal(xyxy[:, 4:], xywh[:, 4:]) and not GFLDetect.xyxy


@pytest.mark.parametrize("args", [(), ("gfl", 8, 2, 9), ("hkh",), ("hkh", 64, 1, 16)])
def test_shapes_of_every_style(args: tuple) -> None:
    module, bins = head(*args), args[3] if len(args) > 3 else 17
    y, raw = module(features())
    assert y.shape == (2, 7, 30) and raw["boxes"].shape == (2, 4 * bins, 30) and raw["scores"].shape == (2, 3, 30)
    assert module.reg_max == bins and module.train()(features()).keys() == {"boxes", "scores", "feats"}
    assert not any(".dfl" in name for name, _ in module.named_parameters())  # ultralytics would freeze it


def test_hkh_is_depth_wise_5x5_and_gfl_dense_3x3() -> None:
    def convs(module: GFLDetect) -> list[tuple]:
        found = [m for m in module.classes.modules() if isinstance(m, torch.nn.Conv2d)]
        return [(c.kernel_size[0], c.groups) for c in found]

    assert convs(head("hkh", 64)) == [(5, 64), (1, 1)] * 3
    assert convs(head("gfl", 64)) == [(3, 1)] * 4
    norms = [m.num_groups for m in head("hkh", 64).modules() if isinstance(m, torch.nn.GroupNorm)]
    assert set(norms) == {32}


def test_levels_share_the_head_but_not_the_scale() -> None:
    torch.manual_seed(0)
    module = GFLDetect(2, (8, 8), STRIDES).eval()
    same = torch.randn(1, 8, 3, 3)
    raw = module([same, same])[1]
    assert torch.equal(raw["boxes"][..., :9], raw["boxes"][..., 9:])
    with torch.no_grad():
        module.scale[1] = 2.0
    scaled = module([same, same])[1]
    assert torch.equal(scaled["boxes"][..., 9:], 2 * raw["boxes"][..., 9:])
    assert torch.equal(scaled["boxes"][..., :9], raw["boxes"][..., :9])
    assert torch.equal(scaled["scores"], raw["scores"])


def test_classes_start_rare() -> None:
    scores = head()(features())[1]["scores"].sigmoid()
    assert scores.min() > 0.005 and scores.max() < 0.02


@pytest.mark.parametrize(
    ("args", "message"),
    [(("hhk",), "did you mean 'hkh'"), (("gfl", 8, 1, 1), "at least 2 bins"), (("gfl", 8, 1, 2.5), "at least 2 bins")],
)
def test_wrong_rows(args: tuple, message: str) -> None:
    with pytest.raises(UserError, match=message):
        head(*args)


# -- loss ---------------------------------------------------------------------------------------------------------------


def stub(nc: int = 3, bins: int = 6) -> SimpleNamespace:
    return SimpleNamespace(nc=nc, reg_max=bins, pixels_per_cell=(8.0, 16.0))


def raw_of(images: int, nc: int = 3, bins: int = 6, seed: int = 0) -> dict:
    random = torch.Generator().manual_seed(seed)
    return {
        "boxes": torch.randn(images, 4 * bins, 80, generator=random).requires_grad_(),
        "scores": torch.randn(images, nc, 80, generator=random).requires_grad_(),
        "feats": [torch.zeros(images, 1, 8, 8), torch.zeros(images, 1, 4, 4)],
    }


def batch_of(rows: list[list[float]], images: int) -> dict[str, torch.Tensor]:
    """Rows: image, class, x, y, w, h (0..1)."""
    table = torch.tensor(rows).reshape(-1, 6)
    return {"img": torch.zeros(images, 3, 64, 64), "batch_idx": table[:, 0], "cls": table[:, 1:2], "bboxes": table[:, 2:]}


ROWS = [[0, 1, 0.4, 0.5, 0.5, 0.4], [0, 2, 0.7, 0.7, 0.3, 0.5], [2, 0, 0.5, 0.5, 0.9, 0.9]]


def naive(raw: dict, batch: dict, target: torch.Tensor, gains: dict[str, float]) -> dict[str, float]:
    """FR, FC and FD from their formulas, point by point, in Python floats."""
    raw = {k: raw[k].detach() for k in ("boxes", "scores")}
    points = [((c + 0.5) * s, (r + 0.5) * s, s) for s, n in ((8, 8), (16, 4)) for r in range(n) for c in range(n)]
    images, nc, bins = len(batch["img"]), raw["scores"].shape[1], raw["boxes"].shape[1] // 4
    sums = dict.fromkeys(("box", "cls", "dfl"), 0.0)
    for b in range(images):
        cls, box, dfl, share, positives = 0.0, 0.0, 0.0, 0.0, 0
        for a, (x, y, s) in enumerate(points):
            sigma = [1 / (1 + math.exp(-float(raw["scores"][b, k, a]))) for k in range(nc)]
            quality = [0.0] * nc
            j = int(target[b, a])
            if j >= 0:
                positives += 1
                cx, cy, w, h = (float(v) * 64 for v in batch["bboxes"][j])
                truth = [cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2]
                logits = raw["boxes"][b, :, a].double().view(4, bins).tolist()
                soft = [[math.exp(v) / sum(map(math.exp, side)) for v in side] for side in logits]
                left, top, right, bottom = (s * sum(i * p for i, p in enumerate(side)) for side in soft)
                pred = [x - left, y - top, x + right, y + bottom]
                wide = max(0.0, min(pred[2], truth[2]) - max(pred[0], truth[0]))
                high = max(0.0, min(pred[3], truth[3]) - max(pred[1], truth[1]))
                overlap = wide * high
                union = (pred[2] - pred[0]) * (pred[3] - pred[1]) + w * h - overlap
                hull_w = max(pred[2], truth[2]) - min(pred[0], truth[0])
                hull_h = max(pred[3], truth[3]) - min(pred[1], truth[1])
                quality[int(batch["cls"][j])] = overlap / union
                weight = max(sigma)
                box += weight * (1 - (overlap / union - (hull_w * hull_h - union) / (hull_w * hull_h)))
                sides = [(x - truth[0]) / s, (y - truth[1]) / s, (truth[2] - x) / s, (truth[3] - y) / s]
                for side, distance in zip(soft, sides):
                    distance = min(max(distance, 0.0), bins - 1 - 0.1)
                    low = int(distance)
                    error = (low + 1 - distance) * math.log(side[low]) + (distance - low) * math.log(side[low + 1])
                    dfl -= weight * error / 4
                share += weight
            for p, q in zip(sigma, quality):
                cls -= abs(q - p) ** 2 * ((1 - q) * math.log(1 - p) + q * math.log(p))
        sums["cls"] += cls / max(positives, 1) / images
        if share:
            sums["box"] += box / share / images
            sums["dfl"] += dfl / share / images
    return {f"{name}_loss": value * gains[name] for name, value in sums.items()}


def test_the_three_losses_as_their_formulas() -> None:
    raw, batch = raw_of(3), batch_of(ROWS, 3)
    loss = GFLLoss(stub(), anchor_scale=3)
    target = loss.assign(raw, batch).target
    assert (target >= 0).sum(1)[[0, 2]].min() >= 2 and (target[1] == -1).all()
    expected = naive(raw, batch, target, {"box": 2.0, "cls": 1.0, "dfl": 0.25})
    terms = loss(raw, batch)
    assert list(terms) == list(GFLDetect.loss_terms) == list(expected)
    for name, value in expected.items():
        assert terms[name].item() == pytest.approx(value, rel=1e-5), name
    given = loss(raw, batch, loss.assign(raw, batch))
    assert all(torch.equal(given[name], value) for name, value in terms.items())


def test_gains_multiply() -> None:
    raw, batch = raw_of(3), batch_of(ROWS, 3)
    one, other = GFLLoss(stub())(raw, batch), GFLLoss(stub(), gains={"box": 1.0, "cls": 3.0, "dfl": 0.5})(raw, batch)
    assert [round((other[k] / one[k]).item(), 5) for k in one] == [0.5, 3.0, 2.0]


def test_distribution_focal_by_hand() -> None:
    bins = torch.log(torch.tensor([0.1, 0.2, 0.3, 0.4]))
    expected = -(0.75 * math.log(0.2) + 0.25 * math.log(0.3))
    assert distribution_focal(bins, torch.tensor(1.25)).item() == pytest.approx(expected, rel=1e-6)
    beyond = -(0.1 * math.log(0.3) + 0.9 * math.log(0.4))  # clamped to 2.9
    assert distribution_focal(bins, torch.tensor(99.0)).item() == pytest.approx(beyond, rel=1e-5)
    assert expected_bin(bins).item() == pytest.approx(0.2 + 0.6 + 1.2)


def test_the_distribution_focal_loss_is_least_at_the_target() -> None:
    bins = torch.zeros(4, requires_grad=True)
    optimizer = torch.optim.SGD([bins], lr=2.0)
    for _ in range(400):
        optimizer.zero_grad()
        distribution_focal(bins, torch.tensor(1.25)).backward()
        optimizer.step()
    assert expected_bin(bins).item() == pytest.approx(1.25, abs=0.02)


def test_image_mean_by_hand() -> None:
    values, weights = torch.tensor([1.0, 3.0, 10.0]), torch.tensor([1.0, 3.0, 0.5])
    assert image_mean(values, weights, torch.tensor([0, 0, 2]), 4).item() == pytest.approx((2.5 + 0 + 10 + 0) / 4)


def test_the_quality_target_is_no_way_for_gradients() -> None:
    raw, batch = raw_of(1), batch_of(ROWS[:1], 1)
    GFLLoss(stub(), anchor_scale=3)(raw, batch)["cls_loss"].backward()
    assert raw["boxes"].grad is None and raw["scores"].grad.abs().sum() > 0
    raw = raw_of(1)
    terms = GFLLoss(stub(), anchor_scale=3)(raw, batch)
    (terms["box_loss"] + terms["dfl_loss"]).backward()
    assert raw["scores"].grad is None and raw["boxes"].grad.abs().sum() > 0


@pytest.mark.parametrize(
    "rows",
    [[], [[1, 0, 0.5, 0.5, 1.0, 1.0]], [[0, 1, 0.31, 0.31, 0.004, 0.004]], [[0, 1, 0.5, 0.5, 0.0, 0.0]]]
    + [[[i % 2, i % 3, 0.2 + 0.002 * i, 0.5, 0.05 + 0.003 * i, 0.3] for i in range(300)]],
    ids=["none", "whole", "tiny", "empty", "300"],
)
def test_odd_batches_are_finite(rows: list) -> None:
    raw = raw_of(2)
    terms = GFLLoss(stub())(raw, batch_of(rows, 2))
    sum(terms.values()).backward()
    assert all(torch.isfinite(t) for t in terms.values())
    assert torch.isfinite(raw["boxes"].grad).all() and torch.isfinite(raw["scores"].grad).all()


def test_half_precision_is_computed_in_float32() -> None:
    raw, batch = raw_of(2), batch_of(ROWS[:2], 2)
    half = {k: v.detach().half() if torch.is_tensor(v) else v for k, v in raw.items()}
    rounded = {k: v.float() if torch.is_tensor(v) else v for k, v in half.items()}
    one, other = GFLLoss(stub())(half, batch), GFLLoss(stub())(rounded, batch)
    assert all(one[k].dtype == torch.float32 and torch.equal(one[k], other[k]) for k in one)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"top": 0}, "top: expected"),
        ({"anchor_scale": 0}, "anchor_scale: expected"),
        ({"beta": 0.5}, "beta: expected"),
        ({"gains": {"dlf": 1}}, "did you mean 'dfl'"),
        ({"gains": {"box": -1}}, "at least 0"),
    ],
)
def test_wrong_options(options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        GFLLoss(stub(), **options)
