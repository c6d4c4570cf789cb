"""Quality focal loss, box losses and the anchor loss, against hand-worked numbers and plain float64 references."""

from __future__ import annotations

import math
from types import SimpleNamespace

import pytest
import torch

from cfg.errors import UserError
from models.losses.anchor import SCORES, AnchorLoss, Gains
from models.losses.iou import box_iou_pairs, ciou_loss, giou
from models.losses.joint import joint_quality_focal
from models.losses.qfocal import quality_focal

# ---------------------------------------------------------------------------------------------------- quality focal


def naive_qfl(logit: float, y: float, alpha: float, beta: float) -> float:
    sigma = 1 / (1 + math.exp(-logit))
    balance = y * alpha + (1 - y) * (1 - alpha)
    return -balance * abs(y - sigma) ** beta * ((1 - y) * math.log(1 - sigma) + y * math.log(sigma))


@pytest.mark.parametrize(
    ("y", "expected"),
    [
        # logit 0: sigma = 1/2, cross-entropy = ln 2 = 0.693147 whatever y is.
        (1.0, 0.25 * 0.5**1.5 * 0.693147),  # 0.25 * 0.353553 * 0.693147 = 0.061266
        (0.0, 0.75 * 0.5**1.5 * 0.693147),  # 0.183798
        (0.5, 0.0),  # target = prediction
        (0.75, 0.375 * 0.125 * 0.693147),  # alpha_t = .75*.25 + .25*.75 = .375; 0.25^1.5 = 0.125
    ],
)
def test_qfocal_by_hand(y: float, expected: float) -> None:
    assert quality_focal(torch.zeros(1), torch.tensor([y])).item() == pytest.approx(expected, abs=1e-6)


def test_qfocal_equals_the_formula_over_a_grid() -> None:
    logits = torch.linspace(-8, 8, 33, dtype=torch.float64)
    for y in (0.0, 0.1, 0.37, 0.9, 1.0):
        for alpha, beta in ((0.25, 1.5), (0.5, 2.0), (0.9, 0.0)):
            expected = torch.tensor([naive_qfl(x, y, alpha, beta) for x in logits.tolist()], dtype=torch.float64)
            got = quality_focal(logits, torch.full_like(logits, y), alpha, beta)
            torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_qfocal_is_finite_at_huge_logits(dtype: torch.dtype) -> None:
    logits = torch.tensor([-1e4, -50, 0, 50, 1e4], dtype=dtype).repeat(3).requires_grad_()
    targets = torch.tensor([0.0, 0.5, 1.0]).repeat_interleave(5)
    loss = quality_focal(logits, targets)
    loss.sum().backward()
    assert loss.dtype == torch.float32
    assert loss.isfinite().all() and logits.grad.isfinite().all()
    # Entirely wrong at logit -1e4, y = 1: 0.25 * 1 * 1e4 (bfloat16 rounds 1e4 to 9984).
    assert loss[10].item() == pytest.approx(0.25 * 1e4, rel=2e-3)


def test_qfocal_gradient() -> None:
    torch.manual_seed(0)
    logits = (torch.randn(12, dtype=torch.float64) * 3).requires_grad_()
    targets = torch.rand(12, dtype=torch.float64, requires_grad=True)
    assert quality_focal(logits, targets).dtype == torch.float64
    assert torch.autograd.gradcheck(quality_focal, (logits, targets))


def test_qfocal_gradient_where_prediction_equals_target() -> None:
    logits = torch.zeros(3, requires_grad=True)
    quality_focal(logits, torch.full((3,), 0.5)).sum().backward()
    assert torch.equal(logits.grad, torch.zeros(3))


# ------------------------------------------------------------------------------------------------------------- boxes

# Two 2x2 boxes, one shifted by (1, 1): overlap 1, union 7, enclosing box 3x3.
A = torch.tensor([[0.0, 0.0, 2.0, 2.0]])
B = torch.tensor([[1.0, 1.0, 3.0, 3.0]])


def test_iou_by_hand() -> None:
    assert box_iou_pairs(A, B).item() == pytest.approx(1 / 7, abs=1e-6)


def test_giou_by_hand() -> None:
    assert giou(A, B).item() == pytest.approx(1 / 7 - (9 - 7) / 9, abs=1e-6)
    # Apart: overlap 0, union 2, enclosing 3x1: -(3 - 2) / 3.
    a, b = torch.tensor([[0.0, 0, 1, 1]]), torch.tensor([[2.0, 0, 3, 1]])
    assert giou(a, b).item() == pytest.approx(-1 / 3, abs=1e-6)


