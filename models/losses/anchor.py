"""Detection loss of anchor heads: CIoU for boxes, quality focal loss for objectness and classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from cfg.errors import UserError, is_number, nearest
from models.assign import LevelAssignment, assign_anchors
from models.losses.iou import ciou_loss
from models.losses.joint import joint_scores
from models.losses.qfocal import quality_focal

Assignment = list[LevelAssignment]  # one entry per level
BETA = {"joint": 1.0, "apart": 1.5}  # by score
SCORES = tuple(BETA)
APART = ("obj", "cls", "balance")  # gains of the two score terms that `joint` has in one


@dataclass(frozen=True)
class Gains:
    """Base gains of the terms; `score` of the joint one, `obj` and `cls` of the two terms of `score: apart`.

    The joint score needs no gain of its own for each data set: `score` is to `box` as in GFL (1 to 2 per match).

    Differs from YOLOv5 (box 0.05, obj 1, cls 0.5): those were tuned for binary cross-entropy, beside which quality focal loss is
    small. With them the gradient of `obj` at the neck is 600 times smaller than that of `box` at the start (86 times after two
    epochs on NEU-DET), and objectness is hardly learned. These values bring the three within a factor of two of each other
    after two epochs; `gains: {obj: 1.0, cls: 0.5}` in a model's `loss:` section restores YOLOv5's.

    What is applied to box, obj and cls follows YOLOv5: all three times 3 / levels, `obj` times the image area over 640 x 640, `cls` times nc / 80.
    `balance` weighs the objectness of each level, finest first; empty = YOLOv5's own for the number of levels.
    """

    box: float = 0.05
    obj: float = 64.0
    cls: float = 2.0
    score: float = 0.075
    balance: tuple[float, ...] = ()

    @classmethod
    def of(cls, options: Mapping[str, object] | Gains | None) -> Gains:
        """Gains from a mapping (a YAML section); the rest keeps its default. `UserError` on a wrong name or value."""
        if isinstance(options, Gains):
            return options
        known = [f.name for f in fields(cls)]
        if not isinstance(options or {}, Mapping):
            raise UserError(f"gains: expected gains by name, as 'box: 0.05', got {options!r}; correct it")
        for name, value in (options or {}).items():
            if name not in known:
                raise UserError(f"gains: expected names among {', '.join(known)}, got '{name}'{nearest(name, known)}")
            numbers = value if name == "balance" and isinstance(value, (list, tuple)) else [value]
            if not all(is_number(n) and n >= 0 for n in numbers):
                raise UserError(f"gains: expected {name} to be a number of at least 0, got {value!r}; correct it")
        given: dict[str, Any] = dict(options or {})
        if "balance" in given:
            balance = given["balance"]
            given["balance"] = tuple(balance) if isinstance(balance, (list, tuple)) else (balance,)
        return cls(**given)

    def level_balance(self, strides: Sequence[float]) -> tuple[float, ...]:
        """Objectness weight of each level: YOLOv5's for up to 5 strides, a quarter per stride beyond.

        Levels of one stride, as two towers have, weigh the same.
        """
        if self.balance:
            if len(self.balance) != len(strides):
                wanted, got = len(strides), len(self.balance)
                raise UserError(f"gains: expected balance to have {wanted} numbers (one per level), got {got}; fix it")
            return self.balance
        ranks = sorted(set(strides))
        if len(ranks) == 3:
            weights = [4.0, 1.0, 0.4]
        else:
            weights = [4.0, 1.0, 0.25, 0.06, 0.02] + [0.02 / 4**i for i in range(1, len(ranks) - 4)]
        return tuple(weights[ranks.index(stride)] for stride in strides)


class AnchorHead(Protocol):
    """What the loss reads of a head: at every call, because anchors may be fitted to the data after the loss was made."""

    nc: int
    nl: int
    na: int
    stride: Tensor  # (nl,)
    pixels_per_cell: tuple[float, ...]  # the same numbers
    anchor_wh: Tensor  # (nl, na, 2) input pixels


class AnchorLoss(nn.Module):
    """YOLOv5's detection loss with quality focal loss (Zhang et al. 2022, eqs. 14-16), independent of the batch size.

    Differs from YOLOv5: box and class terms are the mean over the matches *of one image* (over all its levels, times
    the number of levels, which keeps YOLOv5's magnitude), then the mean over images. YOLOv5 divides by the matches of
    the whole batch, so that an image's weight depends on its neighbours. And where several boxes share a predictor,
    its objectness target is the largest of their overlaps, not that of whichever was written last.

    Differs from the paper: by default there is one score term instead of eq. 14's two (`score`). As two terms they compete, and their
    balance depends on the data: the best `gains: cls` was 2 on NEU-DET and 8 on DeepPCB.

    Args:
        head: whose predictions it judges.
        alpha: of eq. 14, 0.25 where None; the joint score has none.
        beta: exponent of the focusing factor. None: 1.5 as in eq. 14, and 1 for the joint score, which was better on held-out images of two
            data sets (benchmarks/learning.md).
        gains: overrides of `Gains`.
        anchor_ratio: matching threshold of `assign_anchors`.
        score: `joint` trains objectness times class score, by which detections are ranked, as one number (`models.losses.joint`);
            `apart` is the paper's way. None: `apart` where `alpha` or `gains` weigh its terms, else `joint`.

    Raises:
        UserError: a value out of its range, or an option of the other score.
    """

    head: AnchorHead

    def __init__(
        self, head: AnchorHead, alpha: float | None = None, beta: float | None = None,
        gains: Mapping[str, object] | Gains | None = None, anchor_ratio: float = 4.0, score: str | None = None,
    ) -> None:
        super().__init__()
        if alpha is not None and not (is_number(alpha) and 0 <= alpha <= 1):
            raise UserError(f"alpha: expected a number from 0 to 1, got {alpha!r}; the paper's is 0.25")
        if beta is not None and (not is_number(beta) or (beta < 1 and beta != 0)):
            raise UserError(f"beta: expected 0 or at least 1, got {beta!r}; the paper's is 1.5")
        given = gains if isinstance(gains, Mapping) else {}
        weighed = [name for name in APART if name in given] + ["alpha"] * (alpha is not None)
        score = score or ("apart" if weighed else "joint")
        if score not in SCORES:
            raise UserError(f"score: expected {' or '.join(SCORES)}, got {score!r}{nearest(str(score), SCORES)}; correct it")
        if score == "joint" and weighed:
            raise UserError(f"loss: {', '.join(weighed)} weigh terms that score: joint has not; leave them out or say score: apart")
        if score == "apart" and "score" in given:
            raise UserError("gains: score weighs a term that score: apart has not; leave it out or say score: joint without obj, cls, balance, alpha")
        if not is_number(anchor_ratio) or anchor_ratio <= 1:
            raise UserError(f"anchor_ratio: expected a number above 1, got {anchor_ratio!r}; YOLOv5's is 4")
        # Not a submodule: a model that keeps its loss as an attribute must not have the head's tensors twice.
        object.__setattr__(self, "head", head)
        self.alpha = 0.25 if alpha is None else alpha
        self.beta = BETA[score] if beta is None else beta
        self.anchor_ratio, self.score = anchor_ratio, score
        self.gains = Gains.of(gains)
        self.gains.level_balance(head.pixels_per_cell)  # of a wrong length now, or at the first step

    def forward(
        self, raw: Mapping[str, Sequence[Tensor]], batch: Mapping[str, Tensor], assignment: Assignment | None = None
    ) -> dict[str, Tensor]:
        """Losses of a batch, gains included: 0-d float32 `box_loss`, `obj_loss`, `cls_loss`, each a mean over images.

        Args:
            raw: `preds`: per level (B, na, H, W, 5 + nc) logits in the order x, y, w, h, objectness, classes.
            batch: `img` (B, 3, H, W); `batch_idx` (N,), `cls` (N, 1), `bboxes` (N, 4) xywh, 0..1 of the image.
            assignment: what `assign` gives for the two; None: it is made here.
        """
        preds = raw["preds"]
        with torch.autocast(preds[0].device.type, enabled=False):
            preds = [p.float() for p in preds]
            assignment = self.assign(raw, batch) if assignment is None else assignment
            matched = [p[a.image, a.anchor, a.row, a.column] for p, a in zip(preds, assignment, strict=True)]
            box = self._box_errors(matched, assignment)
            share = _image_share(assignment, len(preds[0]))
            terms = {"box_loss": (share * torch.cat(box)).sum()}
            if self.score == "joint":
                qualities = [_quality(error) for error in box]
                terms["cls_loss"], terms["obj_loss"] = joint_scores(preds, assignment, qualities, self.beta, 3 * self.head.na)
            else:
                terms["obj_loss"] = self._objectness(preds, assignment, box)
                terms["cls_loss"] = (share * self._class_errors(torch.cat(matched)[:, 5:], assignment)).sum()
            gains = self._scaled_gains(batch["img"].shape[-2:])
            return {name: terms[name] * gain for name, gain in gains.items()}

    @torch.no_grad()
    def assign(self, raw: Mapping[str, Sequence[Tensor]], batch: Mapping[str, Tensor]) -> Assignment:
        """Match the batch's boxes to the head's predictors; only the shapes of `raw["preds"]` matter."""
        preds, (height, width) = raw["preds"], batch["img"].shape[-2:]
        device = preds[0].device
        size = torch.tensor([width, height, width, height], device=device)
        boxes = batch["bboxes"].to(device).float().reshape(-1, 4) * size
        labels = [batch[key].to(device).float().reshape(-1, 1) for key in ("batch_idx", "cls")]
        shapes = [(p.shape[2], p.shape[3]) for p in preds]
        targets = torch.cat((*labels, boxes), 1)
        return assign_anchors(targets, shapes, self.head.anchor_wh, self.head.stride, self.anchor_ratio)

    def _box_errors(self, matched: list[Tensor], assignment: Assignment) -> list[Tensor]:
        """Per level (M,) the `1 - CIoU` of the matches (eq. 15)."""
        anchors, strides = self.head.anchor_wh.to(matched[0]), self.head.stride.to(matched[0])
        levels = zip(matched, assignment, anchors, strides, strict=True)
        return [ciou_loss(_decode_xyxy(p, a, wh, s), _xyxy(a.box_xywh * s)) for p, a, wh, s in levels]

    def _objectness(self, preds: list[Tensor], assignment: Assignment, box: list[Tensor]) -> Tensor:
        """Quality focal loss of objectness, balanced over levels; a match's target is its CIoU, at least 0 (YOLOv5)."""
        balance = self.gains.level_balance(self.head.pixels_per_cell)
        total = preds[0].new_zeros(())
        for pred, level, error, weight in zip(preds, assignment, box, balance, strict=True):
            quality = _quality(error)
            logits = pred[..., 4]
            _, anchors, rows, columns = logits.shape
            cell = ((level.image * anchors + level.anchor) * rows + level.row) * columns + level.column
            target = torch.zeros_like(logits).flatten().scatter_reduce(0, cell, quality, "amax").view_as(logits)
            total = total + weight * quality_focal(logits, target, self.alpha, self.beta).mean()
        return total

    def _class_errors(self, logits: Tensor, assignment: Assignment) -> Tensor:
        """(M,) quality focal loss of the matches, mean over classes; 0 with one class, as in YOLOv5.

        Targets are 0 and 1. Eq. 14 has smoothed labels, and the paper gives no number: YOLOv5's default does not smooth.
        """
        if self.head.nc == 1:
            return logits.sum(-1) * 0
        labels = torch.cat([level.cls for level in assignment])
        targets = torch.zeros_like(logits).scatter(1, labels[:, None], 1.0)
        return quality_focal(logits, targets, self.alpha, self.beta).mean(-1)

    def _scaled_gains(self, image_hw: Sequence[int]) -> dict[str, float]:
        """The gains after YOLOv5's scaling with levels, classes and image area."""
        levels, area = 3 / self.head.nl, image_hw[0] * image_hw[1] / 640**2
        if self.score == "joint":
            return {"box_loss": self.gains.box * levels, "obj_loss": self.gains.score, "cls_loss": self.gains.score}
        return {
            "box_loss": self.gains.box * levels,
            "obj_loss": self.gains.obj * levels * area,
            "cls_loss": self.gains.cls * levels * self.head.nc / 80,
        }


def _quality(error: Tensor) -> Tensor:
    """(M,) score target of matches from their `1 - CIoU`: the overlap, at least 0 (YOLOv5)."""
    return (1 - error.detach()).clamp(0, 1)


def _image_share(assignment: Assignment, batch_size: int) -> Tensor:
    """(M,) weight of each match over all levels; a weighted sum is the mean over images of levels times image mean."""
    image = torch.cat([level.image for level in assignment])
    counts = torch.bincount(image, minlength=batch_size)
    return len(assignment) / (batch_size * counts[image].float())


def _decode_xyxy(logits: Tensor, level: LevelAssignment, anchor_wh: Tensor, stride: Tensor) -> Tensor:
    """Boxes (M, 4) of matched predictions (M, 5 + nc) by YOLOv5's decoding; boxes and `anchor_wh` (na, 2) in pixels."""
    cells = torch.stack((level.column, level.row), 1)
    centre = (logits[:, :2].sigmoid() * 2 - 0.5 + cells) * stride
    size = (logits[:, 2:4].sigmoid() * 2).square() * anchor_wh[level.anchor]
    return _xyxy(torch.cat((centre, size), 1))


def _xyxy(boxes_xywh: Tensor) -> Tensor:
    """Corners (M, 4) of boxes given by centre and size."""
    centre, size = boxes_xywh.split(2, 1)
    return torch.cat((centre - size / 2, centre + size / 2), 1)
