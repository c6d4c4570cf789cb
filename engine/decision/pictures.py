"""Pictures of decisions: score histograms of OK and NG units, escape and overkill over the threshold, sheets of images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from data.images import Unreadable, read_pixels, write_pixels
from engine.plots import shielded
from inspection.evidence import Image
from inspection.plan import Plan
from inspection.rules import Verdict

SIDE, COLUMNS, MOST = 240, 5, 40  # of a sheet: pixels of a picture, pictures in a row, and in all
CAPTION = 34
LABEL_BGR, FOUND_BGR = (80, 200, 80), (60, 60, 230)


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


@shielded("a sheet of images")
def draw_sheet(path: Path, images: Sequence[Image], verdicts: Sequence[Verdict]) -> None:
    """The first `MOST` images with labels (green) and the boxes that decided, or the best one (red), and the rule below each."""
    cells = [_cell(image, verdict) for image, verdict in zip(images[:MOST], verdicts, strict=False)]
    columns = min(COLUMNS, len(cells))
    blank = np.full_like(cells[0], 255)
    rows = [cells[i : i + columns] for i in range(0, len(cells), columns)]
    sheet = np.concatenate([np.concatenate([*row, *[blank] * (columns - len(row))], axis=1) for row in rows])
    write_pixels(path, sheet)


def _cell(image: Image, verdict: Verdict) -> np.ndarray:
    """One picture of a sheet, (SIDE + CAPTION, SIDE, 3) BGR."""
    cell = np.full((SIDE + CAPTION, SIDE, 3), 255, np.uint8)
    try:
        pixels = read_pixels(Path(image.name))
    except Unreadable:
        pixels = np.zeros((8, 8, 3), np.uint8)
    scale = (SIDE - 6) / max(pixels.shape[:2])
    small = cv2.resize(pixels, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST)
    shown = verdict.boxes if len(verdict.boxes) else np.argsort(-image.found.scores)[:1]
    for boxes, colour in ((image.labels.boxes_xyxy, LABEL_BGR), (image.found.boxes_xyxy[shown], FOUND_BGR)):
        for x1, y1, x2, y2 in (boxes * scale).round().astype(int).tolist():
            cv2.rectangle(small, (x1, y1), (x2, y2), colour, 1, cv2.LINE_AA)
    cell[3 : 3 + small.shape[0], 3 : 3 + small.shape[1]] = small
    for line, text in enumerate((Path(image.name).name, verdict.rule)):
        text = text.encode("ascii", "replace").decode()[:38]
        cv2.putText(cell, text, (4, SIDE + 12 + 16 * line), cv2.FONT_HERSHEY_SIMPLEX, 0.38, (0, 0, 0), 1, cv2.LINE_AA)
    return cell
