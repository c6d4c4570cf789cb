"""Which file a plan belongs to: a digest of the weights without the metadata, so that a plan can be put into the metadata."""

from __future__ import annotations

import hashlib
import xml.etree.ElementTree as ET
import zipfile
from collections.abc import Iterable
from pathlib import Path

from cfg import UserError
from inspection.plan import ModelFile
from inspection.protobuf import METADATA, fields

KINDS = {".pt": "pytorch", ".onnx": "onnx", ".torchscript": "torchscript"}
CHUNK = 1 << 20


def identify(weights: Path, imgsz: int | None = None, iou: float | None = None, precision: str | None = None) -> ModelFile:
    """The digest and kind of weights: .pt, .onnx, .torchscript or an OpenVINO folder.

    Of a .pt it covers the tensors, of the others all that is computed. The same file with and without an embedded plan has one
    digest; a model that was trained further, exported or quantised has another.

    Args:
        imgsz, iou, precision: as of `ModelFile`.

    Raises:
        UserError: the file is not what its name says.
    """
    try:
        kind, parts = _parts(weights)
        digest = hashlib.sha256()
        for part in parts:
            digest.update(part)
    except (OSError, ValueError, zipfile.BadZipFile, ET.ParseError) as error:
        raise UserError(f"{weights}: expected a model to make a digest of, got a damaged file ({error}); export it again") from None
    return ModelFile(digest.hexdigest(), kind, imgsz, iou, precision)


def _parts(weights: Path) -> tuple[str, Iterable[bytes | memoryview]]:
    """The kind of the weights, and the bytes that make up their digest."""
    if weights.is_dir():
        file = next(weights.glob("*.xml"))
        network = openvino_network(file)
        quantised = any(layer.get("type") == "FakeQuantize" for layer in network.iter("layer"))
        return "openvino" + "-int8" * quantised, [network_text(network), *_chunks(file.with_suffix(".bin"))]
    kind = KINDS[weights.suffix]
    if kind == "onnx":
        data = memoryview(weights.read_bytes())
        parts = [field for number, field, _ in fields(data) if number != METADATA]
        return kind + "-int8" * any(b"QuantizeLinear" in bytes(part) for part in parts), parts
    if not zipfile.is_zipfile(weights):  # of torch before 1.6
        return kind, _chunks(weights)
    return kind, _archived(weights, kind)


def openvino_network(file: Path) -> ET.Element:
    """The root of an OpenVINO .xml."""
    return ET.parse(file).getroot()


def network_text(network: ET.Element) -> bytes:
    """What an OpenVINO .xml computes, as text in one form: all but the notes on the model as a whole."""
    bare = ET.Element(network.tag, network.attrib)
    bare.extend(part for part in network if part.tag != "rt_info")
    return ET.canonicalize(ET.tostring(bare), strip_text=True).encode()


def _archived(weights: Path, kind: str) -> Iterable[bytes]:
    """Tensors of a .pt in the order of their numbers; of TorchScript its code too."""
    with zipfile.ZipFile(weights) as archive:
        names = sorted(archive.namelist(), key=lambda name: (len(name), name))
        for name in names:
            inside = name.partition("/")[2]
            tensor = inside.startswith(("data/", "constants/"))
            code = kind == "torchscript" and (inside.startswith("code/") or inside.endswith(".pkl"))
            if tensor or code:
                yield inside.encode()
                with archive.open(name) as file:
                    while chunk := file.read(CHUNK):
                        yield chunk


def _chunks(file: Path) -> Iterable[bytes]:
    with file.open("rb") as source:
        while chunk := source.read(CHUNK):
            yield chunk
