"""Families of defects, by name, in the order of their class numbers.

Each draws one defect: `family(rng, surface)` returns the change (H, W, 3) of the pixels, or (H, W, 1)
of all channels alike, or ``None`` where the surface has no place for it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from data.drawn.families import areas, breakage, hollows, lines, relief, wiring
from data.drawn.noise import Rng
from data.drawn.surface import Surface

FAMILIES: dict[str, Callable[[Rng, Surface], np.ndarray | None]] = {
    "scratch": lines.scratch, "crack": lines.crack, "crazing": lines.crazing, "thread": lines.thread,
    "pit": hollows.pit, "pitting": hollows.pitting, "scale": hollows.scale, "blowhole": hollows.blowhole,
    "hole": hollows.hole,
    "inclusion": areas.inclusion, "patch": areas.patch, "stain": areas.stain,
    "wrinkle": relief.wrinkle, "dent": relief.dent, "blister": relief.blister,
    "chip": breakage.chip, "broken_edge": breakage.broken_edge, "foreign_body": breakage.foreign_body,
    "open": wiring.open_circuit, "short": wiring.short, "spur": wiring.spur, "mousebite": wiring.mousebite,
    "island": wiring.island, "pinhole": wiring.pinhole, "missing_hole": wiring.missing_hole,
}  # fmt: skip