def test_ciou_by_hand_without_shape_difference() -> None:
    # Centres (1, 1) and (2, 2): rho^2 = 2; enclosing diagonal^2 = 18. Equal shapes: 1 - 1/7 + 2/18.
    assert ciou_loss(A, B).item() == pytest.approx(1 - 1 / 7 + 1 / 9, abs=1e-6)


def test_ciou_by_hand_with_shape_difference() -> None:
    # 2x1 and 1x2 boxes at one centre: overlap 1, union 3, rho = 0. arctan 2 - arctan 1/2 = 0.643501;
    # v = 4/pi^2 * 0.643501^2 = 0.167826; alpha = v / (2/3 + v) = 0.201113; loss = 2/3 + alpha v = 0.700419.
    wide, tall = torch.tensor([[-1.0, -0.5, 1, 0.5]]), torch.tensor([[-0.5, -1.0, 0.5, 1]])
    assert ciou_loss(wide, tall).item() == pytest.approx(0.700419, abs=2e-6)


def test_ciou_of_equal_boxes_is_zero() -> None:
    assert ciou_loss(A, A).item() == pytest.approx(0, abs=1e-6)


def test_ciou_trade_off_is_a_constant_for_the_gradient() -> None:
    # One centre, so the distance term is 0. Target 1x2 (w/h = 1/2), prediction w x 1 with w = 2: numbers of the test
    # above. IoU = 1 / (1 + w) around w = 2 (overlap 1, union w + 1), so d(1 - IoU)/dw = 1/(1 + w)^2 = 1/9.
    # dv/dw = 8/pi^2 * 0.643501 * h/(w^2 + h^2) = 0.810569 * 0.643501 / 5 = 0.104320; times alpha 0.201113 = 0.020980.
    half = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)  # half the width: the gradient below is d/d(w/2)
    pred = torch.stack((-half, half * 0 - 0.5, half, half * 0 + 0.5))[None]
    ciou_loss(pred, torch.tensor([[-0.5, -1.0, 0.5, 1]], dtype=torch.float64)).sum().backward()
    assert half.grad.item() / 2 == pytest.approx(1 / 9 + 0.020980, abs=1e-5)


def test_giou_and_iou_gradients() -> None:
    torch.manual_seed(1)
    low = torch.rand(6, 2, dtype=torch.float64)
    a = torch.cat((low, low + 0.5 + torch.rand(6, 2, dtype=torch.float64)), 1).requires_grad_()
    b = (a.detach() + 0.1 * torch.randn(6, 4, dtype=torch.float64)).requires_grad_()
    assert torch.autograd.gradcheck(box_iou_pairs, (a, b)) and torch.autograd.gradcheck(giou, (a, b))


@pytest.mark.parametrize("function", [box_iou_pairs, giou, ciou_loss])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_box_losses_are_finite_for_degenerate_boxes(function, dtype: torch.dtype) -> None:
    empty = [[0, 0, 0, 0], [5, 5, 5, 5], [0, 0, 10, 0], [0, 0, 0, 10], [3, 3, 1, 1]]
    boxes = torch.tensor([*empty, [0, 0, 640, 640], [2, 2, 3, 4]], dtype=dtype)
    pred = boxes.repeat_interleave(len(boxes), 0).requires_grad_()
    values = function(pred, boxes.repeat(len(boxes), 1))
    values.sum().backward()
    assert values.dtype == torch.float32
    assert values.isfinite().all() and pred.grad.isfinite().all()


# ------------------------------------------------------------------------------------------------------- anchor loss

ANCHORS = torch.tensor(
    [[[10.0, 12], [20, 16], [30, 40]], [[40, 60], [60, 50], [90, 100]], [[120, 90], [150, 200], [250, 240]]]
)


def make_head(nc: int = 4, levels: int = 3, na: int = 3) -> SimpleNamespace:
    strides = torch.tensor([8.0, 16, 32])[:levels]
    return SimpleNamespace(
        nc=nc, nl=levels, na=na, stride=strides, pixels_per_cell=strides.tolist(), anchor_wh=ANCHORS[:levels, :na]
    )


def one_level() -> SimpleNamespace:
    """A head of stride 8 with one anchor, 16 x 16 pixels, and two classes."""
    anchor = torch.tensor([[[16.0, 16.0]]])
    return SimpleNamespace(nc=2, nl=1, na=1, stride=torch.tensor([8.0]), pixels_per_cell=(8.0,), anchor_wh=anchor)


