"""How every script reads its command line: by argparse, and without empty values."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from itertools import pairwise

from cfg.errors import UserError

MAY_BE_EMPTY = ("device",)  # as in ultralytics: the first GPU, else cpu


def read_arguments(parser: argparse.ArgumentParser, argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse a command line, `sys.argv` without one.

    Raises:
        UserError: a value is empty (`refuse_empty`).
    """
    words = sys.argv[1:] if argv is None else list(argv)
    refuse_empty(words)
    return parser.parse_args(words)


def refuse_empty(words: Sequence[str]) -> None:
    """Refuse empty values. A script gets one from a variable that is not set: ``--decision "$PLAN"``, ``--out=$DIR``.

    Taken as they are, they would mean "none", or as a path the current folder.

    Raises:
        UserError: naming the argument.
    """
    for before, word in pairwise(["", *words]):
        name, equals, value = word.partition("=")
        if equals and not value and name.startswith("-"):
            before = name
        elif word:
            continue
        if before.lstrip("-") not in MAY_BE_EMPTY:
            raise UserError(f"{before or 'command line'}: expected a value, got an empty text; is a variable of the shell not set? Without "
                            "the argument, its default is used")  # fmt: skip
