"""What a person sees of a training: a head of few lines, a bar within 100 columns, and in a file one line an epoch.

Everything is in results.csv, args.yaml and TensorBoard; `--verbose` shows it in the console too.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

from distill.base import Term

from ultralytics.data import base as host_data
from ultralytics.engine import trainer as host_trainer
from ultralytics.engine import validator as host_validator
from ultralytics.utils import LOGGER, TQDM

CHATTER = re.compile(r"$|Ultralytics \d|engine/trainer: |Using \d+ dataloader workers|Starting training for |(WARNING \W*)?cache='ram'")
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
WIDTHS = {"epoch": 7, "memory": 7, "kd share": 9, "objects": 8, "size": 5}  # all losses 8: 69 in sum, the bar's figures take up to 31


class Quiet(logging.Filter):
    """Leaves out what the host library says of itself, and the dump of all arguments, which args.yaml has."""

    def filter(self, record: logging.LogRecord) -> bool:
        lines = str(record.msg).splitlines() or [""]
        kept = [line for line in lines if not CHATTER.match(COLOUR.sub("", line).strip())]
        if len(kept) < len(lines):
            record.msg = "\n".join(kept)
        return bool(kept)


class Progress(TQDM):
    """The host's bar with a row of our own; in a file, one line when it is done.

    Args:
        iterable, host: as the host's.
        row: from the host's row to ours.
    """

    def __init__(self, iterable: Any = None, row: Callable[[str], str] = str, **host: Any) -> None:
        self.row = row
        super().__init__(iterable, **host)

    @property
    def noninteractive(self) -> bool:
        """Whether nobody watches: redrawn lines in a file are read by no one."""
        return not getattr(self, "file", sys.stdout).isatty()

    @noninteractive.setter
    def noninteractive(self, host: bool) -> None:
        """The host asks the environment; the file itself knows."""

    def _generate_bar(self, width: int = 0) -> str:
        return ""  # the percentage says the same in fewer columns

    def set_description(self, desc: str | None) -> None:
        super().set_description(self.row(desc or ""))


@contextmanager
def console(verbose: bool, row: Callable[[str], str]) -> Iterator[None]:
    """Within this context, the host's training shows `row` of each of its progress rows, and keeps its own words to itself."""
    if verbose:
        yield
        return
    quiet, bars = Quiet(), {host_trainer: partial(Progress, row=row), host_validator: Progress, host_data: Progress}
    originals = {module: module.TQDM for module in bars}
    LOGGER.addFilter(quiet)
    try:
        for module, bar in bars.items():
            module.TQDM = bar
        yield
    finally:
        for module, bar in originals.items():
            module.TQDM = bar
        LOGGER.removeFilter(quiet)


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