def make_raw(batch_size: int, head: SimpleNamespace, size: int = 128, seed: int = 0) -> dict:
    generator = torch.Generator().manual_seed(seed)
    grids = [int(size / s) for s in head.stride]
    return {"preds": [torch.randn(batch_size, head.na, g, g, 5 + head.nc, generator=generator) for g in grids]}


def make_batch(boxes: list[list[float]], batch_size: int, size: int = 128) -> dict:
    """`boxes`: rows of image, class, x, y, w, h."""
    rows = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 6)
    return {
        "img": torch.zeros(batch_size, 3, size, size),
        "batch_idx": rows[:, 0], "cls": rows[:, 1:2], "bboxes": rows[:, 2:],
    }


BOXES = [
    [0, 1, 0.3, 0.4, 0.2, 0.25], [0, 3, 0.7, 0.2, 0.5, 0.3],
    [2, 0, 0.5, 0.5, 0.9, 0.8], [2, 2, 0.1, 0.9, 0.1, 0.1],
]


def one_image(raw: dict, batch: dict, image: int) -> tuple[dict, dict]:
    mine = batch["batch_idx"] == image
    alone = {"img": batch["img"][image : image + 1], "batch_idx": batch["batch_idx"][mine] * 0}
    alone |= {k: batch[k][mine] for k in ("cls", "bboxes")}
    return {"preds": [p[image : image + 1] for p in raw["preds"]]}, alone


def test_anchor_loss_by_hand() -> None:
    # One level of stride 8, one anchor 16x16, one 16x16 image (2x2 cells), nc 2; a box of class 1: centre (12, 12) px
    # = (1.5, 1.5) cells, 16x16 px. Exactly the middle of cell (1, 1): no neighbour. All logits 0: centre = (2 * .5 -
    # .5 + 1) * 8 = 12, size = (2 * .5)^2 * 16 = 16: the prediction is exact, so box loss 0 and objectness target 1.
    head = one_level()
    raw = {"preds": [torch.zeros(1, 1, 2, 2, 7)]}
    losses = AnchorLoss(head, gains={"obj": 1.0, "cls": 0.5})(raw, make_batch([[0, 1, 0.75, 0.75, 1.0, 1.0]], 1, 16))
    positive, negative = 0.0612664, 0.1837992  # quality focal loss at logit 0 for y = 1 and 0 (first test)
    # Objectness: mean of one positive and three negative cells, times balance 4, gain 1, 3/1 levels, (16/640)^2.
    assert losses["obj_loss"].item() == pytest.approx((positive + 3 * negative) / 4 * 4 * 3 * (16 / 640) ** 2, rel=1e-4)
    # Class: mean of one positive and one negative, times the one level, gain 0.5 * 2/80 * 3/1.
    assert losses["cls_loss"].item() == pytest.approx((positive + negative) / 2 * 0.5 * 2 / 80 * 3, rel=1e-4)
    assert losses["box_loss"].item() == pytest.approx(0, abs=1e-6)


def test_box_loss_by_hand() -> None:
    # As above, but x logit = ln 3: sigma = 3/4, centre x = (1.5 - .5 + 1) * 8 = 16, 4 px off. Overlap 12 * 16 = 192,
    # union 320, IoU 0.6; rho^2 = 16; enclosing box 20 x 16: diagonal^2 = 656. Error = 0.4 + 16/656 = 0.424390, times
    # gain 0.05 * 3.
    head = one_level()
    preds = torch.zeros(1, 1, 2, 2, 7)
    preds[..., 0] = math.log(3)
    losses = AnchorLoss(head)({"preds": [preds]}, make_batch([[0, 1, 0.75, 0.75, 1.0, 1.0]], 1, 16))
    assert losses["box_loss"].item() == pytest.approx(0.424390 * 0.15, rel=1e-5)


