"""Charts of a report as inline SVG. Widths are 440 units, so that text stays readable on a phone. Colours are CSS classes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from markupsafe import Markup

from cfg.class_names import shown
from inspection.report.statistics import BINS, ControlChart

WIDTH, LEFT, RIGHT, TOP = 440, 50, 12, 12
HEIGHT, BOTTOM = 220, 34  # of charts with axes
ROW, NAME, NUMBER = 26, 140, 104  # of the Pareto chart: height of a row, room for names and for numbers
MOST_ROWS = 20


def _svg(height: float, parts: Iterable[Markup], label: str, width: float = WIDTH) -> Markup:
    body = Markup("").join(parts)
    return Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>').format(width, round(height), label, body)


def _text(x: float, y: float, text: str, kind: str = "", anchor: str = "start") -> Markup:
    return Markup('<text x="{:.1f}" y="{:.1f}" class="{}" text-anchor="{}">{}</text>').format(x, y, kind, anchor, text)


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> Markup:
    return Markup('<line x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}" class="{}"/>').format(x1, y1, x2, y2, kind)


def _rect(x: float, y: float, width: float, height: float, kind: str, more: Markup | str = "") -> Markup:
    given = (x, y, max(width, 0), max(height, 0), kind, more)
    return Markup('<rect x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}" class="{}"{}/>').format(*given)


def pareto_chart(rows: Sequence[tuple[int, int, float]], names: Sequence[str]) -> Markup:
    """Bars of (class, defects, cumulative share), with both numbers beside them."""
    most = max((count for _, count, _ in rows), default=1)
    room, parts = WIDTH - NAME - NUMBER, []
    for number, (index, count, share) in enumerate(rows[:MOST_ROWS]):
        y = TOP + number * ROW
        name = shown(names[index])
        parts.append(_text(NAME - 8, y + 14, name if len(name) <= 17 else f"{name[:16]}\u2026", "", "end"))
        parts.append(_rect(NAME, y, room * count / most, ROW - 8, "bar"))
        parts.append(_text(WIDTH - 56, y + 14, f"{count:,}", "number", "end"))
        parts.append(_text(WIDTH - 4, y + 14, f"{100 * share:.0f} %", "muted", "end"))
    if len(rows) > MOST_ROWS:
        parts.append(_text(NAME - 8, TOP + MOST_ROWS * ROW + 14, f"{len(rows) - MOST_ROWS} more classes", "muted", "end"))
    return _svg(TOP + (min(len(rows), MOST_ROWS) + (len(rows) > MOST_ROWS)) * ROW + 4, parts, "Defects by class")


def density_chart(cells: np.ndarray) -> Markup:
    """The density (rows, columns) as squares, from clear to dark by the square root of their share of the highest."""
    rows, columns = cells.shape
    side = min(WIDTH / columns, WIDTH * 0.72 / rows)
    left, most = (WIDTH - side * columns) / 2, max(float(cells.max()), 1e-9)
    parts = [_rect(left, 0.5, side * columns, side * rows - 1, "frame")]
    for row, column in zip(*np.nonzero(cells > most / 400)):
        opacity = Markup(' fill-opacity="{:.2f}"').format(np.sqrt(cells[row, column] / most))
        parts.append(_rect(left + column * side, row * side, side + 0.2, side + 0.2, "heat", opacity))
    return _svg(side * rows, parts, "Where defects lie on the part")


def control_chart(chart: ControlChart, percent: bool, label: str) -> Markup:
    """Points in the order of the images, the centre line, and the limits as steps."""
    most = _round_up(max(float(chart.high.max()), float(chart.values.max()), 1e-9))
    count = len(chart.values)
    x = LEFT + (np.arange(count) + 0.5) * (WIDTH - LEFT - RIGHT) / count

    def y(value: float) -> float:
        return float(TOP + (1 - value / most) * (HEIGHT - TOP - BOTTOM))

    step = (x[1] - x[0]) / 2
    parts = _axis(most, percent)
    for limit in (chart.low, chart.high):
        corners = [f"{a:.1f},{y(value):.1f}" for place, value in zip(x, limit) for a in (place - step, place + step)]
        parts.append(Markup('<polyline points="{}" class="limit"/>').format(" ".join(corners)))
    parts.append(_line(LEFT, y(chart.centre), WIDTH - RIGHT, y(chart.centre), "centre"))
    trend = " ".join(f"{a:.1f},{y(value):.1f}" for a, value in zip(x, chart.values))
    parts.append(Markup('<polyline points="{}" class="trend"/>').format(trend))
    for place, value, out in zip(x, chart.values, chart.outside):
        kind = "point out" if out else "point"
        parts.append(Markup('<circle cx="{:.1f}" cy="{:.1f}" r="{}" class="{}"/>').format(place, y(value), 4 if out else 2.6, kind))
    parts.append(_text(LEFT, HEIGHT - 8, "image 1", "muted"))
    parts.append(_text(WIDTH - RIGHT, HEIGHT - 8, f"{int(chart.ends[-1]):,}", "muted", "end"))
    return _svg(HEIGHT, parts, label)


def score_chart(counts: Mapping[str, np.ndarray], limits: Sequence[tuple[str, float]]) -> Markup:
    """Histograms of OK and NG beside each other in each bin, on a root scale so that a single image shows; limits as lines."""
    most = max((float(values.max()) for values in counts.values()), default=0.0) or 1.0
    width = (WIDTH - LEFT - RIGHT) / BINS

    def y(value: float) -> float:
        return float(TOP + (1 - np.sqrt(value / most)) * (HEIGHT - TOP - BOTTOM))

    parts = []
    for value in sorted({0, 1, int(round(most / 4)), int(most)}):
        parts.append(_line(LEFT, y(value), WIDTH - RIGHT, y(value), "grid"))
        if value != 1 or most < 50:
            parts.append(_text(LEFT - 6, y(value) + 4, f"{value:,}", "muted", "end"))
    for offset, (name, values) in enumerate(counts.items()):
        for number, value in enumerate(values):
            if value:
                x = LEFT + (number + 0.1 + 0.42 * offset) * width
                parts.append(_rect(x, y(value), 0.4 * width, y(0) - y(value), name.lower()))
    for place in range(0, 11, 2):
        parts.append(_text(LEFT + place / 10 * (WIDTH - LEFT - RIGHT), HEIGHT - 16, f"{place / 10:g}", "muted", "middle"))
    for name, limit in limits:
        x = LEFT + limit * (WIDTH - LEFT - RIGHT)
        parts.append(Markup("<g><title>{}</title>{}</g>").format(f"{name} {limit:.4g}", _line(x, TOP, x, y(0), "threshold")))
    return _svg(HEIGHT, parts, "Scores of OK and NG images")


def _round_up(value: float) -> float:
    """The next 1, 2, 3, 4, 5, 6, 8 or 10 times a power of ten: an axis whose middle is a short number too."""
    power = 10.0 ** np.floor(np.log10(value))
    return float(next(step for step in (1, 2, 3, 4, 5, 6, 8, 10) if step * power >= value * 0.9999) * power)


def _axis(most: float, percent: bool) -> list[Markup]:
    parts = []
    for share in (0.0, 0.5, 1.0):
        place = TOP + (1 - share) * (HEIGHT - TOP - BOTTOM)
        value = most * share
        text = f"{100 * value:.3g} %" if percent else f"{value:.3g}"
        parts += [_line(LEFT, place, WIDTH - RIGHT, place, "grid"), _text(LEFT - 6, place + 4, text, "muted", "end")]
    return parts
