"""A decision plan inside an exported model: in ONNX `metadata_props`, in OpenVINO `rt_info`. Neither runtime is needed.

OpenVINO's `model_info/confidence_threshold`, which its Model API reads, gets the lowest score that the plan looks at, so that no
other runtime drops boxes that decide.
"""

from __future__ import annotations

import xml.etree.ElementTree as ET
from pathlib import Path

from cfg import UserError
from cfg.whole_files import replace_file
from inspection.identity import openvino_network
from inspection.plan import Plan
from inspection.plan_file import plan_json
from inspection.protobuf import METADATA, encode_entry, entry, fields

KEY = "tandem_decision"
INFO, CONFIDENCE = "model_info", "confidence_threshold"


def read_embedded(weights: Path) -> str | None:
    """The text of the plan in an ONNX file or OpenVINO folder, None where there is none or the file cannot be read."""
    try:
        if weights.is_dir():
            node = openvino_network(next(weights.glob("*.xml"))).find(f"rt_info/{INFO}/{KEY}")
            return None if node is None else node.get("value")
        data = memoryview(weights.read_bytes())
        return dict(entry(value) for number, _, value in fields(data) if number == METADATA).get(KEY)
    except (OSError, ValueError, ET.ParseError):
        return None


def embed(weights: Path, plan: Plan) -> None:
    """Put a plan into an ONNX file or OpenVINO folder, instead of an earlier one; completely or not at all.

    Raises:
        UserError: the file cannot be read or written.
    """
    file = next(weights.glob("*.xml")) if weights.is_dir() else weights
    try:
        content = _openvino_with(file, plan) if weights.is_dir() else _onnx_with(file, plan)
    except (OSError, ValueError, ET.ParseError) as error:
        raise UserError(f"--embed: {file}: expected a model that can be read, got {error}; export it again") from None
    replace_file(file, content)


def _onnx_with(file: Path, plan: Plan) -> bytes:
    data = memoryview(file.read_bytes())
    kept = [whole for number, whole, value in fields(data) if number != METADATA or entry(value)[0] != KEY]
    return b"".join([*kept, encode_entry(KEY, plan_json(plan))])


def _openvino_with(file: Path, plan: Plan) -> bytes:
    network = openvino_network(file)
    notes = _child(network, "rt_info")
    info = _child(notes, INFO)
    _child(info, KEY).set("value", plan_json(plan))
    _child(info, CONFIDENCE).set("value", f"{plan.lowest:g}")
    text: bytes = ET.tostring(network, encoding="utf-8", xml_declaration=True)
    return text


def _child(parent: ET.Element, name: str) -> ET.Element:
    found = parent.find(name)
    return ET.SubElement(parent, name) if found is None else found
