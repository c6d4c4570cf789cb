"""`train.py --info`: what a model is, without training it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cfg import UserError
from data import validate
from engine.checkpoint import load_detector
from engine.detectors import build_detector
from engine.profile import profile


def info(given: dict[str, Any]) -> str:
    """Layers, parameters, size and GFLOPs of a model YAML (or weights) without training it."""
    name = given.get("model") or given.get("weights")
    if not name:
        raise UserError("--info: expected a model; for example --cfg s-model.yaml --info")
    nc = None
    if given.get("data"):
        nc = validate(given["data"]).nc
    if not isinstance(given.get("imgsz", 640), int):
        raise UserError(f"imgsz: expected a whole number of pixels, got {given['imgsz']!r}")
    model = load_detector(name)[0] if str(name).endswith(".pt") else build_detector(name, nc)
    size = given.get("imgsz") or 640
    facts = profile(model, size)
    blocks = [(layer, str(layer.type).rpartition(".")[2]) for layer in model.model]
    rows = [f"{layer.i:>4}  {layer.f!s:<28} {layer.np:>10,}  {block}" for layer, block in blocks]
    summary = (
        f"{Path(str(name)).name}: {facts['layers']} layers, {facts['parameters']:,} parameters, "
        f"{facts['size_mb']:.1f} MB in fp32, "
        f"{facts['gflops']:.1f} GFLOPs at {size} px, strides {[int(s) for s in model.stride]}"
    )
    return "\n".join(["   n  from                         parameters  block", *rows, summary])
