"""LayerCAM of a box: which cells of the neck level that produced it raise its class logit (Jiang et al., IEEE TIP 2021, eq. 7-8).

The map is ReLU(sum over channels of ReLU(d logit / d A) * A) for the level's features A; the logit is the one before the
sigmoid, of that very prediction.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from engine.heatmaps.cells import read_cells
from engine.heatmaps.evidence import enlarge

if TYPE_CHECKING:
    from ultralytics.nn.tasks import DetectionModel


def layercam(network: DetectionModel, pixels: torch.Tensor, boxes_xyxy: np.ndarray, scores: np.ndarray,
             classes: np.ndarray) -> list[torch.Tensor]:  # fmt: skip
    """Return a map (H, W), 0 to 1, for each box found in an image.

    Args:
        network: a detector in evaluation mode.
        pixels: (1, 3, H, W), 0 to 1.
        boxes_xyxy, scores, classes: what was found in it, boxes (n, 4) in its pixels.
    """
    height, width = pixels.shape[-2:]
    with torch.inference_mode(False), torch.enable_grad():
        cells = read_cells(network, pixels.clone().requires_grad_())
        maps = []
        for box, score, index in zip(boxes_xyxy, scores, classes, strict=True):
            centre = float(box[0] + box[2]) / 2, float(box[1] + box[3]) / 2
            prediction = cells.nearest(float(score), int(index), centre)
            features = cells.feats[cells.level_of(prediction)]
            (gradient,) = torch.autograd.grad(cells.logits[int(index), prediction], features, retain_graph=True)
            maps.append(normalised(enlarge((gradient.relu() * features).sum(1)[0].relu().detach(), height, width)))
    return maps


def normalised(heat: torch.Tensor) -> torch.Tensor:
    """A map divided by its highest value; zeros stay zeros."""
    return heat / heat.max().clamp(min=1e-12)
