"""INT8: what stays float, which images calibrate, and when the loss is too large, all on hand-made cases."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

sys.path.insert(0, str(Path(__file__).parents[1] / "flow"))
from tiny import write_image

from cfg.errors import UserError
from engine.export import int8_table
from engine.export.calibration import Calibration, calibration_files
from engine.export.int8 import check_loss
from engine.export.int8_table import Measured, columns
from engine.export.quantise import Node, float_nodes, onnx_graph, openvino_graph, quantise
from export import loss, make_parser


def conv(*inputs: str) -> Node:
    return Node("Conv", inputs, weighted=True)


def test_the_decoding_and_the_layers_it_reads_stay_float() -> None:
    graph = {
        "stem": conv(),
        "silu": Node("Mul", ("stem",)),
        "box": conv("silu"),
        "class": conv("silu"),
        "sigmoid": Node("Sigmoid", ("class",)),
        "concat": Node("Concat", ("box", "sigmoid")),
    }
    assert float_nodes(graph, ["concat"]) == {"box", "class", "sigmoid", "concat"}


def test_the_mean_of_a_distribution_is_decoding_and_not_a_layer() -> None:
    graph = {
        "stem": conv(),
        "bins": conv("stem"),
        "softmax": Node("Softmax", ("bins",)),
        "transpose": Node("Transpose", ("softmax",)),
        "mean": conv("transpose"),
    }
    assert float_nodes(graph, ["mean"]) == {"mean", "transpose", "softmax", "bins"}


def test_the_size_of_a_map_is_no_path_to_what_is_in_it() -> None:
    # Dynamic exports: the grid of cells is made from the size of a feature map.
    graph = {
        "stem": conv(),
        "silu": Node("Mul", ("stem",)),
        "size": Node("Shape", ("silu",)),
        "grid": Node("Range", ("size",)),
        "out": conv("silu"),
        "boxes": Node("Add", ("out", "grid")),
    }
    assert float_nodes(graph, ["boxes"]) == {"boxes", "grid", "out"}


def two_layer_model(path: Path) -> Path:
    """x (1, 3, 8, 8) -> Conv "first" -> Relu -> Conv "last" -> times 600; the nodes in between have no names."""
    rng = np.random.default_rng(0)
    kernels = [rng.normal(size=shape).astype(np.float32) for shape in ((4, 3, 3, 3), (2, 4, 1, 1))]
    tensors = [helper.make_tensor(f"w{i}", TensorProto.FLOAT, k.shape, k.ravel()) for i, k in enumerate(kernels)]
    tensors.append(helper.make_tensor("scale", TensorProto.FLOAT, [], [600.0]))
    nodes = [
        helper.make_node("Conv", ["images", "w0"], ["a"], "first", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "w1"], ["c"], "last", kernel_shape=[1, 1]),
        helper.make_node("Mul", ["c", "scale"], ["y"]),
    ]
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, c, 8, 8]) for n, c in (("images", 3), ("y", 2))]
    graph = helper.make_graph(nodes, "test", values[:1], values[1:], tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    helper.set_model_props(model, {"names": "{0: 'pit'}", "stride": "8"})
    onnx.save(model, path)
    return path


def test_onnx_keeps_its_metadata_and_float_ends(tmp_path: Path) -> None:
    import onnxruntime

    source, target = two_layer_model(tmp_path / "float.onnx"), tmp_path / "int8.onnx"
    nodes, outputs = onnx_graph(onnx.load(source))
    assert nodes["first"].weighted and nodes["last"].weighted and outputs == [""]
    rng = np.random.default_rng(1)
    inputs = [rng.random((1, 3, 8, 8), dtype=np.float32) for _ in range(8)]
    quantise(source, target, inputs, len(inputs))
    made = onnx.load(target)
    assert {p.key: p.value for p in made.metadata_props} == {"names": "{0: 'pit'}", "stride": "8"}
    makers = {output: node.op_type for node in made.graph.node for output in node.output}
    weights = {node.name: makers.get(node.input[1]) for node in made.graph.node if node.op_type == "Conv"}
    assert weights == {"first": "DequantizeLinear", "last": None}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["float.onnx", "int8.onnx"]
    kernel = next(t for t in made.graph.initializer if t.name == "w0_quantized")
    values = np.abs(onnx.numpy_helper.to_array(kernel).astype(int)).reshape(4, -1).max(1)
    assert (values >= 63).all() and (values <= 64).all(), "7 bits, each output channel by itself"
    expected, got = (onnxruntime.InferenceSession(p).run(None, {"images": inputs[0]})[0] for p in (source, target))
    assert 0 < np.abs(expected - got).max() < 0.05 * np.abs(expected).max()


def test_an_openvino_graph_is_read_alike(tmp_path: Path) -> None:
    openvino = pytest.importorskip("openvino")
    nodes, outputs = openvino_graph(openvino.Core().read_model(two_layer_model(tmp_path / "float.onnx")))
    weighted = {name: node.weighted for name, node in nodes.items() if node.kind == "Convolution"}
    assert weighted == {"first": True, "last": True}
    kept = float_nodes(nodes, outputs)
    assert "last" in kept and "first" not in kept
    assert "Relu" not in {nodes[name].kind for name in kept} and "Multiply" in {nodes[name].kind for name in kept}


def test_calibration_images_are_spread_and_prepared_as_for_detection(tmp_path: Path, capsys) -> None:
    paths = [write_image(tmp_path / f"images/{i}.png", i, 32, 64) for i in range(6)]
    content = {"train": str(tmp_path / "images")}
    assert calibration_files(content, "d", 3) == ([paths[0], paths[2], paths[4]], 0)
    assert calibration_files(content, "d", 9) == (paths, 0) and "has 6 that can be used" in capsys.readouterr().out
    fixed = list(Calibration(paths, [64, 64], 4))
    assert [x.shape for x in fixed] == [(4, 3, 64, 64)] * 2 and fixed[0].dtype == np.float32
    assert np.allclose(fixed[0][0, :, 0, 0], 114 / 255) and fixed[0].max() <= 1, "padded with grey above and below"
    assert np.array_equal(fixed[1][0], fixed[1][2]) and not np.array_equal(fixed[1][0], fixed[1][1])
    assert [x.shape for x in Calibration(paths, [64, 64], 4, padding=16)] == [(1, 3, 32, 64)] * 6


def test_calibration_without_a_readable_image_is_refused(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    with pytest.raises(UserError, match="expected training images"):
        calibration_files({"train": str(tmp_path / "images")}, "d", 3)
    (tmp_path / "images/a.png").write_bytes(b"no image")
    with pytest.raises(UserError, match="got none that can be used"):
        calibration_files({"train": str(tmp_path / "images")}, "d", 3)
    good = write_image(tmp_path / "images/b.png", 0)
    assert calibration_files({"train": str(tmp_path / "images")}, "d", 3) == ([good], 1)


def measured(int8: float = 0.293, **milliseconds: float) -> Measured:
    """Float32 scores mAP50 0.62 and mAP50-95 0.3 in 10 ms, INT8 0.63 and `int8` in 4 ms; other columns as float32."""
    ms = {"float32": 10.0, "INT8": 4.0} | {name.replace("_", "+"): value for name, value in milliseconds.items()}
    high, low = dict.fromkeys(ms, 0.62) | {"INT8": 0.63}, dict.fromkeys(ms, 0.3) | {"INT8": int8}
    return Measured({"mAP50": high, "mAP50-95": low}, 360, dict.fromkeys(ms, 7.0) | {"INT8": 2.0}, ms)


def test_the_loss_is_in_points_and_limited() -> None:
    found = measured()
    assert found.loss == pytest.approx(0.7)
    check_loss("x", found, 0.8)
    check_loss("x", found, None)
    with pytest.raises(UserError, match="at most 0.5 points of mAP50-95, got 0.70"):
        check_loss("x", found, 0.5)
    with pytest.raises(UserError):
        check_loss("x", measured(int8=float("nan")), 0.5)
    text = found.text()
    assert "+1.00 points" in text and "-0.70 points" in text and "3.50 times" in text and "2.50 times" in text
    assert found.metadata()["mAP50-95"] == {"float32": 0.3, "int8": 0.293, "difference": -0.007}


@pytest.mark.parametrize(
    ("milliseconds", "advice"),
    [
        ({}, ""),
        ({"INT8": 10.5}, "saves space, not time (float32 10.0 ms, INT8 10.5)"),
        ({"bfloat16": 5.0, "INT8_bf16": 4.5}, ""),
        ({"bfloat16": 5.0, "INT8_bf16": 3.5}, "fastest with --half"),
        ({"bfloat16": 3.0, "INT8_bf16": 3.5}, "runs bfloat16 faster than INT8 (3.0 ms, INT8 3.5): export without --int8"),
    ],
    ids=str,
)
def test_the_table_names_each_arithmetic_and_advises_the_fastest(milliseconds: dict[str, float], advice: str) -> None:
    found = measured(**milliseconds)
    head, *rows = found.text().splitlines()
    assert head.split() == list(found.milliseconds) and (advice in found.advice() if advice else not found.advice())
    times = next(row for row in rows if "one input" in row).split()[3:]
    assert [float(value) for value in times[: len(found.milliseconds)]] == list(found.milliseconds.values())
    assert (found.advice() in rows[-1]) if advice else "validation images" in rows[-1]
    assert set(found.metadata()["mAP50"]) == {"float32", "int8", "difference"}, "the file knows no processor"


def test_what_is_compared_depends_on_runtime_and_processor(tmp_path: Path, monkeypatch) -> None:
    both = (tmp_path, tmp_path / "int8")
    for has, names in ((False, ["float32", "INT8"]), (True, ["float32", "bfloat16", "INT8", "INT8+bf16"])):
        monkeypatch.setattr(int8_table, "openvino_has_bfloat16", lambda has=has: has)
        assert list(columns(*both)) == names
        assert list(columns(tmp_path / "a.onnx", tmp_path / "b.onnx")) == ["float32", "INT8"]
    runs = columns(*both)
    assert runs["bfloat16"] == (both[0], "bf16") and runs["INT8+bf16"] == (both[1], "bf16")
    assert runs["INT8"] == (both[1], "fp32") and runs["float32"] == (both[0], "fp32")


def test_values_of_the_arguments(capsys) -> None:
    assert make_parser().parse_args(["--weights", "x", "--max-loss", "none"]).max_loss is None
    assert loss("1.5") == 1.5 and make_parser().parse_args(["--weights", "x"]).max_loss == 0.5
    for wrong in (["--max-loss", "-1"], ["--max-loss", "much"], ["--calibration-images", "0"]):
        with pytest.raises(SystemExit) as stopped:
            make_parser().parse_args(["--weights", "x", *wrong])
        assert stopped.value.code == 2 and wrong[0] in capsys.readouterr().err
