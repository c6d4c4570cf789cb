"""Read, check and write decision plans: `decision.yaml`, and the same content as one line of JSON inside a model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, fields
from pathlib import Path
from typing import Any, TypeVar

import yaml

from cfg import UserError, nearest, read_yaml
from cfg.whole_files import replace_file
from inspection.plan import (
    ANY_LABEL,
    BY_RULES,
    PIXELS,
    RELATIVE,
    SEVERITIES,
    ClassRule,
    ModelFile,
    Plan,
    Polygon,
    Promise,
    Regions,
    Tiling,
)  # fmt: skip
from inspection.tiles import MOST_OVERLAP, SMALLEST
from inspection.values import absent, choice, mapping, number, whole

Facts = TypeVar("Facts", ModelFile, Promise)
VERSION = 1
TOP = ("version", "names", "classes", "mm_per_pixel", "regions", "tiling", "ng_images", "model", "promise")
HEADER = "# Decision plan of Tandem. Thresholds may be raised or lowered by hand; the promise then no longer holds.\n"


def load_plan(path: str | Path, names: Mapping[int, str] | Sequence[str] | None = None) -> Plan:
    """Read a `decision.yaml`.

    Args:
        names: the model's class names; without them the file's own.

    Raises:
        UserError: it cannot be read; or it has an unknown class, rule or unit, or a value outside its range.
    """
    return parse_plan(read_yaml(path, as_text=True), str(path), names)  # as text: a class may be called `yes` or `1.0`


def plan_from_json(text: str, where: str, names: Mapping[int, str] | Sequence[str] | None = None) -> Plan:
    """Read a plan that was embedded in the file `where`. Raises as `load_plan`."""
    try:
        content = json.loads(text)
    except ValueError:
        raise UserError(f"{where}: expected a decision plan as JSON in its metadata, got other text; embed it again") from None
    return parse_plan(content, where, names)


def parse_plan(content: Any, where: str, names: Mapping[int, str] | Sequence[str] | None = None) -> Plan:
    """The plan that `content` (mappings, lists, texts, numbers) describes; `where` names it in messages. Raises as `load_plan`."""
    content = mapping(content, where, TOP)
    version = whole(content.get("version", VERSION), f"{where}: version", least=1)
    if version > VERSION:
        raise UserError(f"{where}: version: expected {VERSION} or older, got {version}; use a newer Tandem")
    given = mapping(content.get("classes", {}), f"{where}: classes")
    known = _names(content, names, list(given), where)
    for name in given:
        if name not in known:
            listed = ", ".join(known)
            raise UserError(f"{where}: classes: expected classes of the model ({listed}), got '{name}'"
                            f"{nearest(name, known) or '; remove it, or take the plan of this model'}")
    rules = tuple(_rule(given.get(name, {}), f"{where}: classes: {name}") for name in known)
    scale = content.get("mm_per_pixel")
    plan = Plan(
        names=known,
        rules=rules,
        mm_per_pixel=None if absent(scale) else number(scale, f"{where}: mm_per_pixel", above=0),
        regions=_regions(content.get("regions", {}), f"{where}: regions"),
        tiling=_tiling(content.get("tiling"), f"{where}: tiling"),
        ng_images=choice(content.get("ng_images", ANY_LABEL), f"{where}: ng_images", (ANY_LABEL, BY_RULES)),
        model=_facts(ModelFile, content.get("model"), f"{where}: model"),
        promise=_facts(Promise, content.get("promise"), f"{where}: promise"),
    )
    if plan.has_sizes and plan.mm_per_pixel is None:
        raise UserError(f"{where}: expected mm_per_pixel beside rules in mm, got none; add for example mm_per_pixel: 0.05")
    if not plan.counting.any():
        raise UserError(f"{where}: expected a class that counts, got severity none for all; then every image would be OK")
    return plan


def plan_content(plan: Plan) -> dict[str, Any]:
    """What a plan's file holds, in plain types; `parse_plan` reads it back to an equal plan."""
    rules = [{k: v for k, v in asdict(rule).items() if v != _default(ClassRule, k)} for rule in plan.rules]
    content: dict[str, Any] = {"version": VERSION, "names": list(plan.names)}
    content["classes"] = dict(zip(plan.names, rules, strict=True))
    content["mm_per_pixel"] = plan.mm_per_pixel
    content["regions"] = {k: v for k, v in asdict(plan.regions).items() if v} if plan.regions != Regions() else None
    for name in ("tiling", "model", "promise"):
        part = getattr(plan, name)
        content[name] = None if part is None else {k: v for k, v in asdict(part).items() if v is not None}
    content["ng_images"] = plan.ng_images
    plain: dict[str, Any] = json.loads(json.dumps({key: content[key] for key in TOP if content[key] is not None}))  # tuples become lists
    return plain


