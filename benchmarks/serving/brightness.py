"""A detector as an ONNX file, made without PyTorch: how bright an image is decides about it, and it can be made slow."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

NAMES = {0: "bright", 1: "dark"}
SIZE = 64
BOXES = np.array([[0.5, 0.5, 0.25, 0.25], [0.15, 0.15, 0.125, 0.125]], np.float32)  # x y w h of the two places, as shares of the side


def write_onnx(path: Path, work: int = 0, size: int = SIZE) -> Path:
    """Write a model whose first place has the class `bright` with the mean of the image as its score.

    Args:
        work: products of matrices of 1024 x 1024 beside it, some 30 to 100 ms each; without any it takes no time.
        size: side of its input in pixels.
    """
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    zeros = np.zeros((1, 2, 2), np.float32)
    place = zeros.copy()
    place[0, 0, 0] = 1.0  # class 0 in place 0
    constants = {"boxes": size * BOXES.T[None], "place": place, "matrix": np.full((1024, 1024), 1e-3, np.float32), "nothing": np.zeros(1, np.float32)}
    nodes = [helper.make_node("ReduceMean", ["images"], ["mean"], keepdims=0)]
    last = "matrix"
    for number in range(work):
        nodes.append(helper.make_node("MatMul", [last, "seed" if number == 0 else "matrix"], [f"product{number}"]))
        last = f"product{number}"
    if work:  # depends on the image, so that it is not computed once and for all
        nodes.insert(1, helper.make_node("Add", ["matrix", "mean"], ["seed"]))
        nodes += [helper.make_node("ReduceMax", [last], ["top"], keepdims=0), helper.make_node("Mul", ["top", "nothing"], ["none"])]
        nodes.append(helper.make_node("Add", ["mean", "none"], ["score"]))
    else:
        nodes.append(helper.make_node("Identity", ["mean"], ["score"]))
    nodes += [helper.make_node("Mul", ["place", "score"], ["scores"]), helper.make_node("Concat", ["boxes", "scores"], ["output0"], axis=1)]
    graph = helper.make_graph(
        nodes,
        "brightness",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, [1, 3, size, size])],
        [helper.make_tensor_value_info("output0", TensorProto.FLOAT, [1, 6, 2])],
        [numpy_helper.from_array(value, name) for name, value in constants.items() if work or (name != "nothing" and name != "matrix")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    facts = {"names": NAMES, "stride": 32, "imgsz": [size, size], "batch": 1, "task": "detect", "args": {"dynamic": False, "nms": False}}
    helper.set_model_props(model, {key: str(value) for key, value in facts.items()})
    onnx.save(model, path)
    return path


def picture(grey: int, height: int = 48, width: int = 64, suffix: str = ".png") -> bytes:
    """The bytes of an image file of one grey level, 0 to 255."""
    return cv2.imencode(suffix, np.full((height, width, 3), grey, np.uint8))[1].tobytes()
