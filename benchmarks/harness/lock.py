"""One comparison at a time in a folder: two would train into each other's runs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cfg import UserError


@contextmanager
def locked(folder: Path) -> Iterator[int | None]:
    """Lock a folder; yields the lock's file descriptor, or None where the system has no such locks.

    A process that inherits the descriptor keeps the folder locked while it lives: so does a training whose comparison was
    killed.

    Raises:
        UserError: the folder is locked.
    """
    try:
        import fcntl
    except ImportError:
        yield None
        return
    file = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"--out {folder}: another comparison, or a training of one that was killed, is at work there; "
                            "wait for it, end it, or choose another --out") from None  # fmt: skip
        yield file
    finally:
        os.close(file)
