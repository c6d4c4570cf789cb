"""Where the objects are on a feature map: the foreground and scale masks of feature distillation."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

CELLS_AT_ONCE = 2**23  # bounds the memory of many boxes on a fine grid (32 MB of float32)


class Masks(NamedTuple):
    """Masks of a batch on one grid, float32."""

    foreground: Tensor  # (B, 1, H, W), 1 inside ground-truth boxes, else 0
    scale: Tensor  # (B, 1, H, W), 1 / cells of the owning box inside boxes, 1 / cells of the background outside

    def split(self, errors: Tensor) -> tuple[Tensor, Tensor]:
        """Foreground and background sums of `scale * errors`, 0-d, each a mean over images; errors (B, 1, H, W)."""
        scaled = errors * self.scale
        foreground = scaled * self.foreground
        return foreground.sum((1, 2, 3)).mean(), (scaled - foreground).sum((1, 2, 3)).mean()


@torch.no_grad()
def box_masks(bboxes_xywhn: Tensor, batch_idx: Tensor, batch_size: int, grid_hw: tuple[int, int]) -> Masks:
    """Foreground mask (Zhang et al. 2022, eqs. 6 and 8) and scale mask (eq. 7) of ground-truth boxes.

    A cell lies in a box when its centre does; in each direction a box has at least the cell of its own centre. H_box
    and W_box are counted in whole cells, so that the scale mask of a box that is not covered sums to 1. Where boxes
    overlap the one with the fewest cells owns the cell.

    All boxes count on every grid, also on one of a level at which no anchor of the student fits them; the paper is silent.

    Differs from FGD (Yang et al. 2022): its boxes are widened to every cell they touch and one more.

    Args:
        bboxes_xywhn: (N, 4) box centres and sizes over the image's width and height.
        batch_idx: (N,) image of each box.
        batch_size: B.
        grid_hw: height and width of the grid.
    """
    height, width = grid_hw
    boxes = bboxes_xywhn.float().reshape(-1, 4)
    image = batch_idx.reshape(-1).long().to(boxes.device)
    columns, rows = covered(boxes[:, 0], boxes[:, 2], width), covered(boxes[:, 1], boxes[:, 3], height)
    share = 1 / (columns.sum(1) * rows.sum(1))
    owner = boxes.new_zeros(batch_size, height, width)
    step = max(1, CELLS_AT_ONCE // (height * width))
    for part in torch.arange(len(boxes), device=boxes.device).split(step):
        painted = (rows[part] * share[part, None])[:, :, None] * columns[part, None, :]
        index = image[part, None, None].expand_as(painted)
        owner.scatter_reduce_(0, index, painted, "amax")  # the smallest box has the largest share
    foreground = (owner > 0).float()
    background = 1 - foreground
    per_cell = background / background.sum((1, 2), keepdim=True).clamp(min=1)
    return Masks(foreground[:, None], (owner + per_cell)[:, None])


def covered(centre: Tensor, size: Tensor, cells: int) -> Tensor:
    """(N, cells) float, 1 where a cell's middle lies in centre +- size / 2, and in the cell of the centre itself."""
    middle = (torch.arange(cells, device=centre.device) + 0.5) / cells
    inside = (middle >= (centre - size / 2)[:, None]) & (middle < (centre + size / 2)[:, None])
    own = (centre * cells).floor().clamp(0, cells - 1).long()
    return inside.scatter(1, own[:, None], True).float()
