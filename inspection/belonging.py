"""Whether a plan belongs to weights, and the detection options that it sets."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cfg import UserError
from inspection.identity import identify
from inspection.plan import ModelFile, Plan
from inspection.plan_file import load_plan, plan_from_json, rules_digest


@dataclass(frozen=True)
class Settings:
    """How images are looked at. None: nobody said.

    Attributes:
        imgsz: (height, width) or (side,) of the network's input.
        iou: overlap above which two boxes are one object.
        precision: the network's arithmetic.
        tile, overlap: as of `inspection.tiles.tiling_asked`.
    """

    imgsz: list[int] | None = None
    iou: float | None = None
    precision: str | None = None
    tile: int | None = None
    overlap: float | None = None


def plan_of(weights: Path, decision: str | None, embedded: str | None, names: Mapping[int, str]) -> Plan | None:
    """The plan to decide by: that of the file ``--decision``, else the one inside the weights, None without either.

    Says on stderr where the plan promises nothing, or no longer what it did.

    Args:
        embedded: text of the plan inside the weights, None where there is none.

    Raises:
        UserError: the plan is wrong, lacks thresholds, or belongs to another model or another file of it.
    """
    where = f"--decision {decision}" if decision else f"{weights} (embedded plan)"
    if decision:
        plan = load_plan(decision, names)
    elif embedded is not None:
        plan = plan_from_json(embedded, where, names)
    else:
        return None
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


def as_chosen(plan: Plan, asked: Settings) -> Settings:
    """The requested options, the plan's own where none was requested; says on stderr where the two differ."""
    made = plan.model or ModelFile("", "")
    size = [made.imgsz] if made.imgsz else None
    for name, wanted, chosen in (("imgsz", asked.imgsz and sorted(set(asked.imgsz)), size), ("iou", asked.iou, made.iou),
                                 ("precision", asked.precision, made.precision)):  # fmt: skip
        if wanted is not None and chosen is not None and wanted != chosen:
            print(f"--{name} {wanted}: the plan's thresholds were chosen at {chosen}: its promise does not hold here", file=sys.stderr)
    tiles = {"tile": plan.tiling.size, "overlap": plan.tiling.overlap} if plan.tiling else {}
    for name in ("tile", "overlap"):
        if getattr(asked, name) not in (None, tiles.get(name)):
            print(f"--{name} {getattr(asked, name)}: the plan's thresholds were chosen {f'at {tiles[name]}' if tiles else 'on whole images'}: "
                  "its promise does not hold here", file=sys.stderr)  # fmt: skip
    tile, overlap = asked.tile, asked.overlap
    if tile is None and plan.tiling:
        tile, overlap = plan.tiling.size, plan.tiling.overlap if overlap is None else overlap
    return Settings(asked.imgsz or size, asked.iou if asked.iou is not None else made.iou, asked.precision, tile, overlap)
