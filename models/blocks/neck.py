"""block-N of the neck: resample, join with a skip connection, C3, attention (Zhang et al. 2022, Fig. 5)."""

from __future__ import annotations

import torch
from torch import nn

from cfg import UserError
from models.blocks import BLOCKS
from models.blocks.attention import make_attention
from models.blocks.host import C3, Conv, Upsample
from models.rules import Plan, Site, required, width


@BLOCKS.register("BlockN")
class BlockN(nn.Module):
    """One step of a tower: `[[from, skip], repeats, BlockN, [channels, attention]]`.

    The direction follows from the strides: a coarser input is enlarged (top-down tower), a finer one shrunk by a strided
    3x3 conv (bottom-up tower), to the skip's grid.

    Shapes: [(B, C_a, H_a, W_a), (B, C_b, H, W)] -> (B, channels, H, W), with H_a = H / 2 or 2 H.
    """

    @staticmethod
    def rule(site: Site) -> Plan:
        required(site.args, 1, "channels, attention")
        if len(site.channels) != 2:
            raise UserError(f"expected two inputs [from, skip], got {len(site.channels)}")
        source, skip = site.strides
        if source not in (skip * 2, skip // 2):
            raise UserError(f"expected an input one level from its skip, got strides {source} and {skip}")
        out = site.scale(width(site.args[0]))
        return Plan(out, (*site.channels, out, site.repeats, source > skip, *site.args[1:]))

    def __init__(self, c_in: int, c_skip: int, c_out: int, repeats: int, up: bool, attention: str = "dual") -> None:
        super().__init__()
        self.resample = nn.Sequential(Conv(c_in, c_out, 1), Upsample(2)) if up else Conv(c_in, c_out, 3, 2)
        self.mix = C3(c_out + c_skip, c_out, repeats, False)
        self.attention = make_attention(attention, c_out)

    def forward(self, features: list[torch.Tensor]) -> torch.Tensor:
        source, skip = features
        return self.attention(self.mix(torch.cat((self.resample(source), skip), 1)))
