"""Data sets made by an earlier run below a source folder: what lies in them is output and is never taken as source."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path

from data.layout import HEADER

# How `data.yaml` began before it had a header.
OLD_HEADERS = ("# converted from ", "# divided ", "# training part enlarged ", "# made by data.sample")


def leave_out_earlier(files: Iterable[Path], source: Path, out: Path | None = None) -> list[Path]:
    """Return the files below `source` that lie neither in `out` nor in a data set that Tandem made below `source`.

    The source itself may be such a data set: it can be divided or converted like any other.
    """
    target = out.resolve() if out else None

    @lru_cache(None)
    def earlier(folder: Path) -> bool:
        if folder == source or folder == folder.parent:
            return False
        return folder.resolve() == target or _made_by_tandem(folder) or earlier(folder.parent)

    return [file for file in files if not earlier(file.parent)]


def _made_by_tandem(folder: Path) -> bool:
    try:
        with (folder / "data.yaml").open("rb") as file:
            return file.readline(200).startswith(tuple(header.encode() for header in (HEADER, *OLD_HEADERS)))
    except OSError:
        return False
