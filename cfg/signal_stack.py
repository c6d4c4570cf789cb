"""Keeps a thread's stack for signal handlers, which OpenVINO replaces."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from contextlib import contextmanager


class _Stack(ctypes.Structure):
    """`stack_t` of sigaltstack(2)."""

    _fields_ = (("address", ctypes.c_void_p), ("flags", ctypes.c_int), ("size", ctypes.c_size_t))


@contextmanager
def signal_stack_kept() -> Iterator[None]:
    """Give the thread back its stack for signal handlers.

    OpenVINO's CPU plugin sets one of its own when it is loaded. Where it is freed by another thread, or not last in first out, the thread
    keeps an address that is no memory, and Ctrl-C ends the process with a segmentation fault.
    """
    if sys.platform != "linux":
        yield
        return
    libc, kept = ctypes.CDLL(None), _Stack()
    known = libc.sigaltstack(None, ctypes.byref(kept)) == 0
    try:
        yield
    finally:
        if known:
            libc.sigaltstack(ctypes.byref(kept), None)
