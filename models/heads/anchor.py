"""Anchor-based heads: coupled (YOLOv5), decoupled (YOLOX), decoupled with attention (Zhang et al. 2022, Fig. 6, Table 5)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from cfg import UserError, nearest
from models.blocks.attention import check_attention, make_attention
from models.blocks.host import Conv
from models.channels import Axis, Grid, Part, cells
from models.heads import HEADS
from models.heads.base import Head, check_classes
from models.losses.anchor import AnchorLoss
from models.rules import Plan, Site, required, whole
from models.wiring import Place, Scope

STYLES = ("coupled", "decoupled")


class DecoupledBranches(nn.Module):
    """Classification and regression apart: (B, C, H, W) -> (B, anchors * (5 + nc), H, W) in the coupled head's order.

    The attention stands in the classification branch only; the regression branch also gives objectness (as in YOLOX).
    """

    def __init__(self, channels: int, hidden: int, depth: int, nc: int, anchors: int, attention: str) -> None:
        super().__init__()
        self.nc, self.na = nc, anchors
        self.stem = Conv(channels, hidden, 1)
        self.classes = nn.Sequential(*(Conv(hidden, hidden, 3) for _ in range(depth)), make_attention(attention, hidden))
        self.regression = nn.Sequential(*(Conv(hidden, hidden, 3) for _ in range(depth)))
        self.class_out = nn.Conv2d(hidden, anchors * nc, 1)
        self.box_out = nn.Conv2d(hidden, anchors * 5, 1)

    def wire(self, scope: Scope, inputs: list[Axis], out: None) -> None:
        anchors, features = (Part("anchors", self.na),), scope.at("stem").layers(inputs[0])
        classes, boxes = scope.at("classes").layers(features), scope.at("regression").layers(features)
        scope.at("class_out").layers(classes, (Grid(anchors, scope.classes(self.nc)),))
        scope.at("box_out").layers(boxes, (Grid(anchors, cells(5)),))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        features = self.stem(features)
        classes, boxes = self.class_out(self.classes(features)), self.box_out(self.regression(features))
        batch, _, height, width = boxes.shape
        parts = (boxes.view(batch, self.na, 5, height, width), classes.view(batch, self.na, self.nc, height, width))
        return torch.cat(parts, 2).flatten(1, 2)


@HEADS.register("AnchorDetect")
class AnchorDetect(Head):
    """Anchor head over any list of pyramid levels.

    Row: `[[level, ...], 1, AnchorDetect, [nc, anchors, style, attention, hidden, depth]]` with style `coupled` or
    `decoupled`. Its hidden width at a level is that level's channels, at most `hidden` (at the model's width).

    Training output: `{"preds": [(B, na, H, W, 5 + nc) logits per level], "feats": [(B, C, H, W) per level]}`.
    Evaluation output: `(y, raw)` with y (B, 4 + nc, N), boxes xywh in input pixels, scores class times objectness, and N
    the sum of na * H * W; export output: y alone (boxes xyxy when `self.xyxy`).
    """

    anchor_wh: torch.Tensor
    criterion = AnchorLoss
    loss_terms = ("box_loss", "obj_loss", "cls_loss")  # what `loss` returns, in the order of eq. 17

    @staticmethod
    def rule(site: Site) -> Plan:
        required(site.args, 2, "nc, anchors, style, attention, hidden, depth")
        nc, anchors, *rest = site.args
        check_classes(nc)
        if not isinstance(anchors, (int, list)) or isinstance(anchors, bool):
            raise UserError(f"expected anchors to be rows of pixels or their number per level, got {anchors!r}")
        if len(rest) > 2:
            rest[2] = site.scale(whole("hidden", rest[2]))
        return Plan(None, (nc, anchors, site.channels, site.strides, *rest))

    def __init__(
        self,
        nc: int,
        anchors: list[list[float]] | int,
        channels: tuple[int, ...],
        strides: tuple[int, ...],
        style: str = "coupled",
        attention: str = "none",
        hidden: int = 256,
        depth: int = 2,
    ) -> None:
        if style not in STYLES:
            raise UserError(f"unknown head style '{style}'; expected {' or '.join(STYLES)}{nearest(style, STYLES)}")
        check_attention(attention)
        depth = whole("depth", depth, 0)
        super().__init__(nc, strides, reg_max=1, no=nc + 5)
        sizes = _anchor_sizes(anchors, strides)
        self.na = sizes.shape[1]
        self.register_buffer("anchor_wh", sizes)  # (nl, na, 2) input pixels
        self.m = nn.ModuleList(
            nn.Conv2d(c, self.na * self.no, 1)
            if style == "coupled"
            else DecoupledBranches(c, min(c, hidden), depth, nc, self.na, attention)
            for c in channels
        )
        self.bias_init()

    def wire(self, scope: Scope, inputs: list[Axis], out: None) -> list[Axis]:
        style = "coupled" if isinstance(self.m[0], nn.Conv2d) else "decoupled"
        anchors, strides = (Part("anchors", self.na),), [int(s) for s in self.pixels_per_cell]
        coupled = (Grid(anchors, (*cells(5), *scope.classes(self.nc))),)
        for i, (axis, stride) in enumerate(zip(inputs, strides)):
            scope.at(f"m.{i}").as_unit(style, Place("head", stride)).layers(axis, coupled if style == "coupled" else None)
        levels = tuple(Part(f"level {stride}", 1) for stride in strides)
        scope.as_unit(f"{style}: anchors").tensor("anchor_wh", levels, anchors, cells(2))
        return []

    def bias_init(self) -> None:
        """Start with rare objects: about 8 per 640-pixel image, and classes equally likely (Lin et al. 2017, 3.3)."""
        for branch, stride in zip(self.m, self.pixels_per_cell):
            coupled = isinstance(branch, nn.Conv2d)
            boxes = branch.get_parameter("bias" if coupled else "box_out.bias")
            classes = branch.get_parameter("bias" if coupled else "class_out.bias")
            with torch.no_grad():
                boxes.view(self.na, -1)[:, 4] += math.log(8 / (640 / stride) ** 2)
                classes.view(self.na, -1)[:, 5 if coupled else 0 :] += math.log(0.6 / (self.nc - 0.99999))

    def class_rows(self, nc: int) -> dict[str, torch.Tensor]:
        rows: dict[str, torch.Tensor] = {}
        for level, branch in enumerate(self.m):
            coupled = isinstance(branch, nn.Conv2d)  # boxes and objectness before the classes of each anchor
            name, before = (f"m.{level}", 5) if coupled else (f"m.{level}.class_out", 0)
            of_anchor = torch.cat((torch.full((before,), -1), torch.arange(nc)))
            rows |= dict.fromkeys((f"{name}.weight", f"{name}.bias"), of_anchor.repeat(self.na))
        return rows

    def forward(self, features: list[torch.Tensor]) -> Any:
        raw = {"preds": [self._logits(i, x) for i, x in enumerate(features)], "feats": list(features)}
        if self.training:
            return raw
        y = self.decode(raw["preds"])
        return y if self.export else (y, raw)

    def _logits(self, level: int, features: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) -> (B, na, H, W, 5 + nc)."""
        out = self.m[level](features)
        batch, _, height, width = out.shape
        return out.view(batch, self.na, self.no, height, width).permute(0, 1, 3, 4, 2)

    def decode(self, preds: list[torch.Tensor]) -> torch.Tensor:
        """Logits per level -> (B, 4 + nc, N): YOLOv5's box equations, classes multiplied by objectness."""
        levels = [self._decode_level(i, p) for i, p in enumerate(preds)]
        centers, sizes, scores = (torch.cat(parts, 2) for parts in zip(*levels))
        boxes = (centers - sizes / 2, centers + sizes / 2) if self.xyxy else (centers, sizes)
        return torch.cat((*boxes, scores), 1)

    def _decode_level(self, level: int, logits: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """(B, na, H, W, 5 + nc) logits -> xy and wh in pixels, (B, 2, na * H * W) each, and scores (B, nc, na * H * W).

        Channels stay before cells, as the convolutions give them: moving them behind costs more than all the arithmetic.
        """
        logits = logits.permute(0, 1, 4, 2, 3)
        height, width = logits.shape[3], logits.shape[4]
        sigmoid = logits.sigmoid() if self.export else logits.float().sigmoid()
        xy, wh, objectness, classes = sigmoid.split((2, 2, 1, self.nc), 2)
        stride, grid = self.pixels_per_cell[level], self._grid(height, width, sigmoid)
        centers = xy * (2 * stride) + (grid - 0.5) * stride
        sizes = wh * wh * (4 * self.anchor_wh[level].to(sigmoid.dtype)).view(1, self.na, 2, 1, 1)
        return tuple(x.transpose(1, 2).flatten(2) for x in (centers, sizes, classes * objectness))

    @staticmethod
    def _grid(height: int, width: int, like: torch.Tensor) -> torch.Tensor:
        """Column and row of each cell, (1, 1, 2, H, W)."""
        rows = torch.arange(height, device=like.device, dtype=like.dtype).view(1, 1, 1, height, 1)
        columns = torch.arange(width, device=like.device, dtype=like.dtype).view(1, 1, 1, 1, width)
        return torch.cat((columns.expand(1, 1, 1, height, width), rows.expand(1, 1, 1, height, width)), 2)


def _anchor_sizes(anchors: list[list[float]] | int, strides: tuple[int, ...]) -> torch.Tensor:
    """Anchors of the YAML as (nl, na, 2) pixels; a mere number of anchors gives squares of 2 to 6 strides to start from."""
    if isinstance(anchors, int):
        multiples = torch.linspace(2, 6, whole("anchors", anchors)).view(1, -1, 1)
        return torch.tensor(strides, dtype=torch.float32).view(-1, 1, 1) * multiples.expand(len(strides), -1, 2)
    if len(anchors) != len(strides):
        raise UserError(f"expected anchors for {len(strides)} levels (strides {list(strides)}), got {len(anchors)} rows")
    sizes = torch.tensor(anchors, dtype=torch.float32).view(len(strides), -1, 2)
    if not (sizes.isfinite() & (sizes > 0)).all() or not sizes.numel():
        raise UserError(f"expected anchors of widths and heights above 0, in pixels, got {anchors!r}; correct them")
    return sizes
