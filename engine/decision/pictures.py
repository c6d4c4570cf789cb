"""Plots of decisions: score histograms of OK and NG units, escape and overkill over the threshold, confusion, sheets of images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cfg.class_names import shown
from data.contact_sheet import GREEN, RED, Boxes, Tile, write_sheet
from engine.plots import shielded
from inspection.evidence import Image
from inspection.plan import Plan
from inspection.rules import Verdict

MOST = 40  # images of a sheet


@shielded("decision_scores.png")
def draw_histogram(path: Path, counts: dict[str, list[float]], plan: Plan) -> None:
    """Numbers of OK and NG units by score, with the lowest threshold and review limit. Args as `inspection.rates.histogram`."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    edges = np.array(counts["edges"])
    for kind, colour in (("ok", "tab:blue"), ("ng", "tab:red")):
        axes.stairs(counts[kind], edges, fill=True, alpha=0.5, color=colour, label=f"{kind.upper()} ({int(sum(counts[kind]))})")
    _mark_limits(axes, plan)
    axes.set(xlabel="score", ylabel="number", yscale="symlog", xlim=(0, 1), ylim=(0, None), title="Scores of OK and NG")
    axes.legend()
    figure.savefig(path, dpi=120)


@shielded("decision_curve.png")
def draw_curve(path: Path, points: list[dict[str, Any]], plan: Plan) -> None:
    """Escape and overkill rates with their intervals over the threshold. Args as `inspection.rates.curve`."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    x = [point["threshold"] for point in points]
    for kind, colour in (("escape", "tab:red"), ("overkill", "tab:blue")):
        if points and points[0][kind]["of"]:
            axes.plot(x, [100 * p[kind]["rate"] for p in points], color=colour, label=f"{kind} of {points[0][kind]['of']}")
            low, high = (np.array([100 * p[kind]["interval"][side] for p in points]) for side in (0, 1))
            axes.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
    _mark_limits(axes, plan)
    axes.set(xlabel="threshold", ylabel="%", xlim=(0, 1), ylim=(0, 100), title="Escape and overkill over the threshold")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)


def _mark_limits(axes: Any, plan: Plan) -> None:
    """Lines at the lowest threshold of all classes, and the lowest review limit where there is a zone."""
    threshold = float(plan.thresholds.min())
    if plan.lowest < threshold:
        axes.axvspan(plan.lowest, threshold, color="tab:orange", alpha=0.2, label="review")
    axes.axvline(threshold, color="black", linestyle="--", linewidth=1, label=f"threshold {threshold:.3g}")


@shielded("decision_confusion.png")
def draw_confusion(path: Path, table: np.ndarray, plan: Plan) -> None:
    """Labels and found boxes by class; the colour is the share of a label's row. Args as `inspection.rates.confusion`."""
    from matplotlib.figure import Figure

    names = [*map(shown, plan.names), "none"]
    side = max(4.5, 0.55 * len(names) + 2)
    figure = Figure(figsize=(side + 1, side), layout="constrained")
    axes = figure.subplots()
    share = table / np.maximum(table.sum(1, keepdims=True), 1)
    axes.imshow(share, cmap="Blues", vmin=0, vmax=1)
    for row, column in np.argwhere(table):
        axes.text(column, row, table[row, column], ha="center", va="center", color="white" if share[row, column] > 0.5 else "black")
    axes.set_xticks(range(len(names)), names, rotation=45, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(names)), names)
    axes.set(xlabel="found at or above its limit (none: missed)", ylabel="label (none: nothing there)", title="Labels and boxes")
    figure.savefig(path, dpi=120)


@shielded("a sheet of images")
def draw_sheet(path: Path, images: Sequence[Image], verdicts: Sequence[Verdict]) -> None:
    """The first `MOST` images with their labels and the boxes that decided, or the best one, and the rule below each."""
    tiles = [_tile(image, verdict) for image, verdict in zip(images[:MOST], verdicts, strict=False)]
    write_sheet(path, tiles, "green: label    red: the boxes that decided, or the one with the best score", most_lines=2)


def _tile(image: Image, verdict: Verdict) -> Tile:
    deciding = verdict.boxes if len(verdict.boxes) else np.argsort(-image.found.scores)[:1]
    boxes = Boxes(image.labels.boxes_xyxy, GREEN), Boxes(image.found.boxes_xyxy[deciding], RED)
    return Tile(Path(image.name), boxes, (Path(image.name).name, verdict.rule))
