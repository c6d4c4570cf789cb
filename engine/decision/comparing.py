"""Two models on the same labelled images: what changes in the verdicts, whether mAP differs, and whether a loss is ruled out."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from cfg import UserError
from engine.decision.plans import read_embedded
from engine.validation import average_precision as ap
from engine.validation.box_files import load_boxes, load_facts
from engine.validation.coco_metrics import Boxes, as_found
from inspection.compare import equivalence, mcnemar, percentile
from inspection.evidence import Image, gather
from inspection.groups import groups_of
from inspection.plan import Plan
from inspection.plan_file import load_plan, plan_from_json
from inspection.rates import judge
from inspection.rules import Code

SCORES = {"mAP50": slice(1), "mAP50-95": slice(None)}  # columns of the AP by IoU threshold, of which it is the mean
RESAMPLES = 2000
SHOWN = 5


@dataclass(frozen=True)
class Side:
    """One of the two: `name`, its images (names and paths), their labels and what was found, and the plan that it decides by, if any.

    `doubts`: where boxes were found in another way than the plan's verdicts would be.
    """

    name: str
    files: list[str]
    paths: list[str]
    truths: list[Boxes]
    found: list[Boxes]
    plan: Plan | None
    doubts: tuple[str, ...] = ()


def read_side(given: str, decision: str | None, validate: Callable[[str], Path]) -> Side:
    """One side of a comparison: weights, which are validated, or the .npz of an earlier validation (``--detections``).

    Args:
        decision: the plan for both, whatever file it was made for; without it the one inside the weights, if any.
        validate: writes the .npz of weights and returns its path.

    Raises:
        UserError: the file cannot be used.
    """
    saved = Path(given).suffix == ".npz"
    path = Path(given) if saved else validate(given)
    try:
        files, truths, found = load_boxes(path)
        paths, facts = load_facts(path)
    except (OSError, ValueError, KeyError, EOFError, BadZipFile, zlib.error) as error:
        raise UserError(f"--compare {given}: expected weights, or boxes that val.py --detections wrote, got neither ({error})") from None
    text = None if saved or decision else read_embedded(Path(given))
    names = {int(index): name for index, name in facts["names"].items()} if facts else None
    plan = load_plan(decision, names) if decision else plan_from_json(text, given, names) if text else None
    if plan and plan.has_regions:
        raise UserError(f"--compare {given}: expected a plan without regions, got one with; saved boxes do not say the images' sizes")
    return Side(given, files, paths, truths, found, plan, _doubts(plan, facts) if plan and facts else ())


def _doubts(plan: Plan, facts: dict[str, Any]) -> tuple[str, ...]:
    """Where boxes were found in another way than the plan decides. Raises `UserError` where these verdicts would be other ones altogether."""
    tile = plan.tiling.size if plan.tiling else None
    if facts["tile"] != tile:
        raise UserError(f"--compare: expected boxes that were found {f'in tiles of {tile} px' if tile else 'in whole images'}, as the plan decides, "
                        f"got {(facts['tile'] and 'tiles of ' + str(facts['tile'])) or 'whole images'}; validate with "
                        f"{f'--tile {tile}' if tile else 'no --tile'}")  # fmt: skip
    own = plan.model
    pairs = (("iou", facts["iou"], own.iou), ("imgsz", facts["imgsz"], own.imgsz)) if own else ()
    return tuple(f"boxes were found at --{name} {value}, the plan decides at {chosen}: verdicts may differ from those of detect.py"
                 for name, value, chosen in pairs if chosen is not None and value != chosen)  # fmt: skip


def compare(a: Side, b: Side, margin: float, groups: tuple[dict[str, str], Path] | None, column: str | None) -> dict[str, Any]:
    """What changes from A to B, in plain types.

    Args:
        margin: the most that B may lose of a score, from 0 to 1.
        groups, column: the units that are resampled and judged, see `inspection.groups`.

    Returns:
        ``scores`` by name: a, b, difference, its 95 % ``interval``, ``equivalence``; ``verdicts`` where both decide: numbers right,
        McNemar's ``p_value``, units that flip to ``harmful`` and ``beneficial``; ``doubts`` about these; ``words``.

    Raises:
        UserError: not the same images with the same labels.
    """
    _check_same(a, b)
    of = groups_of(a.paths, groups[0], column, groups[1]) if groups and column else [""] * len(a.files)
    units = np.unique([group or f"{i}" for i, group in enumerate(of)], return_inverse=True)[1]
    draws = ap.resamples(len(a.files), RESAMPLES, of=units)
    weights = np.concatenate([np.ones((1, len(a.files)), dtype=draws.dtype), draws])
    classes = 1 + max((int(t.classes.max()) for t in a.truths if len(t.classes)), default=-1)
    if not classes:
        raise UserError(f"--compare {a.name}: expected labelled boxes, got none; check the data")
    in_a, in_b = (ap.average_precision(ap.match(side.truths, side.found, classes), weights) for side in (a, b))
    scores = {name: _score(in_a[:, columns].mean(1), in_b[:, columns].mean(1), margin) for name, columns in SCORES.items()}
    result: dict[str, Any] = {"a": a.name, "b": b.name, "images": len(a.files), "margin": margin, "scores": scores}
    if a.plan and b.plan:
        result["verdicts"] = _verdicts(((a, a.plan), (b, b.plan)), of, column)
        result["doubts"] = [f"{side.name}: {doubt}" for side in (a, b) for doubt in side.doubts]
    return result | {"words": _words(result)}


def _check_same(a: Side, b: Side) -> None:
    same = a.files == b.files and all(np.array_equal(x.classes, y.classes) and np.allclose(x.boxes_xyxy, y.boxes_xyxy, atol=0.6)
                                      for x, y in zip(a.truths, b.truths, strict=True))  # fmt: skip
    if not same:
        raise UserError(f"--compare: expected the same images with the same labels on both sides, got {len(a.files)} images of {a.name} and "
                        f"{len(b.files)} of {b.name} that differ; validate both on one split at one size")  # fmt: skip


def _score(a: np.ndarray, b: np.ndarray, margin: float) -> dict[str, Any]:
    """Scores (1 + R,) of the set as it is and resampled, compared."""
    gaps, interval = b[1:] - a[1:], percentile(b[1:] - a[1:])
    tested = equivalence(gaps, margin)
    told = asdict(tested) | {"loses_at_most": tested.loses_at_most, "equal": tested.equal}
    return {"a": float(a[0]), "b": float(b[0]), "difference": float(b[0] - a[0]), "interval": [interval.low, interval.high],
            "equivalence": told}  # fmt: skip


def _verdicts(sides: Sequence[tuple[Side, Plan]], groups: Sequence[str], column: str | None) -> dict[str, Any]:
    right, names = [], tuple[str, ...]()
    for side, plan in sides:
        rows = zip(side.files, side.truths, side.found, groups, strict=True)
        images = [
            Image(f"{number}: {file}", 0, 0, as_found(truth), as_found(found), group) for number, (file, truth, found, group) in enumerate(rows)
        ]
        evidence = gather(plan, images, column or "image")
        names = evidence.names
        right.append((judge(plan, evidence).codes == Code.OK) == ~evidence.ng)
    test = mcnemar(*right)
    flips = {kind: [names[i].partition(": ")[2] or names[i] for i in getattr(test, kind)] for kind in ("harmful", "beneficial")}
    return {"units": len(names), "right_a": int(right[0].sum()), "right_b": int(right[1].sum()), "p_value": test.p_value} | flips


def _words(result: dict[str, Any]) -> list[str]:
    lines = [f"A {result['a']}, B {result['b']}, {result['images']} images"]
    for name, score in result["scores"].items():
        low, high = (100 * x for x in score["interval"])
        tested, margin = score["equivalence"], 100 * result["margin"]
        said = (f"B differs by at most {margin:g} points" if tested["equal"] else f"B loses at most {margin:g} points" if
                tested["loses_at_most"] else f"not shown that B loses at most {margin:g} points")  # fmt: skip
        lines.append(f"{name}: A {score['a']:.4f}, B {score['b']:.4f}, B - A {100 * score['difference']:+.2f} points (95 % interval {low:+.2f} to "
                     f"{high:+.2f}); {said} (5 % tests)")  # fmt: skip
    verdicts = result.get("verdicts")
    if verdicts is None:
        return [*lines, "verdicts: not compared; that takes a plan inside both weights, or --decision FILE"]
    lines.append(f"verdicts: right on {verdicts['right_a']} of {verdicts['units']} with A, {verdicts['right_b']} with B; "
                 f"{len(verdicts['harmful'])} flips are harmful, {len(verdicts['beneficial'])} beneficial, McNemar p = "
                 f"{verdicts['p_value']:.3g}; no significant difference is not equality")  # fmt: skip
    lines += result["doubts"]
    for kind in ("harmful", "beneficial"):
        more = f" and {len(verdicts[kind]) - SHOWN} more (--json has all)" if len(verdicts[kind]) > SHOWN else ""
        lines += [f"{kind}: {', '.join(verdicts[kind][:SHOWN])}{more}"] if verdicts[kind] else []
    return lines
