"""The folder of a run: its path, its removal, and errors of the file system."""

from __future__ import annotations

import errno
import os
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import models.environment  # noqa: F401  (before ultralytics)
from cfg import UserError
from engine.settings import Run
from engine.training.report import read_results

from ultralytics.utils import DEFAULT_CFG_DICT

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
NO_ACCESS = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR)


def run_folder(run: Run) -> Path:
    """Where the run writes: `save_dir` where it is settled, else the first free of exp, exp-2, ... below `project`."""
    from ultralytics.cfg import get_save_dir

    folder: Path = get_save_dir(SimpleNamespace(**(DEFAULT_CFG_DICT | asdict(run))))
    return folder


def exact_folder(run: Run) -> Path:
    """Where a run of exactly this name writes: never exp-2 for exp."""
    return run_folder(replace(run, exist_ok=True)).resolve()


def check_own_folder(run: Run) -> None:
    """Raise `UserError` for a `--save-dir` that holds files: those of the same names would be replaced."""
    if run.save_dir and not run.exist_ok and Path(run.save_dir).is_dir() and any(Path(run.save_dir).iterdir()):
        raise UserError(f"--save-dir {run.save_dir}: expected a new or empty folder, got one with files, of which the run would replace those of the "
                        "same names; give another, or --exist-ok")  # fmt: skip


def discard(folder: Path, existed: bool) -> None:
    """Remove the folder of a run that failed with nothing to keep: no checkpoint, no more than one epoch's results."""
    csv = folder / "results.csv"
    kept = (folder / "weights/last.pt").exists() or (csv.exists() and len(read_results(csv)[1]) > 1)
    if not existed and not kept and int(os.environ.get("RANK", 0)) == 0:
        shutil.rmtree(folder, ignore_errors=True)


def told(error: OSError, folder: Path) -> str:
    """What the system refused, on which file (else the run folder), and what helps."""
    advice = "remove that cause, and start again or --resume"
    if error.errno in NO_ROOM:
        advice = "free space, or choose another --project"
    elif error.errno in NO_ACCESS:
        advice = "make it a writable folder, or choose another --project"
    return f"{error.filename or folder}: cannot be read or written ({error.strerror or error}); {advice}"
