"""Suppression by torchvision's operator: the same boxes as ultralytics' own. tests/flow/test_detect.py: without the import of torchvision."""

from __future__ import annotations

import pytest
import torch

import models.environment  # noqa: F401  (before ultralytics)
from engine.detection.suppression import use_compiled_suppression

from ultralytics.utils.nms import TorchNMS

OWN = TorchNMS.nms  # before any test has put another in its place


@pytest.fixture(autouse=True)
def anew(monkeypatch: pytest.MonkeyPatch):
    """Ultralytics' own suppression, and no memory of an earlier call; both as before at the end."""
    monkeypatch.setattr(TorchNMS, "nms", staticmethod(OWN))
    use_compiled_suppression.cache_clear()
    yield
    use_compiled_suppression.cache_clear()


@pytest.mark.parametrize("count", [1, 7, 60])
def test_same_boxes_as_ultralytics_own(count: int) -> None:
    assert use_compiled_suppression() and TorchNMS.nms is not OWN
    random = torch.Generator().manual_seed(count)
    corner, size = torch.rand(count, 2, generator=random) * 60, 5 + torch.rand(count, 2, generator=random) * 40
    boxes_xyxy, scores = torch.cat([corner, corner + size], 1), torch.rand(count, generator=random)
    for iou in (0.2, 0.45, 0.9):
        assert TorchNMS.nms(boxes_xyxy, scores, iou).tolist() == OWN(boxes_xyxy, scores, iou).tolist()


def test_ultralytics_own_is_kept_where_there_is_no_torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert not use_compiled_suppression() and TorchNMS.nms is OWN
