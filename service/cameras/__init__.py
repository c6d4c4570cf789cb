"""How images come: from a folder that is watched, a network stream, a camera of this machine.

`add_arguments` and `read_options` are for a command line, `open_cameras` for the service.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from cfg.errors import UserError
from cfg.whole_files import replace_file
from service.cameras.options import FolderOptions, StreamOptions, add_arguments, read_options
from service.telling import Teller

if TYPE_CHECKING:
    from service.cameras.folder import Answered, FolderCamera
    from service.cameras.live import LiveCamera

__all__ = ["FolderOptions", "StreamOptions", "add_arguments", "open_cameras", "read_options"]


def open_cameras(
    options: Iterable[FolderOptions | StreamOptions], folder: Path, answered: Answered | None = None
) -> list[FolderCamera | LiveCamera]:
    """Make the cameras; `run` of each is called on a thread of its own.

    Args:
        options: which.
        folder: of the ledgers of watched folders, one for each; made where it is missing.
        answered: see `FolderCamera`.

    Raises:
        UserError: a package is missing, or a ledger cannot be used.
    """
    return [_folder(one, folder, answered) if isinstance(one, FolderOptions) else _live(one) for one in options]


def _folder(options: FolderOptions, folder: Path, answered: Answered | None) -> FolderCamera:
    from service.cameras.folder import FolderCamera
    from service.cameras.ledger import Ledger

    own = folder / hashlib.sha256(os.fsencode(options.path)).hexdigest()[:16]
    ledger = Ledger(own)
    with suppress(UserError):  # for people only: a full disk does without
        replace_file(own / "folder", os.fsencode(options.path) + b"\n")
    more = (answered,) if answered else ()
    return FolderCamera(options, ledger, Teller(options.shown), *more)


def _live(options: StreamOptions) -> LiveCamera:
    try:
        from service.cameras.live import LiveCamera
    except ImportError as error:
        raise UserError(f"--source: expected the package {error.name} for streams, it is not installed; pip install av") from None
    return LiveCamera(options, Teller(options.shown if "://" in options.shown else f"camera {options.shown}"))
