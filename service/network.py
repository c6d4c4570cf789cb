"""Exported models in their own runtime, ONNX Runtime or OpenVINO: images in, the head's output out."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from cfg import UserError
from cfg.signal_stack import signal_stack_kept
from cfg.telemetry import silence_openvino
from service.exported import Exported

ONNX_TYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}
OPENVINO_TYPES = {"f32": np.float32, "f16": np.float16}


@dataclass(frozen=True)
class Port:
    """An input or output of a network: its name, NumPy type and shape, -1 where any length will do."""

    name: str
    kind: type[np.generic]
    shape: tuple[int, ...]


class Network(Protocol):
    """A model that is ready to run. `run` may be called from one thread at a time.

    Attributes:
        runtime: its name and version.
        exported: what the file says, completed by what the runtime says.
        inputs, outputs: its ports.
    """

    runtime: str
    exported: Exported
    inputs: list[Port]
    outputs: list[Port]

    def run(self, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """Arrays of all inputs by name -> arrays of all outputs."""


class OnnxNetwork:
    """ONNX Runtime on the CPU."""

    def __init__(self, exported: Exported, threads: int) -> None:
        os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # else it keeps an identifier in the user's home and reports its use
        import onnxruntime  # late: an OpenVINO folder does without

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = 3  # errors; they are raised too
        # Threads that wait in loops would take the core that decodes the next image (see engine.backend.onnx_options).
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self.session = onnxruntime.InferenceSession(str(exported.path), options, providers=["CPUExecutionProvider"])
        self.runtime = f"ONNX Runtime {onnxruntime.__version__}"
        self.inputs, self.outputs = ([_onnx_port(one) for one in ports] for ports in (self.session.get_inputs(), self.session.get_outputs()))
        self.exported = _completed(exported, self.inputs, self.outputs)

    def run(self, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """As `Network.run`."""
        outputs: list[np.ndarray] = self.session.run(None, dict(feeds))
        return outputs


class OpenVinoNetwork:
    """OpenVINO on the CPU, in float32 on every processor, so that the same file finds the same boxes everywhere."""

    def __init__(self, exported: Exported, threads: int) -> None:
        silence_openvino()
        import openvino  # late: an ONNX file does without

        core, file = openvino.Core(), next(exported.path.glob("*.xml"))
        model = core.read_model(file)
        if exported.dynamic and _crashes_with_any_size(model):
            model.reshape([1, 3, *exported.size])
            exported = replace(exported, dynamic=False, batch=1)
        options = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": openvino.Type.f32}
        with signal_stack_kept():
            self.request = core.compile_model(model, "CPU", options).create_infer_request()
        self.runtime = f"OpenVINO {openvino.__version__.partition('-')[0]}"
        self.inputs, self.outputs = ([_openvino_port(one, at) for at, one in enumerate(ports)] for ports in (model.inputs, model.outputs))
        self.exported = _completed(exported, self.inputs, self.outputs)

    def run(self, feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """As `Network.run`."""
        found = self.request.infer({at: feeds[port.name] for at, port in enumerate(self.inputs)})
        return [np.array(found[at]) for at in range(len(self.outputs))]  # the request's own memory is used again


def open_network(exported: Exported, threads: int) -> Network:
    """Load a model.

    Args:
        exported: as `service.exported.read_exported` gives it.
        threads: of the runtime.

    Raises:
        UserError: the runtime is not installed, cannot read the file, or it is no detector of one image input.
    """
    package, kind = ("openvino", OpenVinoNetwork) if exported.path.is_dir() else ("onnxruntime", OnnxNetwork)
    where = f"--weights {exported.path}"
    if importlib.util.find_spec(package) is None:
        raise UserError(f"{where}: expected the package {package} to be installed; pip install {package}")
    try:
        network = kind(exported, threads)
    except Exception as error:  # each runtime raises its own classes for a file that it cannot read
        detail = " ".join(str(error).split())[:200]
        raise UserError(f"{where}: cannot be loaded ({type(error).__name__}: {detail}); export it again") from None
    if len(network.inputs) != 1 or len(network.inputs[0].shape) != 4 or len(network.outputs[0].shape) != 3:
        shapes = [port.shape for port in (*network.inputs, *network.outputs)]
        raise UserError(f"{where}: expected a detector, one input (B, 3, H, W) and an output (B, values, places), got {shapes}; give another file")
    return network


def pictures_through(network: Network, pictures: np.ndarray) -> np.ndarray:
    """The head's output for images (B, 3, h, w) float32 from 0 to 1: (B, 4 + K, places), or (B, N, 6) after suppression.

    A network of a fixed number of images gets them in portions, the last filled up with black.
    """
    port, exported = network.inputs[0], network.exported
    at_once = len(pictures) if exported.dynamic else exported.batch
    parts = []
    for start in range(0, len(pictures), at_once):
        portion = pictures[start : start + at_once].astype(port.kind, copy=False)
        missing = 0 if exported.dynamic else at_once - len(portion)
        filled = np.concatenate([portion, np.zeros((missing, *portion.shape[1:]), portion.dtype)]) if missing else portion
        parts.append(network.run({port.name: filled})[0][: len(portion)])
    return (parts[0] if len(parts) == 1 else np.concatenate(parts)).astype(np.float32, copy=False)


def _completed(exported: Exported, inputs: list[Port], outputs: list[Port]) -> Exported:
    """What a file of others does not say: sizes and number of classes, from the ports."""
    names = exported.names
    if not names and len(outputs[0].shape) == 3 and not exported.suppressed:
        names = {index: f"class{index}" for index in range(max(outputs[0].shape[1] - 4, 0))}
    fixed = inputs[0].shape
    if not exported.dynamic and len(fixed) == 4 and min(fixed) > 0:
        exported = replace(exported, batch=fixed[0], size=(fixed[2], fixed[3]))
    return replace(exported, names=names)


def _onnx_port(one: Any) -> Port:
    if one.type not in ONNX_TYPES:
        raise UserError(f"{one.name}: expected float32 or float16, got {one.type}")
    return Port(one.name, ONNX_TYPES[one.type], tuple(side if isinstance(side, int) else -1 for side in one.shape))


def _openvino_port(one: Any, number: int) -> Port:
    names = sorted(one.get_names())
    shape = tuple(side.get_length() if side.is_static else -1 for side in one.get_partial_shape())
    return Port(names[0] if names else f"port{number}", OPENVINO_TYPES[one.get_element_type().get_type_name()], shape)


def _crashes_with_any_size(model: Any) -> bool:
    """Whether OpenVINO's CPU plug-in ends the process with this model: INT8, any size, on AMX (its issue 37577)."""
    cpu = Path("/proc/cpuinfo")
    quantised = any(node.get_type_name() == "FakeQuantize" for node in model.get_ops())
    return quantised and os.name == "posix" and cpu.exists() and "amx_int8" in cpu.read_text()