def plan_text(plan: Plan) -> str:
    """The text of a plan's `decision.yaml`."""
    body = yaml.safe_dump(plan_content(plan), sort_keys=False, allow_unicode=True, default_flow_style=None, width=120)
    return HEADER + body


def plan_json(plan: Plan) -> str:
    """A plan as one line of JSON, to be embedded."""
    return json.dumps(plan_content(plan), ensure_ascii=False)


def rules_digest(plan: Plan) -> str:
    """Digest of what a plan decides by: all but its model and promise."""
    content = {key: value for key, value in plan_content(plan).items() if key not in ("version", "model", "promise")}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


def save_plan(path: str | Path, plan: Plan) -> None:
    """Write `decision.yaml`, as a whole or not at all. Raises `UserError` when that is not possible."""
    replace_file(path, plan_text(plan).encode())


def _names(content: Mapping[str, Any], given: Any, listed: list[str], where: str) -> tuple[str, ...]:
    """Class names in the model's order: those given, which must be the file's if it has any."""
    own = content.get("names")
    if own is not None and (not isinstance(own, list) or not all(isinstance(name, str) for name in own)):
        raise UserError(f"{where}: names: expected a list of class names, got {own!r}; as [scratch, pit]")
    own = tuple(own or listed)
    if given is None:
        known = own
    else:
        known = tuple(str(given[i]) for i in sorted(given)) if isinstance(given, Mapping) else tuple(map(str, given))
        if content.get("names") and own != known:
            raise UserError(f"{where}: expected the classes of the model ({', '.join(known)}), got a plan for {', '.join(own)}; "
                            "it belongs to another model")  # fmt: skip
    if not known or len(set(known)) != len(known):
        raise UserError(f"{where}: expected classes with different names, got {', '.join(known) or 'none'}; correct the names")
    return known


def _rule(content: Any, where: str) -> ClassRule:
    content = {} if absent(content) else mapping(content, where, [field.name for field in fields(ClassRule)])
    values: dict[str, Any] = {}
    for key, value in content.items():
        place = f"{where}: {key}"
        if key in ("threshold", "review"):
            values[key] = None if absent(value) else number(value, place, above=0, most=1)
        elif key == "severity":
            values[key] = choice(value, place, SEVERITIES)
        elif key == "max_count":
            values[key] = whole(value, place, least=0)
        else:
            values[key] = number(value, place, least=0)
    rule = ClassRule(**values)
    if rule.review is not None and (rule.threshold is None or rule.review >= rule.threshold):
        got = f"{rule.review:g} beside {'no threshold' if rule.threshold is None else f'{rule.threshold:g}'}"
        raise UserError(f"{where}: review: expected a score below the class's threshold, got {got}; leave review out, or lower it")
    return rule


