"""Run one of our command lines as a person would type it: printed before it runs, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from cfg import UserError

ROOT = Path(__file__).resolve().parent.parent


def run(*command: str) -> float:
    """Print and run a command (`train.py ...` or `-m data.sample ...`); return its seconds. Raises `UserError` when it fails."""
    print(f"\n$ python {' '.join(command)}", flush=True)
    script = command[0] if command[0] == "-m" else str(ROOT / command[0])
    environment = {"OMP_NUM_THREADS": "1"} | os.environ  # layers this small: waking a second thread costs more than it brings
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    started = time.perf_counter()
    done = subprocess.run([sys.executable, script, *command[1:]], env=environment, check=False)
    if done.returncode:
        raise UserError(f"{' '.join(command[:2])}: ended with status {done.returncode}; its message is above")
    return time.perf_counter() - started
