"""Runs val.py or detect.py in a process of its own: `data` knows no deep-learning library, and so no model."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from cfg import UserError
from cfg.find import ROOT

BUG, INTERRUPTED = 70, 130  # exit statuses of our commands


def run_script(script: str, arguments: Sequence[str], folder: Path) -> None:
    """Run a script of the project to its end.

    Args:
        script: such as `val.py`.
        arguments: of its command line.
        folder: for a file of what it prints, `val.txt`.

    Raises:
        UserError: with the script's message.
        RuntimeError: the script has a bug.
        KeyboardInterrupt: it was interrupted.
    """
    command = [sys.executable, str(ROOT.parent / script), *arguments]
    with (folder / f"{Path(script).stem}.txt").open("w", encoding="utf-8") as printed:
        done = subprocess.run(command, stdout=printed, stderr=subprocess.PIPE, text=True, errors="replace", check=False)
    if done.returncode in (0, 1):
        return
    if done.returncode == INTERRUPTED:
        raise KeyboardInterrupt
    lines = done.stderr.strip().splitlines() or ["it said nothing"]
    if done.returncode == BUG:
        raise RuntimeError(f"{script} failed:\n{done.stderr}")
    raise UserError(f"{script}: {lines[-1].removeprefix('error: ')}")
