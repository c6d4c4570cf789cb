"""Requests and answers of the Open Inference Protocol v2: tensors as JSON, or as bytes behind the JSON (binary extension)."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from service.intake import Refused
from service.network import Network, Port

DATATYPES = {np.float32: "FP32", np.float16: "FP16"}
BINARY = "binary_tensor_data"  # the extension's name
MOST_JSON = 32 * 2**20  # bytes: an image of 640 x 640 as text; more of it would hold up the others


def describe(port: Port) -> dict[str, Any]:
    """A port as metadata tell it."""
    return {"name": port.name, "datatype": DATATYPES[port.kind], "shape": list(port.shape)}


def configuration(network: Network, name: str) -> dict[str, Any]:
    """A model as Triton's configuration extension tells it, with the metadata that ultralytics' client looks for."""
    exported = network.exported
    told = {"task": "detect", "names": exported.names, "stride": exported.stride, "imgsz": list(exported.size), "batch": exported.batch,
            "channels": 3, "args": {"dynamic": exported.dynamic, "nms": exported.suppressed}}  # fmt: skip
    ports = {
        kind: [{"name": port.name, "data_type": f"TYPE_{DATATYPES[port.kind]}", "dims": list(port.shape)} for port in group]
        for kind, group in (("input", network.inputs), ("output", network.outputs))
    }
    return {"name": name, "platform": network.runtime, "max_batch_size": 0, **ports, "parameters": {"metadata": {"string_value": repr(told)}}}


def parse_request(body: bytes, header_length: str | None, network: Network) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Read an inference request.

    Args:
        body: of the request.
        header_length: value of its `Inference-Header-Content-Length`: what lies behind so many bytes are tensors.

    Returns:
        The request's JSON, and arrays of all inputs by name.

    Raises:
        Refused: it is not such a request, or does not fit the model.
    """
    length = len(body)
    if header_length is not None:
        if not header_length.isdecimal() or int(header_length[:12]) > len(body):
            raise Refused(400, "Inference-Header-Content-Length: expected bytes of the body")
        length = int(header_length)
    if length > MOST_JSON:
        raise Refused(413, f"expected at most {MOST_JSON:,} bytes of JSON; send tensors as binary data")
    try:
        request = json.loads(body[:length])
        given = {str(one["name"]): one for one in request["inputs"]}
    except (ValueError, TypeError, KeyError, RecursionError):
        raise Refused(400, "expected JSON with inputs, each with name, shape, datatype and data") from None
    unknown = set(given) - {port.name for port in network.inputs}
    if unknown:
        raise Refused(400, f"expected the input {network.inputs[0].name}, got {sorted(unknown)[0][:60]}")
    feeds, place = {}, length
    for name, one in given.items():
        port = next(port for port in network.inputs if port.name == name)
        feeds[name], place = _array(one, port, body, place)
    if missing := [port.name for port in network.inputs if port.name not in feeds]:
        raise Refused(400, f"expected the input {missing[0]}, got none")
    return request, feeds


def _array(one: Mapping[str, Any], port: Port, body: bytes, place: int) -> tuple[np.ndarray, int]:
    shape = one.get("shape")
    if not isinstance(shape, list) or not all(isinstance(side, int) and not isinstance(side, bool) and side > 0 for side in shape):
        raise Refused(400, f"{port.name}: expected a shape of whole numbers above 0")
    if len(shape) != len(port.shape) or any(wanted not in (-1, side) for wanted, side in zip(port.shape, shape, strict=True)):
        raise Refused(400, f"{port.name}: expected the shape {list(port.shape)}, got {shape[:8]}")
    if one.get("datatype") != DATATYPES[port.kind]:
        raise Refused(400, f"{port.name}: expected the datatype {DATATYPES[port.kind]}, got {str(one.get('datatype'))[:20]}")
    given = one.get("parameters")
    parameters = given if isinstance(given, dict) else {}
    size, number = parameters.get("binary_data_size"), math.prod(shape)
    if size is not None:
        if size != number * np.dtype(port.kind).itemsize or place + size > len(body):
            raise Refused(400, f"{port.name}: expected {number * np.dtype(port.kind).itemsize} bytes of binary data")
        return np.frombuffer(body, port.kind, number, place).reshape(shape), place + size
    try:
        array = np.array(one.get("data"), port.kind)
    except (ValueError, TypeError):
        array = np.zeros(0)
    if array.size != number:
        raise Refused(400, f"{port.name}: expected {number} numbers as data")
    return array.reshape(shape), place


def answer(request: Mapping[str, Any], outputs: list[np.ndarray], network: Network, model: str) -> tuple[bytes, int | None]:
    """The body of an answer, and the length of its JSON where bytes follow it.

    Raises:
        Refused: an output was asked for that the model does not have.
    """
    arrays = dict(zip((port.name for port in network.outputs), outputs, strict=True))
    wanted = request.get("outputs") or [{"name": name, "parameters": _binary(request, "binary_data_output")} for name in arrays]
    told: list[dict[str, Any]] = []
    tails: list[bytes] = []
    for one in wanted:
        name = one.get("name") if isinstance(one, dict) else None
        if name not in arrays:
            raise Refused(400, f"expected the outputs {', '.join(arrays)}, got {str(name)[:60]}")
        array = np.ascontiguousarray(arrays[name])
        entry = {"name": name, "datatype": DATATYPES[array.dtype.type], "shape": list(array.shape)}
        if _binary(one, "binary_data")["binary_data"]:
            tails.append(array.tobytes())
            told.append(entry | {"parameters": {"binary_data_size": len(tails[-1])}})
        else:
            told.append(entry | {"data": array.ravel().tolist()})
    content = {"model_name": model, "model_version": "1", "outputs": told}
    if isinstance(request.get("id"), str):
        content["id"] = request["id"]
    head = json.dumps(content).encode()
    return b"".join([head, *tails]), len(head) if tails else None


def _binary(holder: Mapping[str, Any], key: str) -> dict[str, bool]:
    """Whether binary data are asked for under `key` of the parameters of a request or output."""
    parameters = holder.get("parameters")
    return {"binary_data": bool(isinstance(parameters, dict) and parameters.get(key))}
