"""Whether a plan belongs to weights, and the detection options that it sets."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from cfg import UserError
from inspection.identity import identify
from inspection.plan import ModelFile, Plan
from inspection.plan_file import load_plan, plan_from_json, rules_digest

MOST_BOXES = 300  # of an image, when thresholds are chosen


@dataclass(frozen=True)
class Settings:
    """How images are looked at. None: nobody said.

    Attributes:
        imgsz: (height, width) or (side,) of the network's input.
        iou: overlap above which two boxes are one object.
        precision: the network's arithmetic.
        tile, overlap: as of `inspection.tiles.tiling_asked`.
        max_det: most boxes of an image.
        agnostic_nms: whether a box suppresses those of other classes too.
    """

    imgsz: list[int] | None = None
    iou: float | None = None
    precision: str | None = None
    tile: int | None = None
    overlap: float | None = None
    max_det: int | None = None
    agnostic_nms: bool = False


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


def as_chosen(plan: Plan, asked: Settings) -> tuple[Settings, tuple[str, ...]]:
    """The requested settings, the plan's own where none was requested; the precision is always the requested one.

    Returns:
        Settings, and a sentence for each that is not the one at which the plan's thresholds were chosen; these go to stderr too.
    """
    made, tiling = plan.model or ModelFile("", ""), plan.tiling
    size = [made.imgsz] if made.imgsz else None
    tile, overlap = asked.tile, asked.overlap
    if tiling and tile in (None, tiling.size):
        tile, overlap = tiling.size, tiling.overlap if overlap is None else overlap
    settings = replace(asked, imgsz=asked.imgsz or size, iou=made.iou if asked.iou is None else asked.iou, tile=tile, overlap=overlap)
    doubts = tuple(f"{given}: the plan's thresholds were chosen {chosen}: its promise does not hold here"
                   for given, chosen in _differing(plan, made, settings))  # fmt: skip
    for doubt in doubts:
        print(doubt, file=sys.stderr)
    return settings, doubts


def _differing(plan: Plan, made: ModelFile, used: Settings) -> Iterator[tuple[str, str]]:
    """(option as given, how it was for the plan) of each that is another one."""
    pairs: list[tuple[str, object, object]] = [
        ("imgsz", used.imgsz and sorted(set(used.imgsz)), made.imgsz and [made.imgsz]), ("iou", used.iou, made.iou),
        ("precision", used.precision, made.precision)]  # fmt: skip
    if plan.tiling:
        pairs += [("tile", used.tile, plan.tiling.size), ("overlap", used.overlap, plan.tiling.overlap)]
    elif used.tile is not None:
        yield f"--tile {used.tile}", "on whole images"
    yield from ((f"--{name} {value}", f"at {own}") for name, value, own in pairs if None not in (value, own) and value != own)
    if used.max_det is not None and used.max_det < MOST_BOXES:
        yield f"--max-det {used.max_det}", f"at {MOST_BOXES}"
    if used.agnostic_nms:
        yield "--agnostic-nms", "without it"
