"""results.png: the difference each method made, with its intervals."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from benchmarks.harness.report import title_of
from engine.plots import shielded

COLOURS = {"HELPS": "#1a7f37", "HURTS": "#b42318", "NOT SHOWN": "#57606a"}
ROOM = 1.6  # the axis reaches this far beyond the seeds and the intervals over images; longer ones end in an arrow


@shielded("results.png")
def plot(result: dict[str, Any], path: Path) -> bool:
    """Draw the differences in points by method; return False (None after an error) when there is no plot."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    rows = [row for row in result["rows"] if "difference" in row][::-1]
    if not rows:
        return False
    figure = Figure(figsize=(10, 1.9 + 0.42 * len(rows)), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, name in zip(figure.subplots(1, 2, sharey=True), ("mAP50-95", "mAP50")):
        _panel(axes, rows, name)
        axes.set_xlabel(f"{name}: points over {result['baseline']}")
    figure.axes[0].set_yticks(range(len(rows)), [title_of(row, result["baseline"]) for row in rows])
    figure.suptitle(result["title"], fontsize=11)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    shown = dict(zip(labels, handles)) | {said: Patch(color=colour) for said, colour in COLOURS.items()}
    figure.legend(shown.values(), shown.keys(), loc="outside lower center", ncols=len(shown), frameon=False, fontsize=8)
    figure.savefig(path, dpi=130)
    return True


def _panel(axes: Any, rows: list[dict[str, Any]], name: str) -> None:
    low, high = _limits(rows, name)
    axes.axvline(0, color="black", linewidth=0.8)
    for height, row in enumerate(rows):
        one = row["difference"][name]
        colour = COLOURS[one["verdict"]]
        images = [100 * end for end in one["over_images"]]
        axes.plot(images, [height, height], color=colour, linewidth=7, alpha=0.3, solid_capstyle="butt",
                  label="95 % over images (bootstrap)")  # fmt: skip
        if one["over_seeds"]:
            _thin(axes, height, [100 * end for end in one["over_seeds"]], (low, high), colour)
        values = [100 * value for value in one["by_seed"].values()]
        axes.plot(values, [height] * len(values), "o", color=colour, markersize=3.5, label="each seed")
        axes.plot(100 * one["mean"], height, "D", color="white", markeredgecolor=colour, markersize=6, label="mean")
    axes.set_xlim(low, high)
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.grid(axis="x", alpha=0.25)


def _thin(axes: Any, height: int, ends: list[float], limits: tuple[float, float], colour: str) -> None:
    """The interval over seeds, with an arrow where it leaves the plot."""
    shown = [max(ends[0], limits[0]), min(ends[1], limits[1])]
    axes.plot(shown, [height, height], color=colour, linewidth=1.4, label="95 % over seeds (paired t)")
    for end, seen, mark in ((ends[0], shown[0], "<"), (ends[1], shown[1], ">")):
        axes.plot(seen, height, "|" if end == seen else mark, color=colour, markersize=8, clip_on=False)


def _limits(rows: list[dict[str, Any]], name: str) -> tuple[float, float]:
    values = [0.0]
    for row in rows:
        one = row["difference"][name]
        values += [100 * v for v in (*one["over_images"], *one["by_seed"].values())]
    reach = max((max(values) - min(values)) * (ROOM - 1) / 2, 0.5)
    return min(values) - reach, max(values) + reach
