"""The few places where ultralytics' own training loop has to be told something, and what the processor can do."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import models.environment  # noqa: F401  (before ultralytics)
import torch
from torch import nn


def use_all_cores() -> None:
    """Give torch the threads the environment allows; ultralytics leaves a CPU run one thread fewer than there are cores."""
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


def has_fast_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16 matrices in hardware (AMX or AVX-512 BF16); emulated, it is slower than fp32."""
    probes = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    return any(getattr(torch.cpu, probe, lambda: False)() for probe in probes)


@contextmanager
def cpu_data_parallel() -> Iterator[None]:
    """Let ultralytics wrap a CPU model for distributed training: it passes GPU numbers, which a CPU has none of."""
    original = nn.parallel.DistributedDataParallel

    class OnAnyDevice(original):
        def __init__(self, module: nn.Module, device_ids: Any = None, **options: Any) -> None:
            super().__init__(module, device_ids=None if device_ids == [None] else device_ids, **options)

    nn.parallel.DistributedDataParallel = OnAnyDevice
    try:
        yield
    finally:
        nn.parallel.DistributedDataParallel = original