def test_anchor_loss_equals_a_loop_over_images_levels_and_matches() -> None:
    head, raw, batch = make_head(), make_raw(3, make_head()), make_batch(BOXES, 3)
    loss = AnchorLoss(head, gains={"obj": 1.0, "cls": 0.5})
    assignment = loss.assign(raw, batch)
    box = obj = cls = 0.0
    for image in range(3):
        errors, wrong = [], []
        for pred, level, weight, i in zip(raw["preds"], assignment, (4.0, 1.0, 0.4), range(3), strict=True):
            pred, target = pred[image].double(), torch.zeros(pred.shape[1:4], dtype=torch.float64)
            for k in (level.image == image).nonzero().flatten().tolist():
                a, row, column = int(level.anchor[k]), int(level.row[k]), int(level.column[k])
                sigma = pred[a, row, column].sigmoid()
                centre = (sigma[:2] * 2 - 0.5 + torch.tensor([column, row])) * head.stride[i]
                half = (2 * sigma[2:4]) ** 2 * head.anchor_wh[i, a] / 2
                xywh = batch["bboxes"][level.target[k]].double() * 128
                truth = torch.cat((xywh[:2] - xywh[2:] / 2, xywh[:2] + xywh[2:] / 2))
                error = ciou_loss(torch.cat((centre - half, centre + half)), truth).item()
                errors.append(error)
                target[a, row, column] = max(target[a, row, column].item(), 1 - error)
                label = int(batch["cls"][level.target[k]])
                logits = pred[a, row, column, 5:].tolist()
                wrong.append(sum(naive_qfl(x, float(c == label), 0.25, 1.5) for c, x in enumerate(logits)) / 4)
            cells = zip(pred[..., 4].flatten().tolist(), target.flatten().tolist(), strict=True)
            obj += weight * sum(naive_qfl(x, y, 0.25, 1.5) for x, y in cells) / target.numel()
        box, cls = box + 3 * sum(errors) / max(len(errors), 1), cls + 3 * sum(wrong) / max(len(wrong), 1)
    got = loss(raw, batch)
    assert got["box_loss"].item() == pytest.approx(box / 3 * 0.05, rel=1e-5)
    assert got["obj_loss"].item() == pytest.approx(obj / 3 * (128 / 640) ** 2, rel=1e-5)
    assert got["cls_loss"].item() == pytest.approx(cls / 3 * 0.5 * 4 / 80, rel=1e-5)


def test_a_gain_of_the_terms_apart_keeps_them_apart() -> None:
    head = make_head()
    assert AnchorLoss(head).score == AnchorLoss(head, gains={"box": 0.1}).score == "joint"
    assert AnchorLoss(head, alpha=0.5).score == "apart"
    assert AnchorLoss(head, gains={"cls": 4.0}).score == "apart"  # as in YAMLs and checkpoints from before the joint score


def test_the_joint_score_is_the_product_in_float64() -> None:
    torch.manual_seed(0)
    objectness, classes = torch.randn(50, 1, dtype=torch.float64) * 4, torch.randn(50, 3, dtype=torch.float64) * 4
    targets, p = torch.rand(50, 3, dtype=torch.float64), objectness.sigmoid() * classes.sigmoid()
    expected = -(targets - p).abs() ** 1.5 * (targets * p.log() + (1 - targets) * (1 - p).log())
    torch.testing.assert_close(joint_quality_focal(objectness, classes, targets, 1.5), expected, rtol=1e-9, atol=1e-12)


def test_the_joint_score_is_finite_at_huge_logits() -> None:
    logits = torch.tensor([-1e4, -50, 0, 50, 1e4])
    objectness, classes = (x.reshape(-1, 1).repeat(3, 1).requires_grad_() for x in torch.meshgrid(logits, logits, indexing="ij"))
    targets = torch.tensor([0.0, 0.5, 1.0]).repeat_interleave(25)[:, None]
    loss = joint_quality_focal(objectness, classes, targets, 1.5)
    loss.sum().backward()
    assert all(x.isfinite().all() for x in (loss, objectness.grad, classes.grad))
    assert loss[50].item() == pytest.approx(2e4)  # both entirely wrong


def test_the_joint_score_by_hand() -> None:
    # As `test_anchor_loss_by_hand`: four predictors, one matched, target 1 for class 1. All logits 0: p = 1/4. Of class 1 at the match
    # 3/4 ln 4, of every other score 1/4 ln (4/3); divided by 3 anchors' worth of cells, as fewer are matched.
    head = one_level()
    losses = AnchorLoss(head)({"preds": [torch.zeros(1, 1, 2, 2, 7)]}, make_batch([[0, 1, 0.75, 0.75, 1.0, 1.0]], 1, 16))
    right, wrong = 0.75 * math.log(4), 0.25 * math.log(4 / 3)
    assert losses["cls_loss"].item() == pytest.approx(0.075 * (right + wrong) / 3, rel=1e-5)
    assert losses["obj_loss"].item() == pytest.approx(0.075 * 6 * wrong / 3, rel=1e-5)


