"""COCO metrics against numbers worked out by hand, with either evaluator; model profile against thop's definitions."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from torch import nn

from engine.profile import profile
from engine.validation.coco_metrics import Boxes, coco_metrics, detection_limit, fullest

# Class 0: a large object (100 x 100) found exactly, a small one (10 x 10) found with IoU 0.62, and a small false alarm
# ranked between the two. Class 1 exists but nothing of it is labelled.
TRUTHS = [
    Boxes(np.array([[0, 0, 100, 100], [200, 200, 210, 210]], float), np.array([0, 0])),
    Boxes(np.zeros((0, 4)), np.zeros(0)),
]
DETECTIONS = [
    Boxes(
        np.array([[200, 200, 210, 206.2], [0, 0, 100, 100], [300, 300, 320, 320]], float),
        np.array([0, 0, 0]),
        np.array([0.7, 0.9, 0.8]),
    ),
    Boxes(np.zeros((0, 4)), np.zeros(0), np.zeros(0)),
]
# Precision is read at recall 0, 0.01 ... 1. Both found: 1 up to recall 0.5 (51 points), then 2/3 (50 points).
BOTH, ONE = (51 + 50 * 2 / 3) / 101, 51 / 101


@pytest.fixture(params=["faster_coco_eval", "pycocotools"])
def evaluator(request, monkeypatch):
    pytest.importorskip(request.param)
    if request.param == "pycocotools":
        monkeypatch.setitem(sys.modules, "faster_coco_eval", None)


def test_hand_worked_case(evaluator):
    got = coco_metrics(TRUTHS, DETECTIONS, classes=2)
    assert got["mAP50"] == pytest.approx(BOTH)
    assert got["AP75"] == pytest.approx(ONE)
    assert got["mAP50-95"] == pytest.approx((3 * BOTH + 7 * ONE) / 10)  # IoU 0.62 counts at 0.50, 0.55 and 0.60
    assert got["AR1"] == pytest.approx(0.5)  # one detection per image: the large object at every threshold
    assert got["AR10"] == got["AR100"] == pytest.approx((3 * 1 + 7 * 0.5) / 10)
    assert got["AP_small"] == pytest.approx(3 / 10 * 0.5)  # the false alarm is ranked before the small object
    assert got["AP_medium"] is None
    assert got["AP_large"] == pytest.approx(1.0)
    assert got["per_class"][0]["AP50"] == pytest.approx(BOTH)
    assert got["per_class"][1] == {"AP50": None, "AP50-95": None, "AP75": None, "AR100": None, "AR_max": None}


def test_second_find_of_an_object_is_a_false_alarm(evaluator):
    truth = [Boxes(np.array([[0, 0, 50, 50]], float), np.array([0]))] * 2
    twice = Boxes(np.array([[0, 0, 50, 50]] * 2, float), np.array([0, 0]), np.array([0.9, 0.8]))
    once = Boxes(np.array([[0, 0, 50, 50]], float), np.array([0]), np.array([0.5]))
    got = coco_metrics(truth, [twice, once], classes=1)
    # Ranked: true 0.9, false 0.8, true 0.5 -> precision 1 to recall 0.5, then 2/3.
    assert got["mAP50-95"] == pytest.approx(BOTH)


def test_nothing_detected_is_zero(evaluator):
    nothing = Boxes(np.zeros((0, 4)), np.zeros(0), np.zeros(0))
    got = coco_metrics(TRUTHS, [nothing, nothing], classes=2)
    assert got["mAP50"] == got["mAP50-95"] == got["AR100"] == 0
    assert got["AP_medium"] is None


def test_a_wrong_class_finds_nothing(evaluator):
    truth = [Boxes(np.array([[0, 0, 50, 50]], float), np.array([0]))]
    found = [Boxes(np.array([[0, 0, 50, 50]], float), np.array([1]), np.array([0.9]))]
    assert coco_metrics(truth, found, classes=2)["mAP50"] == 0


def crowd(count: int, found: int | None = None, per_class: int = 1) -> tuple[list[Boxes], list[Boxes]]:
    """One image with `count` boxes of each of `per_class` classes, side by side, of which the first `found` are found."""
    x, y = np.divmod(np.arange(count * per_class), 40)
    boxes = np.stack((x * 20, y * 20, x * 20 + 16, y * 20 + 16), 1).astype(float)
    classes = np.arange(count * per_class) % per_class
    chosen = slice(None) if found is None else slice(found * per_class)
    scores = np.linspace(0.9, 0.1, len(boxes))
    return [Boxes(boxes, classes)], [Boxes(boxes[chosen], classes[chosen], scores[chosen])]


@pytest.mark.long
def test_every_box_counts_where_an_image_has_more_than_a_hundred(evaluator):
    truths, found = crowd(200)
    got = coco_metrics(truths, found, classes=1)
    assert detection_limit(truths) == 200 and fullest(truths) == (200, 200)
    for name in ("mAP50", "mAP50-95", "AP75", "AP_small", "AR_max"):
        assert got[name] == pytest.approx(1.0), name
    assert got["AR100"] == pytest.approx(100 / 200) and got["AR10"] == pytest.approx(10 / 200)  # what their names say
    assert got["per_class"][0]["AR100"] == pytest.approx(100 / 200) and got["per_class"][0]["AR_max"] == 1.0
    half = coco_metrics(*crowd(200, found=150), classes=1)
    assert half["mAP50"] == pytest.approx(76 / 101) and half["AR_max"] == pytest.approx(0.75)


@pytest.mark.parametrize(("count", "classes", "limit"), [(100, 1, 100), (80, 3, 100), (101, 2, 101)])
def test_coco_counts_a_hundred_of_each_class(evaluator, count, classes, limit):
    truths, found = crowd(count, per_class=classes)
    got = coco_metrics(truths, found, classes)
    assert detection_limit(truths) == limit and got["mAP50"] == pytest.approx(1.0)
    assert (got["AR_max"] == got["AR100"]) == (limit == 100)


def test_figures_of_usual_data_are_cocos(evaluator):
    """100 false alarms rank before the one hit: by COCO's rules it counts for nothing."""
    truth = [Boxes(np.array([[0, 0, 50, 50]], float), np.array([0]))]
    alarms = np.array([[1000 + i, 1000, 1010 + i, 1010] for i in range(100)], float)
    found = [Boxes(np.concatenate((alarms, [[0, 0, 50, 50]])), np.zeros(101), np.linspace(0.9, 0.1, 101))]
    assert coco_metrics(truth, found, classes=1)["mAP50"] == 0


