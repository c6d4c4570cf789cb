"""Where and with what a number was measured: commit, processor, memory of a process."""

from __future__ import annotations

import platform
import subprocess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
MIB = 2**20


def commit() -> str:
    """The code's commit, marked when files differ from it; `unknown` outside a repository."""
    try:
        options = {"cwd": ROOT, "capture_output": True, "text": True, "check": True, "timeout": 20}
        head = subprocess.run(["git", "rev-parse", "--short", "HEAD"], **options).stdout.strip()
        changed = subprocess.run(["git", "status", "--porcelain", "--untracked-files=no"], **options).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return head + ("+changes" if changed else "")


def machine() -> str:
    """Processor, cores and GPUs."""
    import torch

    from models.environment import available_cpus

    name = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), name)
    except OSError:
        pass
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return f"{name}, {available_cpus()} cores" + "".join(f", {gpu}" for gpu in gpus)


def high_water(pid: int) -> float | None:
    """The most resident memory that a process has had, in MiB; None when it has ended, or the system does not tell."""
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
        return next(float(line.split()[1]) * 1024 / MIB for line in status.splitlines() if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        return None