def _regions(content: Any, where: str) -> Regions:
    if absent(content):
        return Regions()
    content = mapping(content, where, [field.name for field in fields(Regions)])
    unit = choice(content.get("unit", RELATIVE), f"{where}: unit", (PIXELS, RELATIVE))
    size: dict[str, int | None] = {"width": None, "height": None}
    if unit == PIXELS:
        if missing := [key for key in size if absent(content.get(key))]:
            raise UserError(f"{where}: expected width and height of the image beside unit: pixels, got no {missing[0]}; add it")
        size = {key: whole(content[key], f"{where}: {key}", least=1) for key in size}
    elif any(not absent(content.get(key)) for key in size):
        raise UserError(f"{where}: expected width and height with unit: pixels only, got them with relative; remove them")
    limits = (size["width"] or 1, size["height"] or 1)
    parts = {}
    for key in ("look_at", "leave_out"):
        polygons = content.get(key) or []
        if not isinstance(polygons, list):
            raise UserError(f"{where}: {key}: expected a list of polygons, got {polygons!r}; as [[[0, 0], [1, 0], [1, 1]]]")
        parts[key] = tuple(_polygon(p, f"{where}: {key}: polygon {n}", limits) for n, p in enumerate(polygons, start=1))
    return Regions(unit, look_at=parts["look_at"], leave_out=parts["leave_out"], **size)


def _polygon(content: Any, where: str, limits: tuple[int, int]) -> Polygon:
    if not isinstance(content, list) or len(content) < 3 or not all(isinstance(p, list) and len(p) == 2 for p in content):
        raise UserError(f"{where}: expected at least three corners [x, y], got {str(content)[:60]}; as [[0, 0], [1, 0], [1, 1]]")
    corners = tuple((number(x, where), number(y, where)) for x, y in content)
    for x, y in corners:
        if not (0 <= x <= limits[0] and 0 <= y <= limits[1]):
            raise UserError(f"{where}: expected corners inside the image (0 to {limits[0]}, 0 to {limits[1]}), got [{x:g}, {y:g}]; "
                            "correct it, or the unit (pixels, relative)")  # fmt: skip
    if _on_a_line(corners):
        raise UserError(f"{where}: expected corners around an area, got all of them on one line; correct them")
    return corners


def _on_a_line(corners: Polygon) -> bool:
    """Whether nothing lies between the corners."""
    ways = [(x - corners[0][0], y - corners[0][1]) for x, y in corners]
    far_x, far_y = max(ways, key=lambda way: abs(way[0]) + abs(way[1]))
    return all(abs(x * far_y - y * far_x) <= 1e-9 * (far_x**2 + far_y**2) for x, y in ways)


def _tiling(content: Any, where: str) -> Tiling | None:
    if absent(content):
        return None
    content = mapping(content, where, [field.name for field in fields(Tiling)])
    overlap = number(content.get("overlap", Tiling.overlap), f"{where}: overlap", least=0, most=MOST_OVERLAP)
    return Tiling(whole(content.get("size"), f"{where}: size", least=SMALLEST), overlap)


def _facts(kind: type[Facts], content: Any, where: str) -> Facts | None:
    """A `ModelFile` or `Promise` as val.py wrote it, None where there is none."""
    if absent(content):
        return None
    types = {field.name: str(field.type) for field in fields(kind)}
    content = {key: value for key, value in mapping(content, where, types).items() if not absent(value)}
    if missing := [f.name for f in fields(kind) if f.default is MISSING and f.name not in content]:
        raise UserError(f"{where}: expected {missing[0]}, got none; make the plan again with val.py --decide")
    return kind(**{key: _fact(value, types[key], f"{where}: {key}") for key, value in content.items()})


def _fact(value: Any, kind: str, where: str) -> Any:
    if kind.startswith("tuple"):
        if not isinstance(value, (list, tuple)) or len(value) != 2:
            raise UserError(f"{where}: expected two numbers [low, high], got {str(value)[:60]!r}; correct it")
        return tuple(number(part, where) for part in value)
    if kind.startswith("int"):
        return whole(value, where, least=0)
    return number(value, where) if kind.startswith("float") else str(value)


def _default(kind: type[ClassRule], name: str) -> Any:
    return next(field.default for field in fields(kind) if field.name == name)
