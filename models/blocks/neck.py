"""block-N of the neck: resample, join with a skip connection, C3, attention (Zhang et al. 2022, Fig. 5)."""

from __future__ import annotations

import torch
from torch import nn

from cfg import UserError, nearest
from models.blocks import BLOCKS
from models.blocks.attention import make_attention
from models.blocks.host import C3, Conv, Upsample
from models.channels import Axis, Part
from models.rules import Plan, Site, required, width
from models.wiring import Place, Scope

WIDTHS = ("out", "skip")  # whose channels the resampled input has


@BLOCKS.register("BlockN")
class BlockN(nn.Module):
    """One step of a tower: `[[from, skip], repeats, BlockN, [channels, attention, resampled]]`.

    The direction follows from the strides: a coarser input is enlarged (top-down tower), a finer one shrunk by a strided
    3x3 conv (bottom-up tower), to the skip's grid. Before it joins the skip it has as many channels as the block's output
    (`resampled` is `out`, the default) or as the skip (`skip`, YOLOv5's neck). An input to be enlarged passes a 1x1 conv
    for that; not with `skip` where it has them already, as behind the 1x1 conv of a row before, which the bottom-up
    tower reads too.

    A third input is not read. It is what `Last` gives where that takes the block's place: the tower is left out, and the
    heads read the level below it.

    Shapes: [(B, C_a, H_a, W_a), (B, C_b, H, W)] -> (B, channels, H, W), with H_a = H / 2 or 2 H.
    """

    @staticmethod
    def rule(site: Site) -> Plan:
        required(site.args, 1, "channels, attention, resampled")
        if len(site.channels) not in (2, 3):
            raise UserError(f"expected two inputs [from, skip], and one for Last at most, got {len(site.channels)}")
        source, skip = site.strides[:2]
        if source not in (skip * 2, skip // 2):
            raise UserError(f"expected an input one level from its skip, got strides {source} and {skip}")
        out = site.scale(width(site.args[0]))
        return Plan(out, (*site.channels[:2], out, site.repeats, source > skip, *site.args[1:]))

    def __init__(
        self, c_in: int, c_skip: int, c_out: int, repeats: int, up: bool, attention: str = "dual", resampled: str = "out"
    ) -> None:
        super().__init__()
        if resampled not in WIDTHS:
            raise UserError(f"expected resampled to be {' or '.join(WIDTHS)}, got {resampled!r}{nearest(resampled, WIDTHS)}")
        joined = c_skip if resampled == "skip" else c_out
        if not up:
            self.resample = Conv(c_in, joined, 3, 2)
        elif resampled == "skip" and c_in == c_skip:
            self.resample = Upsample(2)
        else:
            self.resample = nn.Sequential(Conv(c_in, joined, 1), Upsample(2))
        self.mix = C3(joined + c_skip, c_out, repeats, False)
        self.attention = make_attention(attention, c_out)

    def wire(self, scope: Scope, inputs: list[Axis], out: Axis) -> Axis:
        source, skip = inputs[:2]
        lateral = Place("lateral", 2 * scope.place.stride)
        if isinstance(self.resample, Conv):
            joined = scope.at("resample").as_unit("Conv").layers(source, (Part(str(scope.place), self.resample.conv.out_channels),))
        elif isinstance(self.resample, Upsample):
            joined = source
        else:
            conv = scope.at("resample.0").as_unit("Conv", lateral)
            joined = conv.layers(source, (Part(str(lateral), self.resample[0].conv.out_channels),))
        mixed = scope.at("mix").as_unit("C3").layers((*joined, *skip), out)
        return scope.at("attention").as_unit("Attention").layers(mixed)

    def forward(self, features: list[torch.Tensor]) -> torch.Tensor:
        source, skip = features[:2]
        return self.attention(self.mix(torch.cat((self.resample(source), skip), 1)))
