"""The progress table of a training: few columns, within 100 characters (`engine.console` draws the bars).

Everything is in results.csv, args.yaml and TensorBoard; `--verbose` shows it in the console too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from distill.base import Term

WIDTHS = {"epoch": 7, "memory": 7, "kd share": 9, "objects": 8, "size": 5}  # all losses 8: 69 in sum, the bar's figures take up to 31


def columns(losses: Sequence[str], terms: Sequence[Term]) -> list[str]:
    """Heads of the progress table: losses of detection by name, those of distillation as one, with its gradient ratio."""
    detection = [name.removesuffix("_loss") for name in _detection(losses, terms)]
    return ["epoch", "memory", *detection, *(["kd", "kd share"] if terms else []), "objects", "size"]


def table_head(losses: Sequence[str], terms: Sequence[Term]) -> str:
    """The line above the bars."""
    return "".join(f"{name:>{WIDTHS.get(name, 8)}}" for name in columns(losses, terms))


def table_row(host_row: str, losses: Mapping[str, Any], terms: Sequence[Term]) -> str:
    """A row of the table.

    Args:
        host_row: ultralytics': epoch, memory, every loss item, boxes and image size of the batch.
        losses: running means of all loss items by name; empty before the first step.
        terms: of the distiller.
    """
    if not losses or not host_row:
        return host_row
    epoch, memory, *_, boxes, size = host_row.split()
    figures = [losses[name] for name in _detection(losses, terms)]
    if terms:
        acting = [losses[term.name] for term in terms if not term.own]
        figures += [sum(acting), losses.get("share_all", 0.0)]
    cells = [epoch, memory, *map(_short, figures), boxes, size]
    return "".join(f"{cell:>{WIDTHS.get(name, 8)}}" for name, cell in zip(columns(list(losses), terms), cells, strict=True))


def _short(figure: Any) -> str:
    """A number in at most 7 characters."""
    text = f"{float(figure):.3g}"
    return text if len(text) <= 7 else f"{float(figure):.0e}"


def _detection(losses: Sequence[str] | Mapping[str, Any], terms: Sequence[Term]) -> list[str]:
    """The loss items that are the student's detection losses."""
    return [name for name in losses if name.endswith("_loss") and name not in {term.name for term in terms}]
