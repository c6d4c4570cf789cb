"""A published ablation as a comparison of our own: a table of `cfg/ablations`, each row a training with its own model.

title: what the table varies
source: paper and table
data: what the paper measured on
against: the row that the others are compared with (the first one when left out)
arguments: [--kd-share, None]        # of train.py, for every row, before those of the command line
notes: [what a reader must know]
rows:
- name: as in the paper
cfg: model.yaml                  # in cfg/models
distill: lgd                     # in cfg/distill; none when left out
published: {mAP50: 97.2, mAP50-95: 56.6}   # as printed (`UNITS`)
- name: a row that nothing here can train
missing: what would
published: {mAP50: 92.4}
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.harness.plan import Method, Question, uses_teacher
from cfg import UserError, find, nearest, read_yaml

# Published numbers, and what one of ours is multiplied by to be in their unit: percent, but for F1 and megabytes.
UNITS = {"mAP50": 100, "mAP50-95": 100, "AP75": 100, "AR1": 100, "AR10": 100, "precision": 100, "recall": 100, "F1": 1,
         "size_mb": 1}  # fmt: skip
KEYS = ("title", "source", "data", "against", "arguments", "notes", "rows")
ROW_KEYS = ("name", "cfg", "distill", "published", "missing")


@dataclass(frozen=True)
class Row:
    """One row of a published table: what trains it, or what is `missing` to train it; `published` as printed."""

    name: str
    published: dict[str, float]
    cfg: str = ""
    distill: str | None = None
    missing: str = ""


@dataclass(frozen=True)
class Ablation:
    """A published table; `against` names the row that the others are compared with."""

    title: str
    source: str
    data: str
    against: str
    rows: tuple[Row, ...]
    arguments: tuple[str, ...] = ()
    notes: tuple[str, ...] = field(default=())


def load(name: str) -> Ablation:
    """Read a table: a path, or a name in `cfg/ablations` with or without `tables/` before it.

    Raises:
        UserError: no such table, an unknown key, a row without a name, or numbers that are none.
    """
    path = find("ablations", name if Path(name).is_file() else name.removeprefix("tables/"))
    content = read_yaml(path)
    _known(path, content, KEYS)
    listed = content.get("rows")
    if not isinstance(listed, list) or not listed or not all(isinstance(row, dict) for row in listed):
        raise UserError(f"{path}: expected 'rows' to be a list of 'name: ..., cfg: ...', got {listed!r}; correct it")
    rows = tuple(_row(path, row) for row in listed)
    trained = [row.name for row in rows if row.cfg]
    against = content.get("against") or next(iter(trained), None)
    if len({row.name for row in rows}) < len(rows) or against not in trained:
        raise UserError(f"{path}: expected names that differ, and 'against' to be a row with a cfg, got {against!r} of "
                        f"{', '.join(row.name for row in rows)}; correct it")  # fmt: skip
    text = {key: str(content.get(key) or "") for key in ("title", "source", "data")}
    lists = {key: _texts(path, key, content.get(key)) for key in ("arguments", "notes")}
    return Ablation(**text, against=against, rows=rows, **lists)


def _texts(path: Path, key: str, value: Any) -> tuple[str, ...]:
    """The entries of a list in the YAML as texts."""
    value = [] if value is None else value
    if not isinstance(value, list) or any(isinstance(entry, (list, dict)) for entry in value):
        raise UserError(f"{path}: expected '{key}' to be a list as [--kd-share, None], got {value!r}; correct it")
    return tuple(map(str, value))


def _row(path: Path, content: dict[str, Any]) -> Row:
    _known(path, content, ROW_KEYS)
    name, published = content.get("name"), content.get("published") or {}
    if not isinstance(name, str) or bool(content.get("cfg")) == bool(content.get("missing")):
        raise UserError(f"{path}: row {name!r}: expected a name, and either a cfg or what is missing; correct it")
    if not isinstance(published, dict):
        raise UserError(f"{path}: row {name}: expected 'published' to be scores as {{mAP50: 97.2}}, got {published!r}; "
                        "correct it")  # fmt: skip
    for key in ("cfg", "distill", "missing"):
        if not isinstance(content.get(key) or "", str):
            raise UserError(f"{path}: row {name}: expected '{key}' to be a text, got {content[key]!r}; correct it")
    for metric, value in published.items():
        if metric not in UNITS:
            raise UserError(f"{path}: row {name}: unknown score '{metric}'{nearest(metric, UNITS)} "
                            f"(known: {', '.join(UNITS)})")  # fmt: skip
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise UserError(f"{path}: row {name}: expected {metric} to be a number, got {value!r}; correct it")
    return Row(**content | {"published": published})


def _known(path: Path, content: dict[str, Any], known: tuple[str, ...]) -> None:
    for key in content:
        if key not in known:
            raise UserError(f"{path}: unknown key '{key}'{nearest(str(key), known)} (known: {', '.join(known)})")


def methods_of(ablation: Ablation, question: Question) -> list[Method]:
    """A method for each row that can be trained.

    Raises:
        UserError: a row learns from a trained teacher and none is given.
    """
    # Start weights ship for some of the models: what varies is to be the row's part, not its start.
    start = [] if "--weights" in question.arguments else ["--weights", "none"]
    methods = []
    for row in ablation.rows:
        if not row.cfg:
            continue
        arguments = [*start, *(["--distill", row.distill] if row.distill else [])]
        if row.distill and uses_teacher(row.distill):
            if not question.teacher:
                raise UserError(f"--ablation: row '{row.name}' of {ablation.source} learns from a teacher; "
                                "use --teacher t.pt")  # fmt: skip
            arguments += ["--teacher", question.teacher]
        methods.append(Method(row.name, arguments, cfg=row.cfg))
    return methods


def beside_ours(ablation: Ablation, result: dict[str, Any],
                records: dict[tuple[str, int], dict[str, Any]]) -> dict[str, Any]:  # fmt: skip
    """The table with our numbers, in its units, for results.json.

    Args:
        result: rows of the comparison (`compare`).
        records: of its runs, by label and seed.

    Returns:
        The table's texts, and per row `published`, `ours` (score -> mean and standard deviation over seeds, None for
        one seed), `difference` (score -> to the row `against`, published and ours) and the `verdict` on ours.
    """
    ours = {row["method"]: row for row in result["rows"]}
    rows = [_beside(row, ablation, ours.get(row.name), records) for row in ablation.rows]
    texts = {key: getattr(ablation, key) for key in ("title", "source", "data", "against", "notes")}
    return texts | {"rows": rows}


def _beside(row: Row, ablation: Ablation, mine: dict[str, Any] | None, records: dict) -> dict[str, Any]:
    base = next(other for other in ablation.rows if other.name == ablation.against)
    result: dict[str, Any] = {"name": row.name, "missing": row.missing, "published": row.published, "ours": {}}
    result |= {"difference": {}, "verdict": None, "errors": mine["errors"] if mine else []}
    if mine and mine["seeds"]:
        runs = [records[row.name, seed] for seed in mine["seeds"]]
        result["ours"] = {metric: _spread(runs, metric) for metric in UNITS}
        result["verdict"] = mine.get("verdict")
    if row.name != ablation.against:
        shared = [metric for metric in row.published if metric in base.published]
        # From the digits printed: 97.83 - 97.2 is 0.63, and no more digits than that.
        gaps = {metric: round(row.published[metric] - base.published[metric], 3) for metric in shared}
        judged = (mine or {}).get("difference", {})
        ours = {metric: UNITS[metric] * one["mean"] for metric, one in judged.items()}
        result["difference"] = {m: {"published": gap, "ours": ours.get(m)} for m, gap in gaps.items()}
    return result


def _spread(runs: list[dict[str, Any]], metric: str) -> list[float | None] | None:
    """Mean and standard deviation over seeds, in the table's unit; None for what the runs did not measure."""
    known = [run["metrics"].get(metric, run["model"].get(metric)) for run in runs]
    values = [UNITS[metric] * value for value in known if value is not None]
    if not values:
        return None
    return [statistics.mean(values), statistics.stdev(values) if len(values) > 1 else None]
