"""Post-training INT8: which layers are quantised, and how. The one place where this is decided.

Quantised: convolutions and products with trained weights (Conv, Gemm, MatMul), their inputs and outputs. Norms, softmax
and the attention's products of two activations stay float, in ONNX all else too; in OpenVINO nncf decides of sums and
joins. The last trained layer of each branch of the head and all that decodes its output stay float: one scale for
boxes (0 to 640 px) and scores (0 to 1) rounds every score to 0. Of the fast student's 81 layers with weights OpenVINO runs 74
in 8 bits with their activations fused, and all sums, joins, poolings and enlargements between them.

Weights keep 7 bits (`reduce_range`, `OverflowFix.ENABLE`): processors without VNNI add two products of 8 bits in 16
bits, and saturate. The file does not know where it will run, and this error is far larger than that of the lost bit.

Points of mAP50-95 lost on NEU-DET (128 px, 360 validation images, calibrated on 100 training images, OpenVINO with the
S-model on 60) on a processor with AVX2 and no VNNI; differences of 0.2 between settings are within chance:

| setting | YOLOv5n (29.15) | S-model (18.49) |
|---|---|---|
| ONNX as here | 0.19 | 0.00 |
| weights of 8 bits | 3.70 | 3.41 |
| the head's last layers quantised | 1.33 | 0.12 |
| activations, sums and joins quantised too (5 to 20 % faster) | 0.54 | 0.28 |
| one scale per weight tensor, not per channel | 0.50 | |
| unsigned weights of 8 bits; signed activations | 0.29; 0.58 | |
| ranges by percentile 99.99; by entropy | 0.51; 0.19 | |
| OpenVINO as here | 0.49 | 0.17 |
| OpenVINO, weights of 8 bits and the head's last layers quantised | 0.51 | |
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from engine.backend import sessions_of_libraries

ONNX_WEIGHTED = ("Conv", "Gemm", "MatMul")
SIZE_ONLY = ("Shape", "ShapeOf")  # reads how large a tensor is, not what is in it
OPENVINO_FLOAT = ("MVN", "Softmax", "SoftMax")  # layer norm is MVN; nncf would quantise what it reads
RESHAPING = ("Transpose", "Reshape", "Squeeze", "Unsqueeze")


@dataclass(frozen=True)
class Node:
    """One node of a graph.

    Attributes:
        kind: its operation.
        inputs: names of the nodes that make its inputs, in order; constants are left out.
        weighted: it multiplies its input by trained weights.
    """

    kind: str
    inputs: tuple[str, ...] = ()
    weighted: bool = False


def float_nodes(graph: dict[str, Node], outputs: Iterable[str]) -> set[str]:
    """Return the names of the nodes that decode the predictions, and of the trained layers whose output they read.

    Found from the outputs backwards: every path ends at the first layer with weights. A layer that reads a softmax is
    no such end: it is the mean of a distribution over bins (DFL), whose weights are the bins.

    Args:
        graph: nodes by name.
        outputs: names of the nodes that make the graph's outputs.
    """
    found: set[str] = set()
    waiting = list(outputs)
    while waiting:
        name = waiting.pop()
        if name in found or name not in graph or graph[name].kind in SIZE_ONLY:
            continue
        found.add(name)
        if not graph[name].weighted or _reads_softmax(graph, name):
            waiting += graph[name].inputs
    return found


def _reads_softmax(graph: dict[str, Node], name: str) -> bool:
    while inputs := graph[name].inputs:
        name = inputs[0]
        if name not in graph or graph[name].kind not in RESHAPING:
            break
    return name in graph and graph[name].kind.startswith("Softmax")


def onnx_graph(model: Any) -> tuple[dict[str, Node], list[str]]:
    """Return the nodes of an `onnx.ModelProto`, which all have names, and the names of those that make its outputs."""
    graph = model.graph
    constants = {tensor.name for tensor in graph.initializer}
    constants |= {output for node in graph.node if node.op_type == "Constant" for output in node.output}
    maker = {output: node.name for node in graph.node for output in node.output}
    nodes = {}
    for node in graph.node:
        inputs = tuple(maker[name] for name in node.input if name in maker and name not in constants)
        weighted = node.op_type in ONNX_WEIGHTED and any(name in constants for name in node.input[:2])
        nodes[node.name] = Node(node.op_type, inputs, weighted)
    return nodes, [maker[output.name] for output in graph.output if output.name in maker]


def openvino_graph(model: Any) -> tuple[dict[str, Node], list[str]]:
    """Return the nodes of an `openvino.Model` without its constants, and the names of its results."""
    made = {op.get_friendly_name(): op for op in model.get_ordered_ops() if op.get_type_name() != "Constant"}
    nodes = {}
    for name, op in made.items():
        sources = [value.get_source_output().get_node() for value in op.inputs()]
        inputs = tuple(source.get_friendly_name() for source in sources if source.get_type_name() != "Constant")
        kind = op.get_type_name()
        weighted = kind in ("Convolution", "GroupConvolution", "MatMul") and len(inputs) < 2
        nodes[name] = Node(kind, inputs, weighted)
    return nodes, [result.get_friendly_name() for result in model.get_results()]


def quantise(source: Path, target: Path, inputs: Iterable[np.ndarray], number: int) -> None:
    """Write the INT8 form of an exported model.

    Args:
        source: float32 .onnx file, or an OpenVINO folder.
        target: file or folder to write; not there yet.
        inputs: calibration inputs (B, 3, H, W), which can be gone through more than once.
        number: how many they are.
    """
    if source.is_dir():
        _quantise_openvino(source, target, inputs, number)
    else:
        with sessions_of_libraries():
            _quantise_onnx(source, target, inputs)


def _quantise_onnx(source: Path, target: Path, inputs: Iterable[np.ndarray]) -> None:
    import onnx
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    model = onnx.load(source)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    _name_all(model)
    nodes, outputs = onnx_graph(model)
    inferred = target.with_name(f"{target.stem}-inferred.onnx")
    try:
        quant_pre_process(model, inferred, skip_optimization=True, skip_symbolic_shape=True)
        quantize_static(
            inferred,
            target,
            _reader(inputs, model.graph.input[0].name),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=list(ONNX_WEIGHTED),
            nodes_to_exclude=sorted(float_nodes(nodes, outputs)),
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            per_channel=True,
            reduce_range=True,
            calibrate_method=CalibrationMethod.MinMax,
            extra_options={"MatMulConstBOnly": True},
        )
    finally:
        inferred.unlink(missing_ok=True)
    made = onnx.load(target)  # the library adds notes of its own to the metadata
    del made.metadata_props[:]
    onnx.helper.set_model_props(made, metadata)
    onnx.save(made, target)


def _name_all(model: Any) -> None:
    """Give every node of an `onnx.ModelProto` a name of its own: nodes are excluded by name."""
    used: set[str] = set()
    for index, node in enumerate(model.graph.node):
        if not node.name or node.name in used:
            node.name = f"{node.op_type}_unnamed_{index}"
        used.add(node.name)


def _reader(inputs: Iterable[np.ndarray], name: str) -> Any:
    """Return `inputs` as onnxruntime's calibration expects them: one after the other, by the input's name."""
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):
        def __init__(self) -> None:
            self.left = iter(inputs)

        def get_next(self) -> dict[str, np.ndarray] | None:
            found = next(self.left, None)
            return None if found is None else {name: found}

    return Reader()


def _quantise_openvino(source: Path, target: Path, inputs: Iterable[np.ndarray], number: int) -> None:
    import openvino

    nncf = _import_nncf()
    file = next(source.glob("*.xml"))
    model = openvino.Core().read_model(file)
    nodes, outputs = openvino_graph(model)
    kept = {name for name in float_nodes(nodes, outputs) if nodes[name].kind not in ("Parameter", "Result")}
    kept |= {name for name, node in nodes.items() if node.kind in OPENVINO_FLOAT}
    kept |= {name for name, node in nodes.items() if node.kind == "MatMul" and not node.weighted}
    quantised = nncf.quantize(
        model,
        nncf.Dataset(inputs),
        preset=nncf.QuantizationPreset.MIXED,  # weights symmetric, activations not
        subset_size=number,
        ignored_scope=nncf.IgnoredScope(names=sorted(kept)),
        advanced_parameters=nncf.AdvancedQuantizationParameters(overflow_fix=nncf.OverflowFix.ENABLE),
    )
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("*.xml", "*.bin"))
    openvino.save_model(quantised, target / file.name, compress_to_fp16=False)


def _import_nncf() -> Any:
    """Return the package nncf, switched so that it sends no usage reports and prints nothing but errors."""
    os.environ.setdefault("NNCF_CI", "1")  # its own switch against telemetry; must be set before it is imported
    import nncf

    nncf.set_log_level(logging.ERROR)
    return nncf
