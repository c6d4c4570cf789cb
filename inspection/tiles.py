"""Where the tiles of a large image lie, and how much they should share. `inspection.seams` joins what is found in them."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass

import numpy as np

from cfg.errors import UserError

SMALLEST, MOST_OVERLAP = 32, 0.9  # side of a tile in pixels; share of it that two neighbours have in common
USUAL_OVERLAP, LARGEST_USUAL = 0.2, 0.5  # default; at most, where defects are longer
COMMON_SIZE = 95  # percentile of the defects' sizes that the overlap should hold


@dataclass(frozen=True)
class Tiling:
    """Square tiles of `side` pixels of the image, of which neighbours share at least `overlap` of the side.

    Raises:
        UserError: a side below `SMALLEST`, or an overlap outside 0 to `MOST_OVERLAP`.
    """

    side: int
    overlap: float = USUAL_OVERLAP

    def __post_init__(self) -> None:
        if self.side < SMALLEST:
            raise UserError(f"--tile {self.side}: expected a side of at least {SMALLEST} pixels; for example --tile 640")
        if not 0 <= self.overlap <= MOST_OVERLAP:
            raise UserError(f"--overlap {self.overlap:g}: expected a share of the tile, from 0 to {MOST_OVERLAP}; "
                            f"for example --overlap {USUAL_OVERLAP}")  # fmt: skip

    @property
    def shared(self) -> int:
        """Pixels that two neighbours share, at least."""
        return math.ceil(self.side * self.overlap)

    def check_stride(self, stride: int) -> None:
        """Refuse (`UserError`) tiles that are smaller than a model's largest stride."""
        if self.side < stride:
            raise UserError(f"--tile {self.side}: expected at least the model's largest stride, {stride} pixels")

    def windows(self, height: int, width: int) -> np.ndarray:
        """Return the tiles of an image, (n, 4) int `x1 y1 x2 y2` in pixels, row by row.

        The last tile of a row or column is flush with the image's edge; an image smaller than a tile is one tile, of its
        own size.
        """
        step = self.side - self.shared
        tops, lefts = _starts(height, self.side, step), _starts(width, self.side, step)
        y, x = (grid.ravel() for grid in np.meshgrid(tops, lefts, indexing="ij"))
        return np.column_stack([x, y, np.minimum(x + self.side, width), np.minimum(y + self.side, height)])


def _starts(length: int, side: int, step: int) -> np.ndarray:
    last = max(0, length - side)
    return np.append(np.arange(0, last, step), last)


def tiling_asked(side: int | None, overlap: float | None, sizes: np.ndarray | None = None) -> Tiling | None:
    """Return the tiling of ``--tile`` and ``--overlap``, None without a side; print which overlap the defects need.

    Args:
        overlap: None for the default, or what the defects need.
        sizes: longer sides of the defects in pixels (n,), where the data are known.

    Raises:
        UserError: see `Tiling`; or an overlap without a side.
    """
    if side is None:
        if overlap is not None:
            raise UserError(f"--overlap {overlap:g}: expected --tile beside it; for example --tile 640")
        return None
    if sizes is None or not len(sizes):
        return Tiling(side, USUAL_OVERLAP if overlap is None else overlap)
    tiling = Tiling(side, usual_overlap(sizes, side) if overlap is None else overlap)
    print(_told(tiling, sizes), file=sys.stderr)
    return tiling


def _told(tiling: Tiling, sizes: np.ndarray) -> str:
    size, needed = np.percentile(sizes, COMMON_SIZE), overlap_for(sizes, tiling.side)
    text = f"tiles of {tiling.side} px, overlap {tiling.overlap:g} = {tiling.shared} px: {COMMON_SIZE} % of the defects are "
    text += f"at most {size:.0f} px long"
    if needed <= tiling.overlap:
        return f"{text} and whole in a tile"
    larger = math.ceil(size / LARGEST_USUAL / 32) * 32
    return f"{text}, and seams cut some; --overlap {needed:g} would keep them whole" if needed <= LARGEST_USUAL else (
        f"{text}, and seams cut some; larger tiles would keep them whole: --tile {larger} --overlap {LARGEST_USUAL}"
    )


def overlap_for(sizes: np.ndarray, side: int) -> float:
    """Return the overlap at which `COMMON_SIZE` percent of all defects are whole in a tile; 0 without defects.

    Args:
        sizes: longer sides of the defects, in pixels (n,).
        side: of the tiles.
    """
    return math.ceil(100 * np.percentile(sizes, COMMON_SIZE) / side) / 100 if len(sizes) else 0.0


def usual_overlap(sizes: np.ndarray, side: int) -> float:
    """Return the overlap to use by default: `USUAL_OVERLAP`, or what the defects need, up to a half."""
    return min(max(USUAL_OVERLAP, overlap_for(sizes, side)), LARGEST_USUAL)
