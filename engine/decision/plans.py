"""The plan that belongs to weights: read from a file or from the weights themselves, checked against them, embedded in them."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import torch

from cfg import UserError
from engine.checkpoint import is_own, read
from engine.plain import save_atomic
from inspection import embedded
from inspection.identity import identify
from inspection.plan import ModelFile, Plan
from inspection.plan_file import load_plan, plan_from_json, plan_json, rules_digest

META = "decision"  # in a checkpoint's `meta`


def find_plan(weights: Path, decision: str | None, names: Mapping[int, str]) -> Plan | None:
    """The plan to decide by: that of the file ``--decision``, else the one inside the weights, None without either.

    Says on stderr where the plan promises nothing, or no longer what it did.

    Raises:
        UserError: the plan is wrong, lacks thresholds, or belongs to another model or another file of it.
    """
    text = None if decision else read_embedded(weights)
    if decision is None and text is None:
        return None
    where = f"--decision {decision}" if decision else f"{weights} (embedded plan)"
    plan = load_plan(decision, names) if decision else plan_from_json(text, where, names)
    if not plan.complete:
        raise UserError(f"{where}: expected a threshold for every class that counts, got a plan without; choose them with val.py --decide")
    check_owner(plan, identify(weights), where, weights)
    if plan.promise is None:
        print(f"{where}: written by hand, nothing is promised; val.py --decide chooses thresholds with a promise", file=sys.stderr)
    elif plan.promise.rules != rules_digest(plan):
        print(f"{where}: changed by hand since its thresholds were chosen: its promise no longer holds", file=sys.stderr)
    return plan


def check_owner(plan: Plan, model: ModelFile, where: str, weights: Path) -> None:
    """Raise `UserError` when a plan was made for another file than `model`, that of `weights`."""
    if plan.model is not None and plan.model.sha256 != model.sha256:
        theirs, ours = (f"{one.kind}, SHA-256 {one.sha256[:12]}..." for one in (plan.model, model))
        raise UserError(f"{where}: expected a plan for {weights} ({ours}), got one for another file ({theirs}): its scores differ; choose "
                        "thresholds for this file with val.py --decide")  # fmt: skip


def read_embedded(weights: Path) -> str | None:
    """The text of the plan inside weights, None where there is none."""
    if weights.suffix == ".torchscript":
        return None
    if weights.suffix != ".pt":
        return embedded.read_embedded(weights)
    try:
        content = torch.load(weights, map_location="cpu", weights_only=True, mmap=True)  # the tensors are not read
    except Exception:  # a file of other programs, or a damaged one, which is told where it is loaded
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
