"""The objects of a batch, image by image, as the dynamic teacher reads them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from distill.masks import covered


class Objects(NamedTuple):
    """M places per image, the first for the virtual object; images with fewer objects leave their last places empty."""

    boxes_xywhn: Tensor  # (B, M, 4) centre and size over the image's width and height
    classes: Tensor  # (B, M, K) one-hot, zeros for the virtual object, which has no class
    valid: Tensor  # (B, M) whether there is an object in this place

    def masks(self, grid_hw: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """Rows (B, M, H) and columns (B, M, W) that each object covers, 1 or 0; none for empty places.

        A cell is covered when its centre is, or when the object's own centre lies in it (as in `distill.masks`).
        """
        boxes = self.boxes_xywhn.flatten(0, 1)
        sides = zip((1, 0), (3, 2), grid_hw)  # vertical: y and height; horizontal: x and width
        found = [covered(boxes[:, c], boxes[:, s], cells).view(*self.valid.shape, cells) for c, s, cells in sides]
        rows, columns = (mask * self.valid[..., None] for mask in found)
        return rows, columns


@torch.no_grad()
def pack_objects(batch: Mapping[str, Tensor], nc: int, device: torch.device, virtual: bool = True) -> Objects:
    """The boxes of a batch by image, with a virtual object that covers the whole image (SDD FTI-FDet, section III-B-2).

    Args:
        batch: img (B, 3, H, W), batch_idx (N,), cls (N, 1), bboxes (N, 4) xywh 0..1.
        nc: K, number of classes.
        virtual: whether every image has a virtual object; one without objects has it in any case.
    """
    size = len(batch["img"])
    image = batch["batch_idx"].to(device).reshape(-1).long()
    counts = torch.bincount(image, minlength=size)
    order = image.argsort(stable=True)
    image = image[order]
    first = counts.cumsum(0) - counts
    place = 1 + torch.arange(len(image), device=device) - first[image]
    places = 1 + int(counts.max()) if len(image) else 1
    boxes = torch.tensor([0.5, 0.5, 1.0, 1.0], device=device).repeat(size, places, 1)
    boxes[image, place] = batch["bboxes"].to(device).float().reshape(-1, 4)[order]
    classes = torch.zeros(size, places, nc, device=device)
    classes[image, place] = F.one_hot(batch["cls"].to(device).reshape(-1).long()[order], nc).float()
    valid = torch.arange(places, device=device) <= counts[:, None]
    if not virtual:
        valid[:, 0] = counts == 0
    return Objects(boxes, classes, valid)
