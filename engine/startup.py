"""Imports of large libraries with the garbage collector off, which would find nothing in them. Imports nothing slow."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def quick_imports() -> Iterator[None]:
    """Exclude objects made inside from garbage collection, now and later.

    No effect on modules that were imported before.

    PyTorch and ultralytics make half a million objects that live as long as the process. Passing over them costs a
    tenth of the time of their import, again at every full collection, and half a second at the exit.

    Not for programs that import SciPy: what its bindings made then counts as leaked at the exit, and they say so.
    """
    enabled, known = gc.isenabled(), len(sys.modules)
    gc.disable()
    try:
        yield
        if len(sys.modules) > known:  # called again in the same process, there is nothing new to leave alone
            gc.freeze()
    finally:
        if enabled:
            gc.enable()
