"""The few places where ultralytics' own training loop has to be told something."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

import models.environment  # noqa: F401  (before ultralytics)
from cfg.cpus import available_cpus
from engine.backend import Backend

from ultralytics.engine import trainer as host_trainer
from ultralytics.engine import validator as host_validator
from ultralytics.utils import torch_utils as host_torch


def use_all_cores() -> None:
    """Give torch the threads the environment allows, also when ultralytics picks a device (it takes one fewer)."""
    asked = os.environ.get("OMP_NUM_THREADS", "").split(",")[0]  # a list gives nested levels; the first is ours
    threads = int(asked) if asked.isdigit() and int(asked) else available_cpus()
    host_torch.NUM_THREADS = threads
    torch.set_num_threads(threads)


@contextmanager
def own_backend(precision: str = "fp32", kind: type[Backend] = Backend) -> Iterator[None]:
    """Have ultralytics' validators run models as detect.py does: `engine.backend.Backend`, in this precision."""
    original = host_validator.AutoBackend
    host_validator.AutoBackend = partial(kind, precision=precision)
    try:
        yield
    finally:
        host_validator.AutoBackend = original


def without_decay(optimizer: torch.optim.Optimizer, parameter: nn.Parameter) -> None:
    """Move a parameter to ultralytics' group of the same learning rate without weight decay (that of the norms)."""
    groups = optimizer.param_groups
    source = next(group for group in groups if any(p is parameter for p in group["params"]))
    target = next(group for group in groups if group["param_group"] == "bn" and group["lr"] == source["lr"])
    source["params"] = [p for p in source["params"] if p is not parameter]
    target["params"].append(parameter)


@contextmanager
def no_amp_probe() -> Iterator[None]:
    """Skip ultralytics' trial of mixed precision on a GPU: it downloads a model of its own to run it on."""
    original = host_trainer.check_amp
    host_trainer.check_amp = lambda model: next(model.parameters()).device.type != "cpu"
    try:
        yield
    finally:
        host_trainer.check_amp = original


@contextmanager
def cpu_data_parallel() -> Iterator[None]:
    """Let ultralytics wrap a CPU model for distributed training: it passes GPU numbers, which a CPU has none of."""
    parallel: Any = nn.parallel  # where the host looks the class up
    original = parallel.DistributedDataParallel

    class OnAnyDevice(DistributedDataParallel):
        def __init__(self, module: nn.Module, device_ids: Any = None, **options: Any) -> None:
            super().__init__(module, device_ids=None if device_ids == [None] else device_ids, **options)

    parallel.DistributedDataParallel = OnAnyDevice
    try:
        yield
    finally:
        parallel.DistributedDataParallel = original
