"""A published table and ours beside it, as Markdown."""

from __future__ import annotations

from typing import Any

HEADS = {"size_mb": "size, MB"}
CAUTION = ("Data, image size, epochs and initial weights differ from the paper's: the scores do not compare, only the "
           "directions do, and ours only where the runs show one.")  # fmt: skip


def beside(table: dict[str, Any]) -> list[str]:
    """The section of a report: scores, differences, what cannot be trained here, notes.

    Args:
        table: of `ablation.beside_ours`.
    """
    lines = [f"## {table['source']}: {table['title']}", "", f"Published on {table['data']}. {CAUTION}", ""]
    lines += [*_scores(table), "", *_differences(table)]
    missing = [f"* {row['name']}: {row['missing']}" for row in table["rows"] if row["missing"]]
    lines += ["", "Not trained here, and what would be needed:", "", *missing] if missing else []
    return lines + (["", *(f"* {note}" for note in table["notes"])] if table["notes"] else [])


def _scores(table: dict[str, Any]) -> list[str]:
    names = list(dict.fromkeys(name for row in table["rows"] for name in row["published"]))
    heads = " | ".join(HEADS.get(name, name) for name in names)
    lines = ["Published / ours, mean and standard deviation over seeds, in percent but for F1 and MB:", ""]
    lines += [f"| row | {heads} |", "|" + "---|" * (len(names) + 1)]
    for row in table["rows"]:
        cells = [f"{_printed(row['published'].get(name))} / {_ours(row, name)}" for name in names]
        lines.append(f"| {row['name']} | {' | '.join(cells)} |")
    return lines


def _differences(table: dict[str, Any]) -> list[str]:
    rows = [row for row in table["rows"] if row["difference"] and not row["missing"]]
    if not rows:
        return []
    names = [name for name in ("mAP50", "mAP50-95") if any(name in row["difference"] for row in rows)]
    lines = [f"Difference to {table['against']} in points; 'agrees' and 'contradicts' are printed only where ours is "
             "beyond chance (the verdict on mAP50-95 above):", ""]  # fmt: skip
    lines += [f"| row | {' | '.join(f'{name}, published | ours' for name in names)} | ours and the paper |"]
    lines += ["|" + "---|" * (2 * len(names) + 2)]
    for row in rows:
        cells = [cell for name in names for cell in _gap(row["difference"].get(name))]
        lines.append(f"| {row['name']} | {' | '.join(cells)} | {agreement(row)} |")
    return lines


def agreement(row: dict[str, Any]) -> str:
    """Whether our difference in mAP50-95 has the published one's sign: `agrees`, `contradicts` or `not shown`."""
    gap = row["difference"].get("mAP50-95")
    if gap is None or gap["ours"] is None:
        return "-"
    if row["verdict"] not in ("HELPS", "HURTS") or not gap["published"]:
        return "not shown"
    return "agrees" if (row["verdict"] == "HELPS") == (gap["published"] > 0) else "contradicts"


def _gap(gap: dict[str, float | None] | None) -> tuple[str, str]:
    if gap is None:
        return "-", "-"
    return f"{gap['published']:+g}", "-" if gap["ours"] is None else f"{gap['ours']:+.2f}"


def _printed(value: float | None) -> str:
    return "-" if value is None else f"{value:g}"


def _ours(row: dict[str, Any], name: str) -> str:
    found = row["ours"].get(name)
    if row["missing"]:
        return "not trained"
    if found is None:
        return "failed" if row["errors"] else "-"
    mean, deviation = found
    digits = 2 if name == "F1" else 1
    return f"{mean:.{digits}f}" + ("" if deviation is None or name == "size_mb" else f" ± {deviation:.{digits}f}")
