"""How every script reads its command line: by argparse, and without empty values."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import NoReturn

from cfg.errors import UserError, nearest

MAY_BE_EMPTY = ("device",)  # as in ultralytics: the first GPU, else cpu


def read_arguments(parser: argparse.ArgumentParser, argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse a command line, `sys.argv` without one.

    Raises:
        UserError: a value is empty (`refuse_empty`), or what argparse refuses, in one line without the usage.
    """
    words = sys.argv[1:] if argv is None else list(argv)
    refuse_empty(words)
    parser.error = partial(_refuse, parser)  # type: ignore[method-assign]
    return parser.parse_args(words)


def _refuse(parser: argparse.ArgumentParser, message: str) -> NoReturn:
    """Raise `UserError` with argparse's message, and where the arguments are explained."""
    told = f"{parser.prog} --help lists the arguments"
    if unknown := re.fullmatch("unrecognized arguments: (.*)", message, re.DOTALL):
        word = unknown[1].split()[0]
        known = [name for action in parser._actions for name in action.option_strings if name.startswith("--")]
        close = nearest(word.partition("=")[0], known) if word.startswith("--") else ""
        raise UserError(f"{word}: expected an argument of {parser.prog}, got an unknown one{close or f'; {told}'}")
    text = message.removeprefix("argument ")
    raise UserError(text if ": expected" in text or "; " in text else f"{text}; {told}")


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
