"""scaling-AXIS.png: cost along an axis, both logarithmic, a line that is linear beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from engine.plots import shielded

STYLES = {"total": "-", "forward": "--", "loss": ":", "nms": ":", "backward": "-."}
TITLES = {"imgsz": "pixels per image", "objects": "objects per image", "batch": "images per batch"}


@shielded("scaling-*.png")
def plot(rows: list[dict[str, Any]], axis: str, path: Path) -> bool:
    """Draw one axis: inference beside training, a colour per model, a style per part.

    False when there is nothing to draw, None after an error.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = [row for row in rows if row["axis"] == axis and row["values"]]
    if not shown:
        return False
    kinds = list(dict.fromkeys(row["kind"] for row in shown))
    models = list(dict.fromkeys(row["model"] for row in shown))
    figure = Figure(figsize=(6.2 * len(kinds), 4.8), layout="constrained")
    FigureCanvasAgg(figure)
    for panel, kind in zip(figure.subplots(1, len(kinds), squeeze=False)[0], kinds):
        for row in (one for one in shown if one["kind"] == kind):
            _lines(panel, row, f"C{models.index(row['model'])}")
        _finish(panel, axis, kind)
    figure.savefig(path, dpi=130)
    return True


def _lines(panel: Any, row: dict[str, Any], colour: str) -> None:
    for part, medians in row["ms"].items():
        total = part == "total"
        panel.plot(
            row["sizes"], medians, STYLES[part], color=colour, marker="o" if total else None, markersize=4,
            alpha=1.0 if total else 0.6, label=f"{row['model']}, {part}",
        )  # fmt: skip
    first, last = row["sizes"][0], row["sizes"][-1]
    start = row["ms"]["total"][0]
    panel.plot([first, last], [start, start * last / first], color="0.75", linewidth=0.8, zorder=0)


def _finish(panel: Any, axis: str, kind: str) -> None:
    panel.set(xscale="log", yscale="log", xlabel=TITLES.get(axis, axis), ylabel="ms per batch", title=kind)
    for numbers in (panel.xaxis, panel.yaxis):  # the library's own powers of ten are formulas
        numbers.set_major_formatter("{x:g}")
        numbers.set_minor_formatter("")
    panel.grid(alpha=0.25, which="both")
    panel.legend(fontsize=7)
    panel.text(0.99, 0.01, "grey: linear", transform=panel.transAxes, ha="right", va="bottom", fontsize=7, color="0.5")
