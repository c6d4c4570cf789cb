"""How many processor cores there are to use: asked by packages that do not know each other."""

from __future__ import annotations

import os


def available_cpus() -> int:
    """Number of CPU cores this process may use (a container's or a scheduler's limit counts)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