def test_of_boxes_that_share_a_predictor_the_joint_score_has_both_classes_and_the_larger_overlap() -> None:
    head = one_level()
    preds, same = torch.full((1, 1, 2, 2, 7), -9.0), [0.75, 0.75, 1.0, 1.0]
    preds[..., :4], preds[0, 0, 1, 1, 4:] = 0, 9.0  # sure of both classes where the box is
    both = AnchorLoss(head)({"preds": [preds]}, make_batch([[0, 0, *same], [0, 1, *same]], 1, 16))
    one = AnchorLoss(head)({"preds": [preds]}, make_batch([[0, 0, *same]], 1, 16))
    assert both["cls_loss"] < 1e-4 < one["cls_loss"]


@pytest.mark.parametrize("score", SCORES)
def test_batch_loss_is_the_mean_of_single_image_losses(score: str) -> None:
    head, raw, batch = make_head(), make_raw(3, make_head()), make_batch(BOXES, 3)  # image 1 has no box
    loss = AnchorLoss(head, score=score)
    together = loss(raw, batch)
    alone = [loss(*one_image(raw, batch, i)) for i in range(3)]
    for name, value in together.items():
        assert value.item() == pytest.approx(sum(a[name].item() for a in alone) / 3, rel=1e-5), name
    assert alone[1]["box_loss"] == 0 and alone[1]["cls_loss"] == 0 and alone[1]["obj_loss"] > 0


@pytest.mark.parametrize("score", SCORES)
def test_every_image_has_a_gradient(score: str) -> None:
    head, raw, batch = make_head(), make_raw(3, make_head()), make_batch(BOXES, 3)
    preds = [p.requires_grad_() for p in raw["preds"]]
    sum(AnchorLoss(head, score=score)(raw, batch).values()).backward()
    assert all(p.grad.isfinite().all() for p in preds)
    for image in range(3):
        assert any(p.grad[image].abs().sum() > 0 for p in preds), image


def test_objectness_target_carries_no_gradient() -> None:
    head, raw, batch = make_head(), make_raw(1, make_head()), make_batch(BOXES[:2], 1)
    preds = [p.requires_grad_() for p in raw["preds"]]
    AnchorLoss(head, score="apart")(raw, batch)["obj_loss"].backward()
    for pred in preds:
        assert pred.grad[..., 4].abs().sum() > 0
        assert pred.grad[..., :4].abs().sum() == 0 and pred.grad[..., 5:].abs().sum() == 0


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("nc", [1, 4])
@pytest.mark.parametrize("boxes", [[], [[0, 0, 0.5, 0.5, 1.0, 1.0]]])
def test_same_keys_and_a_gradient_path_always(score: str, nc: int, boxes: list) -> None:
    head = make_head(nc)
    raw = make_raw(2, head)
    preds = [p.requires_grad_() for p in raw["preds"]]
    losses = AnchorLoss(head, score=score)(raw, make_batch(boxes, 2))
    assert list(losses) == ["box_loss", "obj_loss", "cls_loss"]
    for name, value in losses.items():
        assert value.shape == () and value.dtype == torch.float32 and value.isfinite() and value.requires_grad, name
    sum(losses.values()).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in preds)
    assert (losses["cls_loss"] > 0) == bool(boxes and (nc > 1 or score == "joint"))
    assert (losses["box_loss"] > 0) == bool(boxes)


def test_300_boxes_and_shared_predictors_take_the_largest_overlap() -> None:
    torch.manual_seed(3)
    head = make_head()
    raw, rows = make_raw(1, head), torch.rand(300, 6)
    rows[:, 0], rows[:, 1] = 0, (rows[:, 1] * 4).floor()
    batch = make_batch(rows.tolist(), 1)
    flipped = batch | {k: batch[k].flip(0) for k in ("batch_idx", "cls", "bboxes")}
    one, two = AnchorLoss(head)(raw, batch), AnchorLoss(head)(raw, flipped)
    for name in one:  # the order of the boxes changes nothing
        assert one[name].isfinite() and one[name].item() == pytest.approx(two[name].item(), rel=1e-5), name


