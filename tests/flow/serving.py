"""The service in a process in which PyTorch and ultralytics cannot be imported."""

from __future__ import annotations

from functools import partial

from benchmarks.serving.process import Service as AnyService

BLOCKED = ("torch", "torchvision", "ultralytics", "models", "distill", "scipy", "matplotlib")
Service = partial(AnyService, "--threads", 1, blocked=BLOCKED)
