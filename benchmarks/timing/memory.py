"""Peak memory of this process, from a moment on."""

from __future__ import annotations

import os
import resource
import sys
from contextlib import suppress
from pathlib import Path

import torch

from benchmarks.machine import MIB, high_water
from models.environment import of_libc

RESET = Path("/proc/self/clear_refs")


def start(device: torch.device, give_back: bool = True) -> None:
    """Forget earlier peaks, where the system allows it (Linux) and on the GPU; first give back what is free.

    `give_back` is for work of another size than before. Between turns of the same work it would cost time: pages that were
    given back are asked for again, one by one, in the steps that are timed, while a training has them all along.
    """
    if give_back and (trim := of_libc("malloc_trim")):
        trim(0)  # or a small point is charged with what a large one before it needed
    with suppress(OSError):  # the peak is then that of the whole process
        RESET.write_text("5")
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak(device: torch.device) -> dict[str, float]:
    """Peaks in MiB: ``rss_mb`` resident memory, and on a GPU ``cuda_mb`` as PyTorch's allocator had it.

    Other runtimes' GPU memory (TensorRT's, ONNX Runtime's) is not in it.
    """
    found = {"rss_mb": high_water(os.getpid()) or _used()}
    if device.type == "cuda":
        found["cuda_mb"] = torch.cuda.max_memory_allocated(device) / MIB
    return found


def _used() -> float:
    """This process's peak in MiB where there is no such mark: it cannot be reset and inherits the parent's."""
    used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return used * (1 if sys.platform == "darwin" else 1024) / MIB