def test_inputs_are_unchanged_and_an_assignment_that_is_given_is_used() -> None:
    head, raw, batch = make_head(), make_raw(3, make_head()), make_batch(BOXES, 3)
    before = [p.clone() for p in raw["preds"]], {k: v.clone() for k, v in batch.items()}, list(map(id, raw["preds"]))
    loss = AnchorLoss(head)
    own, given = loss(raw, batch), loss(raw, batch, loss.assign(raw, batch))
    assert all(torch.equal(own[name], given[name]) for name in own)
    none = loss(raw, batch, loss.assign(raw, {k: v[:0] if k != "img" else v for k, v in batch.items()}))
    assert none["box_loss"] == 0 < own["box_loss"]
    assert all(map(torch.equal, raw["preds"], before[0])) and list(map(id, raw["preds"])) == before[2]
    assert all(torch.equal(batch[k], v) for k, v in before[1].items())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_losses_are_float32_under_autocast_and_for_half_predictions(dtype: torch.dtype) -> None:
    head, batch = make_head(), make_batch(BOXES, 3)
    raw = {"preds": [p.to(dtype) for p in make_raw(3, head)["preds"]]}
    expected = AnchorLoss(head)({"preds": [p.float() for p in raw["preds"]]}, batch)
    with torch.autocast("cpu", torch.bfloat16):
        got = AnchorLoss(head)(raw, batch)
    assert all(got[k].dtype == torch.float32 and torch.equal(got[k], expected[k]) for k in got)


def test_anchors_are_read_at_every_call_and_the_head_is_not_a_submodule() -> None:
    class Head(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.nc, self.nl, self.na, self.stride = 4, 3, 3, torch.tensor([8.0, 16, 32])
            self.pixels_per_cell = (8.0, 16.0, 32.0)
            self.register_buffer("anchor_wh", ANCHORS.clone())

    head, batch = Head(), make_batch(BOXES, 3)
    loss = AnchorLoss(head)
    assert not loss.state_dict() and not list(loss.children())
    before = loss(make_raw(3, make_head()), batch)["box_loss"]
    head.anchor_wh *= 1.5
    assert loss(make_raw(3, make_head()), batch)["box_loss"] != before


def test_gains_scale_the_terms() -> None:
    head, raw, batch = make_head(), make_raw(3, make_head()), make_batch(BOXES, 3)
    plain = AnchorLoss(head, score="apart")(raw, batch)
    doubled = AnchorLoss(head, gains={"box": 0.1, "balance": [8, 2, 0.8]})(raw, batch)
    assert doubled["box_loss"].item() == pytest.approx(2 * plain["box_loss"].item())
    assert doubled["obj_loss"].item() == pytest.approx(2 * plain["obj_loss"].item())
    assert doubled["cls_loss"].item() == plain["cls_loss"].item()


def test_level_balance() -> None:
    strides = (4, 8, 16, 32, 64, 128)
    assert Gains().level_balance(strides[:3]) == (4.0, 1.0, 0.4)
    assert Gains().level_balance(strides[:4]) == (4.0, 1.0, 0.25, 0.06)
    assert Gains().level_balance(strides[:5]) == (4.0, 1.0, 0.25, 0.06, 0.02)
    # YOLOv5 has none for six levels: a quarter of the fifth.
    assert Gains().level_balance(strides) == (4.0, 1.0, 0.25, 0.06, 0.02, 0.005)
    two_towers = (16.0, 8.0, 16.0, 32.0)
    assert Gains().level_balance(two_towers) == (1.0, 4.0, 1.0, 0.4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"gains": {"bix": 1}}, "did you mean 'box'"),
        ({"gains": {"box": "much"}}, "expected box to be a number"),
        ({"gains": {"obj": -1.0}}, "at least 0"),
        ({"alpha": 2.0}, "alpha: expected"),
        ({"beta": 0.5}, "beta: expected"),
        ({"score": "joined"}, "did you mean 'joint'"),
        ({"score": "joint", "gains": {"cls": 4}}, "cls weigh terms that score: joint has not"),
        ({"score": "joint", "alpha": 0.3}, "alpha weigh terms that score: joint has not"),
        ({"score": "apart", "gains": {"score": 1}}, "score weighs a term that score: apart has not"),
        ({"gains": {"obj": 64, "score": 1}}, "score weighs a term that score: apart has not"),
    ],
)
def test_wrong_options_are_refused(options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        AnchorLoss(make_head(), **options)


def test_balance_of_the_wrong_length_is_refused_before_the_first_step() -> None:
    with pytest.raises(UserError, match="balance to have 3"):
        AnchorLoss(make_head(), gains={"balance": [1, 2]})
