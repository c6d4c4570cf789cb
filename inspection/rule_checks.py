"""Whether a plan's rules pass over defects: the smallest labels beside the rules, and escapes that a rule alone makes."""

from __future__ import annotations

import numpy as np

from cfg import UserError
from cfg.class_names import shown
from inspection.evidence import Evidence, without_rules
from inspection.plan import Plan
from inspection.rules import Code, decide

RULES = {"min_length_mm": "diagonal", "min_area_mm2": "area", "max_count": "count"}


def smallest_labels(plan: Plan, evidence: Evidence) -> list[str]:
    """One line for each length or area rule, with the smallest labelled defect of its class beside it."""
    lines = []
    for index, rule in enumerate(plan.rules):
        boxes = [image.labels.boxes_xyxy[image.labels.classes == index] for image in evidence.images]
        sides = np.concatenate([np.zeros((0, 2)), *((b[:, 2:] - b[:, :2]).reshape(-1, 2) for b in boxes)]) * (plan.mm_per_pixel or 0)
        name = shown(plan.names[index])
        if rule.min_length_mm:
            seen = f"{np.hypot(*sides.T).min():.3g} mm" if len(sides) else "none"
            lines.append(f"{name}: min_length_mm {rule.min_length_mm:g}; diagonal of the smallest labelled defect: {seen} (a box bounds the "
                         "length of a straight scratch: longer side <= length <= diagonal)")  # fmt: skip
        if rule.min_area_mm2:
            seen = f"{sides.prod(1).min():.3g} mm2" if len(sides) else "none"
            lines.append(f"{name}: min_area_mm2 {rule.min_area_mm2:g}; box area of the smallest labelled defect: {seen}")
    return lines


def check_rules(plan: Plan, evidence: Evidence) -> None:
    """Raise `UserError` when a rule makes an escape: an NG unit passes as OK that would not without the rule."""
    passed = _passed(plan, evidence)
    if not passed:
        return
    relaxed = [(without_rules(plan), "regions")] if plan.has_regions else []
    for index, rule in enumerate(plan.rules):
        relaxed += [(without_rules(plan, index, name), f"{shown(plan.names[index])}: {name} {getattr(rule, name):g}")
                    for name in RULES if getattr(rule, name)]  # fmt: skip
    for other, told in relaxed:
        made = [unit for unit in passed if unit not in _passed(other, evidence, only=passed)]
        if made:
            first = evidence.names[made[0]]
            raise UserError(f"decision plan: {told}: expected a rule that passes over no defect, but it makes {len(made)} of "
                            f"{int(evidence.ng.sum())} NG {evidence.plural} pass as OK, the first is {first}; relax the rule, or write "
                            "ng_images: by_rules if such labels are within the specification")  # fmt: skip


def _passed(plan: Plan, evidence: Evidence, only: list[int] | None = None) -> list[int]:
    """The NG units, of `only` those, all images of which the plan passes as OK."""
    units = np.flatnonzero(evidence.ng) if only is None else only
    ok = {int(unit): True for unit in units}
    for unit, image in zip(evidence.of.tolist(), evidence.images, strict=True):
        if ok.get(unit):
            ok[unit] = decide(plan, image.found, image.height, image.width).code == Code.OK
    return [unit for unit, passes in ok.items() if passes]
