"""The plan that belongs to weights: read from a file or from the weights themselves, checked against them, embedded in them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch

from cfg import UserError
from engine.checkpoint import is_own, read
from engine.plain import save_atomic
from inspection import embedded
from inspection.belonging import plan_of
from inspection.plan import Plan
from inspection.plan_file import plan_json

META = "decision"  # in a checkpoint's `meta`


def find_plan(weights: Path, decision: str | None, names: Mapping[int, str]) -> Plan | None:
    """The plan to decide by, None without one; args, messages and errors as of `inspection.belonging.plan_of`."""
    return plan_of(weights, decision, None if decision else read_embedded(weights), names)


def read_embedded(weights: Path) -> str | None:
    """The text of the plan inside weights, None where there is none."""
    if weights.suffix == ".torchscript":
        return None
    if weights.suffix != ".pt":
        return embedded.read_embedded(weights)
    try:
        content = torch.load(weights, map_location="cpu", weights_only=True, mmap=True)  # the tensors are not read
    except Exception:  # a file of other programs, or a damaged one, which is reported where it is loaded
        return None
    text = content["meta"].get(META) if is_own(content) else None
    return text if isinstance(text, str) else None


def check_embeddable(weights: Path) -> None:
    """Raise `UserError` when a plan cannot be put into weights of this kind."""
    if weights.suffix == ".torchscript" or (weights.suffix == ".pt" and not is_own(read(weights))):
        raise UserError(f"--embed: expected a .pt of Tandem, an .onnx or an OpenVINO folder, got {weights}; leave --embed out and give "
                        "detect.py --decision FILE")  # fmt: skip


def embed(weights: Path, plan: Plan) -> None:
    """Put a plan into weights; whole or not at all. Raises `UserError`."""
    if weights.suffix != ".pt":
        embedded.embed(weights, plan)
        return
    content = read(weights)
    save_atomic(weights, content | {"meta": content["meta"] | {META: plan_json(plan)}})
