"""Read one label file of the YOLO layout and say, line by line, what is wrong in it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from cfg.text import decode

TOLERANCE = 0.01  # fractions of the image by which ultralytics still accepts a coordinate outside [0, 1]
LABEL_ERRORS = frozenset({"unreadable", "columns", "number", "nan", "class", "range", "empty-box"})


@dataclass(frozen=True)
class Problem:
    """One mistake: line number from 1 (0: the whole file), a short code (see `LABEL_ERRORS`), and the text."""

    line: int
    code: str
    text: str


@dataclass
class Labels:
    """Content of a label file.

    Attributes:
        rows: usable boxes (n, 5), each once: class, centre x, centre y, width, height, as fractions of the image.
        lines: their line numbers.
        problems: what is wrong.
        polygons: for each row its corners (k, 2) as fractions, None for a row that is a plain box.
    """

    rows: np.ndarray
    lines: list[int] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    polygons: list[np.ndarray | None] = field(default_factory=list)


def read_labels(path: Path, nc: int | None = None) -> Labels:
    """Read a label file; rows with an error, and repetitions, are left out and reported in `problems`.

    A polygon (class and three or more points, as in segmentation labels) counts as its bounding box.

    Args:
        path: the text file.
        nc: number of classes; ``None`` leaves the upper end of the class index unchecked.
    """
    try:
        text, _ = decode(path.read_bytes())
    except (OSError, ValueError) as error:
        reason = f"expected a text file, got one that cannot be read ({type(error).__name__})"
        return Labels(np.zeros((0, 5)), problems=[Problem(0, "unreadable", reason)])
    rows, lines, problems, polygons = [], [], [], []
    seen: dict[tuple[float, ...], int] = {}
    for number, line in enumerate(text.splitlines(), 1):
        tokens = line.split()
        if not tokens:
            continue
        row = _parse(tokens, nc)
        if isinstance(row, tuple):
            problems.append(Problem(number, *row))
            continue
        if (first := seen.setdefault(tuple(row), number)) != number:
            problems.append(Problem(number, "duplicate-box", f"the same box as line {first}, which counts once; delete one"))
            continue
        rows.append(row)
        lines.append(number)
        polygons.append(np.array(tokens[1:], dtype=np.float64).reshape(-1, 2) if len(tokens) > 5 else None)
    return Labels(np.array(rows, dtype=np.float64).reshape(-1, 5), lines, problems, polygons)


def _parse(tokens: list[str], nc: int | None) -> list[float] | tuple[str, str]:
    """Return the row of five numbers, or (code, text) of its first error."""
    if len(tokens) != 5 and (len(tokens) < 7 or len(tokens) % 2 == 0):
        return "columns", f"expected 5 columns (class x y w h), got {len(tokens)}; correct the line"
    try:
        values = [float(token) for token in tokens]
    except ValueError:
        return "number", f"expected numbers, got '{' '.join(tokens)[:60]}'; class names belong in the data YAML"
    if not all(map(math.isfinite, values)):
        return "nan", f"expected finite numbers, got '{' '.join(tokens)[:60]}'; correct the line"
    return _class_problem(values[0], nc) or _box_problem(values[1:]) or [values[0], *_box(values[1:])]


def _class_problem(index: float, nc: int | None) -> tuple[str, str] | None:
    if index == int(index) and index >= 0 and (nc is None or index < nc):
        return None
    allowed = "0, 1, 2, ..." if nc is None else f"0 to {nc - 1}" if nc > 1 else "0"
    return "class", f"expected a class index of {allowed}, got {index:g}; correct the line or 'names' in the data YAML"


def _box_problem(values: list[float]) -> tuple[str, str] | None:
    if min(values) < -TOLERANCE or max(values) > 1 + TOLERANCE:
        worst = max(values, key=lambda v: abs(v - 0.5))
        return "range", f"expected fractions of the image (0 to 1), got {worst:g}; divide pixels by the image size"
    _, _, width, height = _box(values)
    if width <= 0 or height <= 0:
        return "empty-box", f"expected a box with an area, got width {width:g} and height {height:g}; delete the line"
    return None


def _box(values: list[float]) -> list[float]:
    """Return centre x, centre y, width, height; for a polygon x1 y1 x2 y2 ... those of its bounding box."""
    if len(values) == 4:
        return values
    x, y = values[0::2], values[1::2]
    return [(min(x) + max(x)) / 2, (min(y) + max(y)) / 2, max(x) - min(x), max(y) - min(y)]