class Attention(nn.Module):
    """A 1x1 convolution, then positions attend to each other by a plain matrix product."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1, bias=False)

    def forward(self, x):
        tokens = self.conv(x).flatten(2)  # (B, 4, H*W)
        return tokens.transpose(1, 2) @ tokens


def test_profile_counts_convolutions_and_attention_products():
    got = profile(Attention(), imgsz=8)
    assert (got["layers"], got["parameters"], got["size_mb"]) == (1, 12, 48e-6)
    convolution, attention = 8 * 8 * 3 * 4, 64 * 64 * 4
    assert got["gflops"] == pytest.approx(2 * (convolution + attention) / 1e9)


def test_profile_leaves_the_model_alone():
    model = Attention().half().train()
    keys = set(model.state_dict())
    profile(model, imgsz=8)
    assert model.training and model.conv.weight.dtype == torch.float16
    assert set(model.state_dict()) == keys and not model.conv._forward_hooks


@pytest.mark.long
def test_profile_agrees_with_ultralytics():
    import models  # noqa: F401

    from ultralytics.nn.tasks import DetectionModel
    from ultralytics.utils.torch_utils import get_flops

    model = DetectionModel("yolo11n.yaml", verbose=False)
    got = profile(model)
    assert got["parameters"] == 2_624_080
    assert got["gflops"] == pytest.approx(get_flops(model), rel=1e-3)
