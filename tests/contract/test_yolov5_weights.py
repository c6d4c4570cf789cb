"""Parser, blocks, coupled head and decoding against a network that others trained: YOLOv5n on COCO."""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from small import ROOT

from engine.checkpoint import read_state
from engine.transfer import transfer
from models.detector import Detector

from ultralytics.utils import ASSETS
from ultralytics.utils.nms import non_max_suppression

WEIGHTS = ROOT.parent / "shared/weights/yolov5n_coco_state_dict_fp16.pt"
PERSON, BUS = 0, 5
PERSONS, BUSES = (0.88, 0.82, 0.79, 0.52), (0.49,)  # reference scores, about: they vary with resizing and BatchNorm's eps
BOXES_XYXY = {"bus": (17, 233, 802, 745), "person": (50, 399, 241, 905)}  # in the image of 810 x 1080, checked by eye


@pytest.fixture(scope="module")
def yolov5n() -> Detector:
    if not WEIGHTS.is_file():
        pytest.skip(f"needs {WEIGHTS.name} in ../shared/weights")
    model = Detector("yolov5n.yaml")
    copied = transfer(model, read_state(WEIGHTS))
    assert (copied.matched, copied.total, copied.skipped) == (349, 349, [])
    return model.eval()


@pytest.mark.real
def test_every_tensor_of_yolov5n_has_its_place(yolov5n: Detector) -> None:
    assert len(yolov5n.state_dict()) == 349
    expected = torch.tensor([[10, 13], [16, 30], [33, 23]])
    assert torch.allclose(yolov5n.head.anchor_wh[0], expected.float(), atol=0.1)


@pytest.mark.real
def test_yolov5n_finds_four_persons_and_a_bus(yolov5n: Detector) -> None:
    picture = cv2.imread(str(ASSETS / "bus.jpg"))
    small = cv2.resize(picture, (480, 640))  # 810 x 1080: the longer side becomes 640, both are multiples of 32
    image = torch.from_numpy(np.ascontiguousarray(small[..., ::-1].transpose(2, 0, 1)))[None].float() / 255
    with torch.no_grad():
        found = non_max_suppression(yolov5n(image)[0], 0.25, 0.45)[0]
    assert {int(c) for c in found[:, 5]} == {PERSON, BUS}
    for cls, scores in ((PERSON, PERSONS), (BUS, BUSES)):
        assert found[found[:, 5] == cls, 4].tolist() == pytest.approx(scores, abs=0.07)
    for cls, name in ((PERSON, "person"), (BUS, "bus")):
        boxes = found[found[:, 5] == cls, :4] * (810 / 480)
        assert max(_iou(box.tolist(), BOXES_XYXY[name]) for box in boxes) > 0.8


def _iou(one_xyxy: list[float], other_xyxy: tuple[int, ...]) -> float:
    width, height = (min(one_xyxy[i + 2], other_xyxy[i + 2]) - max(one_xyxy[i], other_xyxy[i]) for i in (0, 1))
    areas = [(b[2] - b[0]) * (b[3] - b[1]) for b in (one_xyxy, other_xyxy)]
    overlap = max(width, 0) * max(height, 0)
    return overlap / (sum(areas) - overlap)
