"""Where each cell lies in its box: what a head decodes, and what an embedding painted over a whole box cannot say."""

from __future__ import annotations

import torch
from torch import Tensor

from distill.dynamic.objects import Objects

PLACE = 5  # channels: the box's centre from the cell's, its width and height, whether there is one


@torch.no_grad()
def places(objects: Objects, rows: Tensor, columns: Tensor) -> Tensor:
    """Of each cell's smallest box: (B, M, H), (B, M, W) -> (B, 5, H, W); zeros where there is no box.

    The centre's offset in cells (x, y), the logarithms of width and height in cells, and 1. Virtual objects do not count.
    """
    height, width = rows.shape[2], columns.shape[2]
    real = (objects.valid & (objects.classes.sum(2) > 0)).to(rows.dtype)
    inside = (rows * real[..., None])[..., :, None] * columns[..., None, :]  # (B, M, H, W)
    area = objects.boxes_xywhn[..., 2:].prod(2)[..., None, None]
    smallest = torch.where(inside > 0, area, torch.inf).argmin(1)  # (B, H, W)
    cells = rows.new_tensor([width, height])
    centre, size = (objects.boxes_xywhn * cells.repeat(2)).split(2, 2)
    boxes = torch.cat((centre, size.clamp(min=1e-3).log()), 2)  # (B, M, 4)
    found = boxes.gather(1, smallest.flatten(1)[..., None].expand(-1, -1, 4)).unflatten(1, (height, width))
    x, y = (torch.arange(n, device=rows.device, dtype=rows.dtype) + 0.5 for n in (width, height))
    offset = found[..., :2] - torch.stack(torch.meshgrid(x, y, indexing="xy"), 2)
    known = torch.cat((offset, found[..., 2:], torch.ones_like(offset[..., :1])), 3)
    return (known * inside.amax(1)[..., None]).permute(0, 3, 1, 2)
