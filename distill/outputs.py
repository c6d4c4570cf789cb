"""What heads predict for each cell of a level, whatever their kind."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from cfg import UserError
from distill.base import Spec, View


def check_cells(method: str, spec: Spec) -> None:
    """Raise `UserError` when a network's predictions do not lie on the cells of its levels (as RT-DETR's)."""
    if spec.anchors is None:
        raise UserError(
            f"{method}: expected predictions for each cell of the feature maps, {spec.label} has none; "
            "use a feature method (cwd, mgd, fgd, pkd, attention)"
        )


def grids(view: View) -> dict[str, tuple[int, int]]:
    """Height and width of each level's grid as the head saw it: a teacher's image may have been padded."""
    return {name: (x.shape[2], x.shape[3]) for name, x in zip(view.spec.levels, view.raw["feats"])}


def cell_logits(view: View, name: str) -> Tensor:
    """Logits of a level for each cell, in float32, cut to the view's own grid: (B, na, 5 + nc | nc, H, W).

    Anchor heads (na anchors a cell): x, y, w, h, objectness, then classes. Heads with one prediction per cell: na = 1,
    classes alone.
    """
    logits: Tensor
    height, width = view.feats[name].shape[2:]
    if view.spec.anchors:
        level = list(view.spec.levels).index(name)
        logits = view.raw["preds"][level].permute(0, 1, 4, 2, 3)
    else:
        sizes = grids(view)
        parts = view.raw["scores"].split([h * w for h, w in sizes.values()], 2)
        logits = dict(zip(sizes, parts))[name].unflatten(2, sizes[name])[:, None]
    return logits[..., :height, :width].float()


def cell_scores(view: View, name: str) -> Tensor:
    """(B, 1, H, W) 0..1: the highest score of any class and anchor at a cell, times objectness where there is one."""
    logits = cell_logits(view, name).sigmoid()
    if not view.spec.anchors:
        return logits.amax(2)
    return (logits[:, :, 4] * logits[:, :, 5:].amax(2)).amax(1, keepdim=True)


def on_grid(logits: Tensor, grid_hw: tuple[int, int]) -> Tensor:
    """Logits (B, na, K, H, W) on another grid, each cell the nearest one's, where the grids differ."""
    if tuple(logits.shape[3:]) == tuple(grid_hw):
        return logits
    moved: Tensor = F.interpolate(logits.flatten(1, 2), size=grid_hw, mode="nearest").unflatten(1, logits.shape[1:3])
    return moved


def binary_kl(teacher: Tensor, student: Tensor) -> Tensor:
    """Elementwise `KL(p_T || p_S)` of two coins, from logits: cross-entropy less the teacher's entropy."""
    log_ratio = F.logsigmoid(teacher) - F.logsigmoid(student)
    log_ratio_not = F.logsigmoid(-teacher) - F.logsigmoid(-student)
    share = teacher.sigmoid()
    return share * log_ratio + (1 - share) * log_ratio_not
