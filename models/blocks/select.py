"""Pick one output of a row that has several."""

from __future__ import annotations

import torch
from torch import nn

from cfg import UserError
from models.blocks import BLOCKS
from models.channels import Axis
from models.rules import Plan, Site, required
from models.wiring import Scope


@BLOCKS.register("Level")
class Level(nn.Module):
    """Output `index`, finest first, of a row with several (`Backbone`, `FPN`, `HKN`), unchanged: `[5, 1, Level, [0]]`.

    Shapes: [(B, C_i, H_i, W_i), ...] -> (B, C_index, H_index, W_index).
    """

    @staticmethod
    def rule(site: Site) -> Plan:
        required(site.args, 1, "index")
        index, count = site.args[0], len(site.channels)
        if count < 2:
            raise UserError("reads a row with several outputs (Backbone, FPN, HKN), got one output; take this row out")
        if not isinstance(index, int) or not 0 <= index < count:
            raise UserError(f"expected the index of one of {count} levels, 0 to {count - 1}, got {index!r}")
        return Plan(site.channels[index], (index,))

    def __init__(self, index: int) -> None:
        super().__init__()
        self.index = index

    def wire(self, scope: Scope, inputs: list[Axis], out: Axis) -> Axis:
        return inputs[self.index]

    def forward(self, levels: list[torch.Tensor]) -> torch.Tensor:
        return levels[self.index]
