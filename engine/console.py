"""What a person sees of ultralytics' loops: its bars without its words; in a file, one line for each bar."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from ultralytics.data import base as host_data
from ultralytics.engine import trainer as host_trainer
from ultralytics.engine import validator as host_validator
from ultralytics.utils import LOGGER, TQDM

CHATTER = re.compile(
    r"$|Ultralytics \d|engine/trainer: |Using \d+ (dataloader workers|train, )|Plotting labels to |Starting training for |(WARNING \W*)?cache='ram'"
)
COLOUR = re.compile(r"\x1b\[[0-9;]*m")


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
def console(verbose: bool = False, row: Callable[[str], str] = str) -> Iterator[None]:
    """Within this context, the host shows `row` of each progress row of its training, and keeps its own words to itself."""
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
