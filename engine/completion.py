"""What the shell offers at TAB, by the package argcomplete where it is installed. Imports nothing slow."""

from __future__ import annotations

import argparse
import os
import sys
from functools import partial
from typing import Any

from cfg.find import ROOT

# Arguments that take a name below `cfg/` beside a path, and the folder of these.
NAMED = {"cfg": "models", "data": "data", "distill": "distill", "recipe": "train", "teacher": "teachers"}


def complete_at_tab(parser: argparse.ArgumentParser) -> None:
    """If the shell requests completions, print them and end the process; else do nothing."""
    if "_ARGCOMPLETE" not in os.environ:
        return
    try:
        import argcomplete
    except ImportError:  # in the shell's Python, not in this one: whatever was typed so far must not be run
        sys.exit(1)
    for action in parser._actions:
        if action.dest in NAMED:
            action.completer = partial(_names_and_files, NAMED[action.dest])  # type: ignore[attr-defined] # argcomplete's
    argcomplete.autocomplete(parser)


def parser_of(names: set[str]) -> argparse.ArgumentParser:
    """A parser that knows the names of arguments and no more: train.py reads its command line otherwise."""
    parser = argparse.ArgumentParser()
    for name in sorted(names):
        parser.add_argument(f"--{name.replace('_', '-')}", dest=name)
    return parser


def _names_and_files(folder: str, prefix: str = "", **asked: Any) -> list[str]:
    from argcomplete.completers import FilesCompleter

    return sorted(path.name for path in (ROOT / folder).glob("*.yaml")) + list(FilesCompleter()(prefix, **asked))
