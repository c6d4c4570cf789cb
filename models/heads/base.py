"""What our heads have in common: for `isinstance` they are ultralytics' `Detect`, without its layers."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from cfg import UserError, nearest
from models.rules import Plan, Site

from ultralytics.nn.modules.head import Detect


def check_classes(nc: object) -> None:
    """Raise `UserError` for a number of classes, of a head's row, that is none."""
    if not isinstance(nc, int) or isinstance(nc, bool) or nc < 1:
        raise UserError(f"expected nc to be a number of classes above 0, got {nc!r}; add 'nc: 6' to the YAML")


class Head(Detect):
    """A detection head with layers of its own; says what ultralytics reads on every head.

    Args:
        nc: number of classes K.
        strides: input pixels per cell of each level.
        reg_max: bins of the box distributions, 1 where boxes are plain numbers.
        no: outputs per prediction.
    """

    criterion: Callable[..., nn.Module]  # of the head and the options of a model YAML's `loss:` section
    rule: Callable[[Site], Plan]
    xyxy = False

    def __init__(self, nc: int, strides: tuple[int, ...], reg_max: int, no: int) -> None:
        nn.Module.__init__(self)  # Detect's own constructor builds an anchor-free head per level
        self.nc, self.nl, self.reg_max, self.no = nc, len(strides), reg_max, no
        self.inplace, self.cv2 = False, nn.ModuleList()
        self.stride = torch.tensor(strides, dtype=torch.float32)

    @property
    def stride(self) -> torch.Tensor:
        """Input pixels per cell of each level, (nl,); ultralytics reads it, and sets it anew when the model moves.

        Its numbers are also in `pixels_per_cell`: to read them from a tensor ends a compiled graph and waits for a GPU.
        """
        return self._stride

    @stride.setter
    def stride(self, strides: torch.Tensor) -> None:
        self._stride = strides
        if not strides.is_meta:  # without content: the numbers stay
            self.pixels_per_cell: tuple[float, ...] = tuple(strides.tolist())

    def loss(self, **options: Any) -> nn.Module:
        """The detection loss that trains this head. Raises `UserError` for an option that it has not."""
        known = list(inspect.signature(self.criterion).parameters)[1:]
        for name in options:
            if name not in known:
                raise UserError(f"expected options among {', '.join(known)}, got '{name}'{nearest(name, known)}")
        return self.criterion(self, **options)

    def class_rows(self, nc: int) -> dict[str, torch.Tensor]:
        """Which outputs score which class: parameter name -> (rows,), the class of each row, -1 for rows of none.

        Args:
            nc: number of classes; the head's own, or that of one like it.
        """
        raise NotImplementedError(f"{type(self).__name__} does not say which of its outputs score which class")

    def fuse(self) -> None:
        """Nothing to remove: our heads have one branch for training and inference."""
