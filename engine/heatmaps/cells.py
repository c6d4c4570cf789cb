"""What a head says cell by cell, whatever its kind: scores and class logits with the level and place they come from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from ultralytics.nn.tasks import DetectionModel


@dataclass(frozen=True)
class Cells:
    """One image's predictions, N in all, level by level.

    Attributes:
        logits: (K, N) class logits before the sigmoid.
        scores: (K, N) class scores from 0 to 1, with objectness where the head has one.
        levels: for each level (first prediction, anchors per cell, rows, columns, input pixels per cell).
        feats: the level's feature maps, (1, C, H, W) each, that the head was given.
    """

    logits: torch.Tensor
    scores: torch.Tensor
    levels: list[tuple[int, int, int, int, float]]
    feats: list[torch.Tensor]

    def level_of(self, prediction: int) -> int:
        """The level of a prediction."""
        return max(i for i, (start, *_) in enumerate(self.levels) if start <= prediction)

    def nearest(self, score: float, index: int, centre: tuple[float, float]) -> int:
        """The prediction of class `index` that gave a box of that score around `centre` (x, y in input pixels)."""
        places = torch.cat([_centres(level, self.scores.device) for level in self.levels], 1)
        distance = (places - torch.tensor(centre, device=places.device)[:, None]).norm(dim=0)
        return int(((self.scores[index] - score).abs() * 1e4 + distance).argmin())  # scores first, places among equal ones


def read_cells(network: DetectionModel, pixels: torch.Tensor) -> Cells:
    """Run a detector on one image (1, 3, H, W), 0 to 1."""
    output = network(pixels)
    raw: dict[str, Any] = output[1] if isinstance(output, (tuple, list)) else output
    head = network.model[-1]
    if "one2many" in raw:
        raw = raw["one2one" if getattr(head, "end2end", False) else "one2many"]
    feats, strides = list(raw["feats"]), head.stride.tolist()
    if "preds" in raw:  # (1, anchors, H, W, 5 + K) per level: box, objectness, classes
        parts = [level[0].float().flatten(0, 2) for level in raw["preds"]]
        logits = torch.cat([part[:, 5:] for part in parts]).T
        scores = logits.sigmoid() * torch.cat([part[:, 4] for part in parts]).sigmoid()
        anchors = [level.shape[1] for level in raw["preds"]]
    else:  # (1, K, N)
        logits = raw["scores"][0].float()
        scores, anchors = logits.sigmoid(), [1] * len(feats)
    levels, start = [], 0
    for feat, count, stride in zip(feats, anchors, strides, strict=True):
        height, width = feat.shape[-2:]
        levels.append((start, count, height, width, float(stride)))
        start += count * height * width
    return Cells(logits, scores, levels, feats)


def _centres(level: tuple[int, int, int, int, float], device: torch.device) -> torch.Tensor:
    """(2, anchors * H * W): x and y of each prediction's cell in input pixels."""
    _, anchors, height, width, stride = level
    rows, columns = torch.meshgrid(torch.arange(height, device=device), torch.arange(width, device=device), indexing="ij")
    return ((torch.stack((columns, rows)) + 0.5) * stride).flatten(1).repeat(1, anchors)
