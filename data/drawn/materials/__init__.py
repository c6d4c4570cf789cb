"""Materials, by name: each draws a defect-free surface and says which families of defects can occur on it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from data.drawn.materials import board, cloth, metal, mineral, sheet
from data.drawn.noise import Rng
from data.drawn.surface import Surface

WIRING = ("open", "short", "spur", "mousebite", "island", "pinhole")
GROUPS = {"metal": ("rolled", "brushed", "cast", "turned"), "sheet": ("coated", "painted", "film"),
          "board": ("bare_board", "masked_board", "binary_board")}  # fmt: skip


@dataclass(frozen=True)
class Material:
    """`draw(rng, size, unit)` returns a surface; `families` can occur on it; `lit`: it is a photograph, not a binary image."""

    draw: Callable[[Rng, int, float], Surface]
    families: tuple[str, ...]
    lit: bool = True


MATERIALS: dict[str, Material] = {
    "rolled": Material(metal.rolled, ("scratch", "crazing", "inclusion", "patch", "pitting", "scale", "pit", "crack", "stain")),
    "brushed": Material(metal.brushed, ("scratch", "dent", "stain", "pit", "inclusion", "foreign_body", "broken_edge")),
    "cast": Material(metal.cast, ("blowhole", "crack", "pitting", "pit", "inclusion", "foreign_body", "broken_edge", "scale")),
    "turned": Material(metal.turned, ("scratch", "dent", "blowhole", "chip", "crack", "pit", "broken_edge")),
    "coated": Material(sheet.coated, ("blister", "wrinkle", "stain", "scratch", "patch", "pitting", "foreign_body", "dent")),
    "painted": Material(sheet.painted, ("chip", "blister", "scratch", "stain", "wrinkle", "dent", "crack", "crazing",
                                        "foreign_body", "broken_edge")),
    "film": Material(sheet.film, ("wrinkle", "hole", "scratch", "stain", "inclusion", "foreign_body", "blister", "patch")),
    "tile": Material(mineral.tile, ("crack", "chip", "broken_edge", "pit", "stain", "scratch", "crazing", "pitting")),
    "glass": Material(mineral.glass, ("scratch", "crack", "chip", "broken_edge", "inclusion", "blister", "stain",
                                      "foreign_body")),
    "fabric": Material(cloth.fabric, ("thread", "hole", "stain", "wrinkle", "foreign_body", "patch")),
    "bare_board": Material(board.bare_board, (*WIRING, "missing_hole", "scratch", "stain", "foreign_body")),
    "masked_board": Material(board.masked_board, (*WIRING, "missing_hole", "scratch", "stain", "chip", "foreign_body")),
    "binary_board": Material(board.binary_board, (*WIRING, "missing_hole"), lit=False),
}  # fmt: skip
