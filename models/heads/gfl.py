"""Heads with box distributions: GFL's (Li et al. 2020) and HKH, the heterogeneous knowledge head (HSD FTI-FDet)."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from cfg import UserError, nearest
from models.channels import Axis, Grid, Part, cells
from models.heads import HEADS
from models.heads.base import Head, check_classes
from models.losses.gfl import GFLLoss, expected_bin
from models.rules import Plan, Site, required, whole
from models.wiring import Scope

STYLES = {"gfl": (3, False, 4), "hkh": (5, True, 3)}  # kernel, depth-wise separable, convs per branch
RARE = 0.01  # class score at the start of training (Lin et al. 2017, 3.3)


class NormConv(nn.Sequential):
    """Conv, GroupNorm of up to 32 groups, ReLU: (B, C_in, H, W) -> (B, C_out, H, W)."""

    def __init__(self, c_in: int, c_out: int, kernel: int, groups: int = 1) -> None:
        conv = nn.Conv2d(c_in, c_out, kernel, 1, kernel // 2, groups=groups, bias=False)
        super().__init__(conv, nn.GroupNorm(math.gcd(32, c_out), c_out), nn.ReLU())


def branch(c_in: int, hidden: int, depth: int, kernel: int, separable: bool) -> nn.Sequential:
    """`depth` convs to `hidden` channels, dense or each a depth-wise and a 1x1 conv, both normalised."""
    layers: list[nn.Module] = []
    for channels in [c_in, *[hidden] * (depth - 1)]:
        if separable:
            layers += [NormConv(channels, channels, kernel, channels), NormConv(channels, hidden, 1)]
        else:
            layers += [NormConv(channels, hidden, kernel)]
    return nn.Sequential(*layers)


@HEADS.register("GFLDetect")
class GFLDetect(Head):
    """Anchor-free head, shared by all levels: class scores that are also a measure of quality, boxes as distributions.

    Row: `[[level, ...], 1, GFLDetect, [nc, style, hidden, depth, bins]]` with style `gfl` (four dense 3x3 convs per
    branch) or `hkh` (three 5x5 depth-wise separable ones). Levels of different channels first pass a 1x1 conv each.

    Training output: `{"boxes": (B, 4 * R, A), "scores": (B, K, A) logits, "feats": [(B, C, H, W) per level]}`, R bins:
    each side (left, top, right, bottom) is a distribution over 0 ... R - 1 strides; its logits have a learned factor
    per level. Evaluation output: `(y, raw)` with y (B, 4 + K, A), boxes xywh in input pixels; export output: y alone
    (boxes xyxy when `self.xyxy`).
    """

    criterion = GFLLoss
    loss_terms = ("box_loss", "cls_loss", "dfl_loss")  # FR, FC, FD

    @staticmethod
    def rule(site: Site) -> Plan:
        required(site.args, 1, "nc, style, hidden, depth, bins")
        nc, *rest = site.args
        check_classes(nc)
        if len(rest) > 1 and rest[1] is not None:
            rest[1] = site.scale(whole("hidden", rest[1]))
        if len(rest) > 2 and rest[2] is not None:
            rest[2] = whole("depth", rest[2])
        return Plan(None, (nc, site.channels, site.strides, *rest))

    def __init__(
        self,
        nc: int,
        channels: tuple[int, ...],
        strides: tuple[int, ...],
        style: str = "gfl",
        hidden: int | None = None,
        depth: int | None = None,
        bins: int = 17,
    ) -> None:
        if style not in STYLES:
            raise UserError(f"unknown head style '{style}'; expected {' or '.join(STYLES)}{nearest(style, STYLES)}")
        if not isinstance(bins, int) or isinstance(bins, bool) or bins < 2:
            raise UserError(f"expected at least 2 bins per side, got {bins!r}; GFL has 17 (0 ... 16)")
        super().__init__(nc, strides, bins, nc + 4 * bins)
        kernel, separable, usual = STYLES[style]
        hidden, depth = hidden or max(channels), depth or usual
        alike = len(set(channels)) == 1
        self.join = nn.ModuleList(nn.Identity() if alike else nn.Conv2d(c, hidden, 1) for c in channels)
        c_in = channels[0] if alike else hidden
        self.classes = branch(c_in, hidden, depth, kernel, separable)
        self.regression = branch(c_in, hidden, depth, kernel, separable)
        self.class_out = nn.Conv2d(hidden, nc, 3, padding=1)
        self.box_out = nn.Conv2d(hidden, 4 * bins, 3, padding=1)
        self.scale = nn.Parameter(torch.ones(self.nl))  # of the box logits, one per level
        self.bias_init()

    def wire(self, scope: Scope, inputs: list[Axis], out: None) -> list[Axis]:
        strides = [int(s) for s in self.pixels_per_cell]
        alike = isinstance(self.join[0], nn.Identity)
        joined = inputs[0] if alike else scope.new(len(self.join[0].get_parameter("weight")))
        for i, (axis, stride) in enumerate(zip(inputs, strides)):
            scope.at(f"join.{i}", f"join {stride}").layers(axis, joined)
        classes, boxes = scope.at("classes").layers(joined), scope.at("regression").layers(joined)
        scope.at("class_out").layers(classes, scope.classes(self.nc))
        scope.at("box_out").layers(boxes, (Grid(cells(4), cells(self.reg_max)),))
        scope.tensor("scale", tuple(Part(f"level {stride}", 1) for stride in strides))
        return []

    def bias_init(self) -> None:
        """GFL's start: small weights in all convs, and every class unlikely."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.normal_(module.weight, std=0.01)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
        nn.init.constant_(self.class_out.get_parameter("bias"), -math.log((1 - RARE) / RARE))

    def class_rows(self, nc: int) -> dict[str, torch.Tensor]:
        return dict.fromkeys(("class_out.weight", "class_out.bias"), torch.arange(nc))

    def forward(self, features: list[torch.Tensor]) -> Any:
        levels = [self._logits(i, x) for i, x in enumerate(features)]
        boxes, scores = (torch.cat([x.flatten(2) for x in part], 2) for part in zip(*levels))
        raw = {"boxes": boxes, "scores": scores, "feats": list(features)}
        if self.training:
            return raw
        y = self.decode(raw)
        return y if self.export else (y, raw)

    def _logits(self, level: int, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(B, C, H, W) -> box logits (B, 4 * R, H, W), class logits (B, K, H, W)."""
        features = self.join[level](features)
        boxes = self.box_out(self.regression(features)) * self.scale[level]
        return boxes, self.class_out(self.classes(features))

    def decode(self, raw: dict[str, Any]) -> torch.Tensor:
        """Raw predictions -> (B, 4 + K, A): mean of each distribution in pixels, class scores as probabilities."""
        boxes, scores = (raw[k] if self.export else raw[k].float() for k in ("boxes", "scores"))
        batch, _, points = boxes.shape
        distances = expected_bin(boxes.view(batch, 4, self.reg_max, points).transpose(2, 3))
        xy, stride = self._points(raw["feats"], boxes)
        low, high = (xy - distances[:, :2]) * stride, (xy + distances[:, 2:]) * stride
        corners = (low, high) if self.xyxy else ((low + high) / 2, high - low)
        return torch.cat((*corners, scores.sigmoid()), 1)

    def _points(self, feats: list[torch.Tensor], like: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Cell middles (1, 2, A) in cells and strides (1, 1, A), from sizes read at run time for dynamic exports."""
        points, strides = [], []
        for x, stride in zip(feats, self.pixels_per_cell):
            height, width = x.shape[-2:]
            rows = torch.arange(height, device=like.device, dtype=like.dtype).view(-1, 1).expand(height, width) + 0.5
            columns = torch.arange(width, device=like.device, dtype=like.dtype).view(1, -1).expand(height, width) + 0.5
            points.append(torch.stack((columns.flatten(), rows.flatten())))
            strides.append(torch.full_like(points[-1][:1], stride))
        return torch.cat(points, 1)[None], torch.cat(strides, 1)[None]
