"""Files that are never half-written."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from cfg.errors import UserError


def write_through(path: Path, data: bytes | memoryview) -> None:
    """Write a file that is on the disk, not only in the system's memory, when this returns. Raises OSError."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def replace_file(path: str | Path, data: bytes | memoryview) -> None:
    """Write a file so that `path` holds the old or the new content, never half of one.

    Raises:
        UserError: the folder cannot be written or the disk is full; a file that was there before is intact.
    """
    path = Path(path)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        write_through(part, data)
        os.replace(part, path)
    except OSError as error:
        reason = error.strerror or error
        raise UserError(f"{path}: cannot be written ({reason}); free space or choose another folder") from None
    finally:
        with suppress(OSError):  # the folder that refused the file; its error is already on the way
            part.unlink(missing_ok=True)
