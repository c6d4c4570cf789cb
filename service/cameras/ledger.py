"""Which images of a watched folder have had their outcome: a file of keys that is only appended to, 16 bytes an image.

Not a database: ten million images are 160 MB on disk and in memory, read in a second, and one `write` an image. Keys
are 64 bits of BLAKE2b with a secret of the ledger's own: among ten million images, that any two share one has a
chance of 1 in 100,000.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import secrets
import time
from collections.abc import Iterable
from itertools import chain
from pathlib import Path

import numpy as np

from cfg.errors import UserError

MAGIC = b"tandem ledger 1\n"
HEADER = len(MAGIC) + 16  # and the secret
KEY = 8  # bytes
MERGED_AT = 1 << 16  # keys
STARTED = 0  # not the key of an image
CLOCK = 0.001  # seconds: times of acceptance are written in milliseconds


class Ledger:
    """The images of one folder that have had their outcome.

    Args:
        folder: of this ledger alone; made where it is missing.

    Attributes:
        fresh: whether `start` was never called on it.
        fault: why the disk does not take keys at present, empty where it does. They are kept, and written later.

    Raises:
        UserError: the folder cannot be used, holds something else, or another process uses it.
    """

    def __init__(self, folder: Path) -> None:
        self._begun = folder / "begun.json"
        path = folder / "ledger"
        try:
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(self._file).st_size < HEADER:
                os.ftruncate(self._file, 0)
                os.pwrite(self._file, MAGIC + secrets.token_bytes(16), 0)
            header = os.pread(self._file, HEADER, 0)
            self._size = HEADER + (os.fstat(self._file).st_size - HEADER) // KEY * KEY  # without half a key
            keys = np.fromfile(path, np.uint64, offset=HEADER, count=(self._size - HEADER) // KEY)
        except BlockingIOError:
            raise UserError(f"{path}: expected a ledger of this service alone, another process uses it; end that") from None
        except OSError as error:
            raise UserError(f"{path}: expected a file to write, got: {error.strerror}; choose another folder") from None
        if not header.startswith(MAGIC):
            raise UserError(f"{path}: expected a ledger of watched images, got another file; move it away")
        self._secret = header[len(MAGIC) :]
        self.fresh = not len(keys)
        self._old, self._new = np.sort(keys), set[int]()
        self._unwritten = b""
        self.fault = ""

    def start(self, keys: Iterable[int] = ()) -> None:
        """Begin, with the keys of images that are to be left alone: all of them, or none if the process ends on the way."""
        self.add(chain(keys, [STARTED]))
        self.fresh = False

    def file_key(self, name: bytes, size: int, mtime_ns: int) -> int:
        """The key of a file as the folder shows it: its path, size and time."""
        return self._key(b"file %d %d " % (size, mtime_ns), name)

    def content_key(self, data: bytes, mtime_ns: int) -> int:
        """The key of an image wherever it lies: its content and time. A file that was renamed keeps both."""
        return self._key(b"content %d " % mtime_ns, hashlib.blake2b(data, digest_size=32).digest())

    def __contains__(self, key: int) -> bool:
        return bool(self.known([key])[0])

    def known(self, keys: Iterable[int]) -> np.ndarray:
        """Which of N keys are in the ledger, (N,) bool."""
        wanted = np.fromiter(keys, np.uint64)
        fresh = np.fromiter((key in self._new for key in wanted.tolist()), bool, len(wanted))
        if not len(self._old):
            return fresh
        places = np.minimum(np.searchsorted(self._old, wanted), len(self._old) - 1)
        known: np.ndarray = fresh | (self._old[places] == wanted)
        return known

    def begin(self, source: str, keys: list[int]) -> None:
        """Note that an image is on its way to its outcome, in case the process ends before that."""
        try:
            self._begun.write_text(json.dumps({"source": source, "keys": keys, "time": time.time() - CLOCK}), encoding="utf-8")
        except OSError as error:
            self._refused(error)

    def begun(self) -> tuple[str, list[int], float] | None:
        """The source, keys and time of an image that an earlier process had begun and not ended."""
        try:
            found = json.loads(self._begun.read_text(encoding="utf-8"))
            return found["source"], found["keys"], found["time"]
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def add(self, keys: Iterable[int]) -> None:
        """Add keys, and have the disk keep them. Does not raise: see `fault`."""
        added = np.fromiter(keys, np.uint64)
        self._new.update(added.tolist())
        self._unwritten += added.tobytes()
        if len(self._new) > MERGED_AT:
            self._old = np.union1d(self._old, np.fromiter(self._new, np.uint64, len(self._new)))
            self._new.clear()
        try:
            written = os.pwrite(self._file, self._unwritten, self._size)
            self._size += written // KEY * KEY
            self._unwritten = self._unwritten[written // KEY * KEY :]
            os.fdatasync(self._file)
            self._begun.unlink(missing_ok=True)
            self.fault = ""
        except OSError as error:
            self._refused(error)

    def close(self) -> None:
        """Let go of the file."""
        os.close(self._file)

    def _key(self, kind: bytes, content: bytes) -> int:
        return int.from_bytes(hashlib.blake2b(kind + content, digest_size=KEY, key=self._secret).digest(), "little")

    def _refused(self, error: OSError) -> None:
        self.fault = (error.strerror or str(error)).lower()
