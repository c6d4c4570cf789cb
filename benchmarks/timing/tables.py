"""results.md of the speed benchmark: one table per question."""

from __future__ import annotations

from typing import Any

SMALL = 0.05  # of the total: how a part grows that is smaller even where it is largest is of no consequence


def table(header: list[str], rows: list[list[str]]) -> list[str]:
    """Lines of a Markdown table."""
    return [f"| {' | '.join(header)} |", "|" + "---|" * len(header), *(f"| {' | '.join(row)} |" for row in rows)]


def inference(result: dict[str, Any]) -> list[str]:
    """Models beside each other, one table per runtime, precision and batch; then what could not be measured."""
    lines = ["| model | parameters, M | GFLOPs | image, px |", "|---|---|---|---|"]
    for model, facts in result["models"].items():
        if "parameters" in facts:
            numbers = f"{facts['parameters'] / 1e6:.2f} | {facts['gflops']:.1f} | {facts['imgsz']}"
            lines.append(f"| {model} | {numbers} |")
    header = ["model", "forward, ms", f"x {result['reference']}", "x as fast as fp32", "images/s", "before, ms",
              "NMS, ms", "memory, MiB", "of it libraries", "file, MB", "ready after, s"]  # fmt: skip
    done = [row for row in result["rows"] if "forward_ms" in row]
    for key in dict.fromkeys((row["runtime"], row["precision"], row["batch"]) for row in done):
        cells = [row for row in done if (row["runtime"], row["precision"], row["batch"]) == key]
        lines += ["", f"**{key[0]}, {key[1]}, batch {key[2]}**", "", *table(header, [_cells(row) for row in cells])]
    return lines + missing(result["rows"], lambda r: f"{r['model']}, {r['runtime']} {r['precision']} x {r['batch']}")


def _cells(row: dict[str, Any]) -> list[str]:
    memory = f"{row['rss_mb']:.0f}" + (f" + {row['cuda_mb']:.0f} GPU" if row["cuda_mb"] else "")
    return [
        row["model"], spread(row["forward_ms"]), spread(row["to_reference"], 2), faster(row["to_fp32"]),
        f"{row['images_per_s']:.1f}", f"{row['preprocess_ms']['median']:.1f}", f"{row['postprocess_ms']['median']:.1f}",
        memory, f"{row['base_mb']:.0f}", f"{row['file_mb']:.1f}", f"{row['load_s']:.1f}",
    ]  # fmt: skip


def training(result: dict[str, Any]) -> list[str]:
    """Steps by kind, the distilled step beside its floor, and where its time goes."""
    lines = []
    header = ["step", "precision", "ms", "images/s", "x student alone", "memory, MiB", "of it libraries"]
    rows = []
    for row in (one for one in result["rows"] if "step_ms" in one):
        memory = f"{row['rss_mb']:.0f}" + (f" + {row['cuda_mb']:.0f} GPU" if row["cuda_mb"] else "")
        rows.append([row["what"], row["precision"], spread(row["step_ms"]), f"{row['images_per_s']:.2f}",
                     spread(row["to_student"], 2), memory, f"{row['base_mb']:.0f}"])  # fmt: skip
    lines += table(header, rows)
    lines += ["", "The distilled step over student step plus teacher forward pass, in the same round:", ""]
    header = ["student", "precision", "no gradients measured", "measured every 50 steps",
              "losses and masks, forward, share of step", "all beyond student and teacher, share of step"]  # fmt: skip
    compared = [
        [one["model"], one["precision"], spread(one["without_measuring"], 3), spread(one["with_measuring"], 3),
         percent(one["losses_and_masks"]), percent((one["added"] or {}).get("median"))]
        for one in result["comparisons"]
    ]  # fmt: skip
    lines += table(header, compared)
    lines += ["", "Where the time of a step goes (ms, share of all parts; a part does not count those inside it):", ""]
    rows = []
    for row in (one for one in result["rows"] if one.get("parts") and one["variant"] != "teacher"):
        parts = [f"{name} {one['ms']:.1f} ({100 * one['share']:.1f} %)" for name, one in row["parts"].items()]
        rows.append([row["what"], row["precision"], ", ".join(parts)])
    lines += table(["step", "precision", "parts"], rows)
    return lines + missing(result["rows"], lambda row: f"{row['what']}, {row['precision']}")


def scaling(result: dict[str, Any]) -> list[str]:
    """One table per axis and kind: cost by part, slope to the value before, steep ones marked."""
    lines: list[str] = []
    for row in result["rows"]:
        lines += ["", f"**{row['model']}, {row['kind']}, by {row['axis']}**", ""]
        header = [row["axis"], *(f"{part}, ms (slope)" for part in row["ms"]), "memory, MiB"]
        body = []
        for i, value in enumerate(row["values"]):
            parts = [_sloped(ms[i], row["slopes"][part][i - 1] if i else None) for part, ms in row["ms"].items()]
            name = str(row["sides"][i]) if row["axis"] == "imgsz" else str(value)
            body.append([name, *parts, f"{row['cuda_mb'][i] or row['rss_mb'][i]:.0f}"])
        lines += table(header, body)
        bends = {part: bend for part, bend in row["bends"].items() if bend is not None and _matters(row, part)}
        steep = [f"{part} from {_place(row, bend)} on" for part, bend in bends.items()]
        lines += ["", f"Faster than linear: {', '.join(steep)}." if steep else "Nowhere faster than linear."]
        lines += [f"* {row['axis']} {value}: {reason}" for value, reason in row["reasons"].items()]
    return lines


def _matters(row: dict[str, Any], part: str) -> bool:
    """Whether a part is anywhere on the axis more than `SMALL` of the total."""
    return any(ms > SMALL * total for ms, total in zip(row["ms"][part], row["ms"]["total"]))


def _place(row: dict[str, Any], size: float) -> str:
    index = row["sizes"].index(size)
    return f"{row['sides'][index]} px" if row["axis"] == "imgsz" else f"{row['values'][index]}"


def _sloped(ms: float, slope: float | None) -> str:
    from benchmarks.timing.numbers import LINEAR

    shown = "" if slope is None else f" ({slope:.2f}{' ^' if slope > LINEAR else ''})"
    return f"{ms:.1f}{shown}"


def missing(rows: list[dict[str, Any]], name: Any) -> list[str]:
    """What was not measured, or not to the end, and why; same reasons together."""
    reasons: dict[str, list[str]] = {}
    for row in rows:
        if row["reason"]:
            reasons.setdefault(row["reason"], []).append(name(row))
    if not reasons:
        return []
    return ["", "Not measured, or not to the end:", "", *(f"* {'; '.join(names)}: {reason}" for reason, names in reasons.items())]


def spread(found: dict[str, Any] | None, digits: int = 1) -> str:
    """A median with its quartiles; ``-`` for nothing."""
    if not found:
        return "-"
    return f"{found['median']:.{digits}f} ({found['low']:.{digits}f}-{found['high']:.{digits}f})"


def faster(found: dict[str, Any] | None) -> str:
    """A ratio of times as the speed-up it is."""
    return f"{1 / found['median']:.2f}" if found else "-"


def percent(share: float | None) -> str:
    """A share of 1 in percent."""
    return "-" if share is None else f"{100 * share:.1f} %"
