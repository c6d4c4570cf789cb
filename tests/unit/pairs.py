"""What the tests of feature and output methods share: specs, steps and random maps of one or two levels."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import models.environment  # noqa: F401  (before ultralytics)
from distill.base import Distiller, Level, Spec, Step, View, level_names

# image, x, y, w, h of the whole image: overlapping, smaller than a cell, at the edge
BOXES = [
    (0, 0.33, 0.40, 0.42, 0.50), (0, 0.40, 0.45, 0.22, 0.20), (1, 0.70, 0.70, 0.10, 0.60), (1, 0.2, 0.2, 0.01, 0.01),
]  # fmt: skip
WHOLE_IMAGE = [(0, 0.5, 0.5, 1.0, 1.0), (1, 0.5, 0.5, 1.0, 1.0)]


def spec(channels: int, label: str = "net", strides: tuple[int, ...] = (8,), nc: int = 2, **facts: Any) -> Spec:
    """A network of `channels` at each stride."""
    levels = dict(zip(level_names(list(strides)), (Level(channels, s) for s in strides)))
    return Spec(label, levels, nc, {i: str(i) for i in range(nc)}, **facts)


def view(feats: Tensor | list[Tensor], raw: dict[str, Any] | None = None, **facts: Any) -> View:
    """A view of maps (B, C, H, W), at stride 8 or at 8, 16 ..."""
    maps = feats if isinstance(feats, list) else [feats]
    facts = spec(maps[0].shape[1], strides=tuple(8 * 2**i for i in range(len(maps))), **facts)
    return View(facts, dict(zip(facts.levels, maps)), {"feats": maps} | (raw or {}))


def step(student: Any, teacher: Any, boxes: list = BOXES) -> Step:
    """A step between two maps, lists of maps, or views."""
    student, teacher = (x if isinstance(x, View) else view(x) for x in (student, teacher))
    rows = torch.tensor(boxes, dtype=torch.float32).reshape(-1, 5)
    size = len(next(iter(student.feats.values())))
    batch = {"img": torch.zeros(size, 3, 8, 8), "batch_idx": rows[:, 0], "bboxes": rows[:, 1:]}
    return Step(batch, student, 0.0, see_teacher=lambda: teacher)


def random_maps(count: int = 2, batch: int = 2, channels: int = 6, grid: tuple[int, int] = (7, 5)) -> list[Tensor]:
    """Normal noise of deviation 3, always the same."""
    random = torch.Generator().manual_seed(0)
    return [torch.randn(batch, channels, *grid, generator=random) * 3 for _ in range(count)]


def cells(x: np.ndarray) -> Iterator[tuple[int, int]]:
    """Rows and columns of a map (C, H, W) or (H, W)."""
    return np.ndindex(*x.shape[-2:])


def arrays(x: Tensor) -> np.ndarray:
    """float64 copy."""
    return x.detach().double().numpy()


def assert_pulls(distiller: Distiller, student: Tensor, teacher: Any) -> None:
    """A small step down the gradient of each term brings the term down; every parameter has a gradient."""
    for name in distiller.losses(step(student, teacher)):
        moved = student.clone().requires_grad_(True)
        before = distiller.losses(step(moved, teacher))[name]
        gradient = torch.autograd.grad(before, moved)[0]
        after = distiller.losses(step(moved.detach() - 1e-2 * gradient / gradient.norm(), teacher))[name]
        assert after < before, name
    sum(distiller.losses(step(student, teacher)).values()).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in distiller.parameters())


def set_identity(conv: nn.Conv2d) -> None:
    """A conv that changes nothing."""
    nn.init.dirac_(conv.weight)
    nn.init.zeros_(conv.bias)
