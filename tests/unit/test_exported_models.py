"""Exported models that are no detectors, or not what their description says: told when they are opened."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

import tandem
from cfg import UserError
from engine.export.export_check import ExportOptions
from engine.export.exporter import unused
from engine.weights import DEFAULT_SIZE, open_backend, trained_size

CPU = torch.device("cpu")
FACTS = {"names": {0: "pit", 1: "scratch"}, "stride": 32, "imgsz": [64, 64], "task": "detect", "batch": 1, "args": {"dynamic": False, "nms": False}}
BOXES = np.zeros((1, 6, 84), np.float32)  # centre, size and two scores at 84 places
BOXES[0, :, 7] = [30, 30, 20, 20, 0.1, 0.9]


def save(path: Path, output: np.ndarray, shape: tuple[int, ...] = (1, 3, 64, 64), facts: dict[str, Any] | None = FACTS, kind: int = 1) -> Path:
    """A network with this input that always gives this output."""
    constant = numpy_helper.from_array(output, "constant")
    ports = helper.make_tensor_value_info("images", kind, shape), helper.make_tensor_value_info("found", TensorProto.FLOAT, output.shape)
    graph = helper.make_graph([helper.make_node("Identity", ["constant"], ["found"])], "g", [ports[0]], [ports[1]], [constant])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, {key: str(value) for key, value in (facts or {}).items()})
    onnx.save(model, path)
    return path


def test_a_detector_is_taken_with_and_without_a_description(tmp_path: Path) -> None:
    image = np.zeros((64, 64, 3), np.uint8)
    [found] = tandem.load(save(tmp_path / "good.onnx", BOXES), device="cpu", no_decision=True).predict([image])
    assert found.boxes_xyxy.tolist() == [[20, 20, 40, 40]] and found.names[int(found.classes[0])] == "scratch"
    other = save(tmp_path / "other.onnx", BOXES, (1, 3, 96, 64), None)
    assert open_backend(other, CPU)[1] == [96, 64]  # of its input


@pytest.mark.parametrize(
    ("output", "shape", "facts", "message"),
    [
        (BOXES.transpose(0, 2, 1), (1, 3, 64, 64), {}, r"detector of 2 classes.*\(1, 6, places\).*got \(1, 84, 6\)"),
        (BOXES, (1, 3, 64, 64), {"names": {0: "a", 1: "b", 2: "c"}}, r"detector of 3 classes.*got \(1, 6, 84\)"),
        (np.zeros((1, 252, 7), np.float32), (1, 3, 64, 64), {}, r"got \(1, 252, 7\)"),
        (np.zeros((1, 1000), np.float32), (1, 3, 64, 64), {}, r"got \(1, 1000\)"),
        (np.full((1, 300, 6), 5, np.float32), (1, 3, 64, 64), {}, r"got \(1, 300, 6\)"),  # after suppression, class 5 of 2
        (BOXES, (1, 64, 64, 3), {}, "cannot run on an image of 64 x 64 pixels"),
        (BOXES, (1, 3, 32, 32), {}, "cannot run on an image of 64 x 64 pixels"),
        (BOXES, (1, 3, 64, 64), {"batch": 9}, "says 9 images at once, its input takes 1"),
        (BOXES, (1, 3, 64, 64), {"stride": 0}, "expected its stride to be a whole number above 0, got 0"),
        (BOXES, (1, 3, 64, 64), {"imgsz": [0, 0]}, "expected its imgsz to be one or two numbers of pixels"),
    ],
)
def test_what_is_no_detector_is_refused(tmp_path: Path, output: np.ndarray, shape: tuple[int, ...], facts: dict, message: str) -> None:
    path = save(tmp_path / "odd.onnx", np.ascontiguousarray(output), shape, FACTS | facts)
    with pytest.raises(UserError, match=message):
        open_backend(path, CPU)


def test_boxes_after_suppression_are_taken(tmp_path: Path) -> None:
    final = np.zeros((1, 300, 6), np.float32)
    final[0, 0] = [20, 20, 40, 40, 0.9, 1]
    path = save(tmp_path / "nms.onnx", final, facts=FACTS | {"args": {"dynamic": False, "nms": True}})
    assert open_backend(path, CPU)[1] == [64, 64]


@pytest.mark.parametrize(
    ("said", "size"),
    [(96, [96]), ([96, 64], [96, 64]), (96.0, [96]), (None, [DEFAULT_SIZE]), ("abc", [DEFAULT_SIZE]), (0, [DEFAULT_SIZE]),
     (True, [DEFAULT_SIZE]), ([64, "x"], [DEFAULT_SIZE]), (10**9, [DEFAULT_SIZE]), ([float("nan")], [DEFAULT_SIZE])],
)  # fmt: skip
def test_the_training_size_in_a_file_may_be_nonsense(said: Any, size: list[int], capsys: pytest.CaptureFixture[str]) -> None:
    assert trained_size(SimpleNamespace(args={"imgsz": said})) == size
    assert ("which is no size" in capsys.readouterr().out) == (size == [DEFAULT_SIZE] and said is not None)


def test_options_of_a_switch_that_is_off_are_told() -> None:
    assert unused(ExportOptions("best.pt", nms=True, iou=0.9)) == unused(ExportOptions("best.pt")) == []
    assert unused(ExportOptions("best.pt", iou=0.9, max_det=3, max_loss=None, check=False, check_images="images")) == [
        "--iou, --max-det: no effect without --nms", "--max-loss: no effect without --int8", "--check-images: no effect with --no-check"]
