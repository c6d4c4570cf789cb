"""One image: a material, light on it, defects of several families with their boxes, harmless marks, a camera."""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np

from cfg import UserError
from data.drawn.boxes import box_of, overlap
from data.drawn.families import FAMILIES
from data.drawn.light import Light, draw_light, even_light, photograph
from data.drawn.marks import MARKS, lettering
from data.drawn.materials import MATERIALS
from data.drawn.noise import Rng, log_uniform
from data.drawn.surface import Surface, grey
from data.layout import xyxy_to_rows

NAMES = tuple(FAMILIES)  # by class number
EMPTY = 0.1  # share of images without defects
GREY = 0.5  # share of images of cameras that see no colour
SMALLEST = 64  # pixels; in smaller images the smallest boxes would be large ones
LEAST_PEAK, LEAST_MEAN = 12.0, 5.0  # grey levels that a defect changes at its strongest and over its visible part, at least
TRIES = 10


@dataclass
class Scene:
    """A lit surface with defects before it is photographed: `clean` and `pixels` (H, W, 3) without and with them."""

    clean: np.ndarray
    pixels: np.ndarray
    grey: bool
    lit: bool
    classes: list[int] = field(default_factory=list)
    boxes: list[np.ndarray] = field(default_factory=list)

    def add(self, kind: int, change: np.ndarray, gain: np.ndarray) -> bool:
        """Add a defect of class `kind`, if enough of it is seen and it hides no other; whether it was added.

        Args:
            change: of the evenly lit surface, (H, W, 3) or (H, W, 1).
            gain: of the light, (H, W, 3) or (H, W, 1).
        """
        window = _window(change)
        before = self.pixels[window]
        after = np.clip(before + change[window] * gain[window], 0, 255)
        seen = np.zeros(self.pixels.shape[:2], np.float32)
        seen[window] = self._seen(after - before)
        peak = float(seen.max())
        if peak < LEAST_PEAK or cv2.mean(seen, (seen > 0.3 * peak).astype(np.uint8))[0] < LEAST_MEAN:
            return False
        box = box_of(seen)
        if box is None or any(overlap(box, other) > 0.3 for other in self.boxes):
            return False
        self.pixels[window] = after
        self.classes.append(kind)
        self.boxes.append(box)
        return True

    def _seen(self, change: np.ndarray) -> np.ndarray:
        """Return how much of a change (h, w, 3) the camera sees (h, w), in grey levels."""
        return np.abs(grey(change)) if self.grey else np.maximum.reduce(cv2.split(np.abs(change)))


def _window(change: np.ndarray) -> tuple[slice, slice]:
    """Return rows and columns outside which a change (H, W, C) is no more than half a grey level."""
    strength = np.abs(change) if change.shape[2] == 1 else np.abs(change) @ np.ones(3, np.float32)
    x, y, width, height = cv2.boundingRect((strength.reshape(change.shape[:2]) > 0.5).astype(np.uint8))
    return slice(y, y + max(height, 1)), slice(x, x + max(width, 1))


def draw_scene(
    rng: Rng, size: int, material: str | None = None, family: str | None = None, empty: float = EMPTY
) -> tuple[np.ndarray, np.ndarray]:
    """Draw one image.

    Args:
        rng: the only source of chance.
        size: side in pixels, at least 64.
        material: a key of `MATERIALS`, any by default.
        family: a key of `FAMILIES`, the family of the first defect, any that the material has by default.
        empty: share of images without defects.

    Returns:
        pixels (size, size, 3), uint8, BGR; label rows (n, 5): class (its number in `NAMES`), centre x, centre y, width,
        height, as fractions.

    Raises:
        UserError: an unknown material, a family that it does not have, or a smaller size.
    """
    scene = compose(rng, size, material, family, empty)
    picture = photograph(rng, scene.pixels, scene.grey, clean=not scene.lit)
    return picture, xyxy_to_rows(np.array(scene.classes), np.array(scene.boxes), size, size)


def compose(rng: Rng, size: int, material: str | None = None, family: str | None = None, empty: float = EMPTY) -> Scene:
    """Return the scene that `draw_scene` photographs; arguments and errors as there."""
    if size < SMALLEST:
        raise UserError(f"size: expected at least {SMALLEST} pixels, got {size}")
    kind = MATERIALS[_material(rng, material)]
    if family is not None and family not in kind.families:
        raise UserError(f"family: expected one of {', '.join(kind.families)} on this material, got {family!r}")
    unit = size / 200 * log_uniform(rng, 0.7, 1.6)
    surface = kind.draw(rng, size, unit)
    for _ in range(rng.integers(0, 4) if kind.lit else 0):
        surface.pixels += MARKS[rng.integers(len(MARKS))](rng, surface)
    if surface.circuit is not None and rng.random() < 0.5:
        surface.pixels += lettering(rng, surface)
    np.clip(surface.pixels, 4 if kind.lit else 0, 255, out=surface.pixels)
    in_grey = bool(not kind.lit or rng.random() < GREY)
    light = draw_light(rng, size, float(surface.pixels.mean()), in_grey) if kind.lit else even_light(size)
    lit = np.clip(light.on(surface.pixels), 0, 255)
    scene = Scene(lit, lit.copy(), in_grey, kind.lit)
    if rng.random() >= empty:
        _add_defects(rng, scene, surface, light, kind.families, family)
    return scene


def _material(rng: Rng, wanted: str | None) -> str:
    """Return the material's name, any where none is wanted."""
    if wanted is None:
        return str(rng.choice(list(MATERIALS)))
    if wanted not in MATERIALS:
        raise UserError(f"material: expected one of {', '.join(MATERIALS)}, got {wanted!r}")
    return wanted


def _add_defects(
    rng: Rng, scene: Scene, surface: Surface, light: Light, families: tuple[str, ...], first: str | None
) -> None:
    """Add one to six defects, the first of a given family if it is not None, half of the others like the first."""
    wanted = int(rng.choice((1, 2, 3, 4, 6), p=(0.3, 0.25, 0.2, 0.15, 0.1))) + (2 if surface.circuit else 0)
    name = first or str(rng.choice(families))
    for _ in range(wanted):
        for _ in range(TRIES):
            change = FAMILIES[name](rng, surface)
            if change is not None and surface.part is not None:
                change = change * surface.part.mask[..., None]
            if change is not None and scene.add(NAMES.index(name), change, light.gain):
                break
        name = name if rng.random() < 0.5 else str(rng.choice(families))
