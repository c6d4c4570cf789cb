"""RT-DETR as a teacher: the three levels that its transformer decoder reads (Zhao et al., arXiv 2304.08069)."""

from __future__ import annotations

from torch import Tensor

from models.detector import DetectionModel
from models.foreign.base import FeaturePyramid, tap


class RTDETRPyramid(FeaturePyramid):
    """An ultralytics `RTDETRDetectionModel` without its decoder.

    ultralytics says that such a model has the stride 32 only; here the strides of its levels are measured.

    Args:
        model: the built model; its last layer is replaced.
    """

    headless = "RT-DETR's head predicts boxes for queries, not for the cells of a grid"

    def __init__(self, model: DetectionModel) -> None:
        super().__init__(model.names)
        tap(model.model)
        self.network = model
        self.measure()

    def pyramid(self, images: Tensor) -> list[Tensor]:
        return self.network(images)["feats"]
