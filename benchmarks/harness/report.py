"""results.json and results.md of a comparison."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from benchmarks.harness.published import beside
from benchmarks.harness.statistics import MOST_SEEDS


def write(folder: Path, result: dict[str, Any]) -> None:
    """Write both files, each at once so that no reader finds half of one."""
    texts = {"results.json": json.dumps(result, indent=2) + "\n", "results.md": markdown(result)}
    for name, text in texts.items():
        part = folder / f".{name}.part"
        part.write_text(text, encoding="utf-8")
        os.replace(part, folder / name)


def markdown(result: dict[str, Any]) -> str:
    """The report for people."""
    rows = result["rows"]
    lines = [f"# {result['title']}", "", f"    {result['command']}", ""]
    lines += [f"{result['date']}, commit {result['commit']}, {result['machine']}.", ""]
    lines += [result["protocol"], "", *accuracy(rows), "", *differences(rows, result["baseline"])]
    failed = [f"* **{row['method']}**, {error}" for row in rows for error in row["errors"]]
    lines += ["", "Failed runs:", "", *failed] if failed else []
    lines += ["", *(f"* {note}" for note in result["notes"])] if result["notes"] else []
    lines += ["", *beside(result["ablation"])] if result.get("ablation") else []
    return "\n".join(lines) + "\n"


def accuracy(rows: list[dict[str, Any]]) -> list[str]:
    """Table of scores and costs."""
    names = ("mAP50", "mAP50-95", "AR1", "AR10")
    lines = [f"| method | seeds | {' | '.join(names)} | epochs | s | s/epoch | relative | peak memory, GB | size, MB |"]
    lines += ["|" + "---|" * (lines[0].count("|") - 1)]
    for row in rows:
        if not row["seeds"]:
            lines.append(f"| {row['method']} | 0 |" + " - |" * 10)
            continue
        cells = [row["method"], str(len(row["seeds"])), *(_number(row[name]) for name in names)]
        cells += [", ".join(map(str, row["epochs"])), _number(row["train_seconds"], 0), _number(row["epoch_seconds"], 1)]
        cells += [_number(row.get("relative_epoch_seconds"), 2), memory(row), _number(row["size_mb"], 1)]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def memory(row: dict[str, Any]) -> str:
    """Peak resident memory of the training, without loader workers, and of the GPU where there was one."""
    return _number(row["peak_gb"], 2) + (f" + {row['gpu_gb']:.2f} GPU" if row["gpu_gb"] else "")


def differences(rows: list[dict[str, Any]], baseline: str) -> list[str]:
    """Table of differences to the baseline, in points (hundredths)."""
    compared = [row for row in rows if "difference" in row]
    if not compared:
        return ["No difference to show: no method has a seed in common with the baseline."]
    others = " (to what stands after 'over' where it does)" if {row["against"] for row in compared} - {baseline} else ""
    lines = [f"Difference to `{baseline}`{others} in points, with 95 % intervals over seeds (paired t) and over images "
             "(bootstrap); the verdict is on mAP50-95 and needs both intervals on one side of 0.", ""]  # fmt: skip
    lines += ["| method | mAP50 | seeds | images | mAP50-95 | seeds | images | verdict |", "|" + "---|" * 8]
    for row in compared:
        cells = [title_of(row, baseline)]
        for name in ("mAP50", "mAP50-95"):
            one = row["difference"][name]
            cells += [f"{100 * one['mean']:+.1f}", interval(one["over_seeds"]), interval(one["over_images"])]
        lines.append(f"| {' | '.join([*cells, said(row)])} |")
    return lines


def title_of(row: dict[str, Any], baseline: str) -> str:
    """A row's method, and what it is compared with where that is not the baseline."""
    return row["method"] + (f" over {row['against']}" if row["against"] != baseline else "")


def interval(ends: list[float] | None) -> str:
    return f"{100 * ends[0]:+.1f} to {100 * ends[1]:+.1f}" if ends else "-"


def said(row: dict[str, Any]) -> str:
    """The verdict, and what would settle it where nothing is shown."""
    one = row["difference"]["mAP50-95"]
    if row["verdict"] != "NOT SHOWN":
        return f"**{row['verdict']}**"
    seeds = one["seeds_needed"]
    needs = [f"more than {MOST_SEEDS:,} seeds" if seeds > MOST_SEEDS else f"{seeds} seeds"] if seeds else []
    needs += [f"{one['images_needed']} images"] if one["images_needed"] else []
    return "NOT SHOWN" + (f" (this effect and spread would need {' and '.join(needs)})" if needs else "")


def _number(value: float | None, digits: int = 3) -> str:
    return "-" if value is None else f"{value:.{digits}f}"
