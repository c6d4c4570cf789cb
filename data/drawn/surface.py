"""A surface while it is drawn, with what its defects need."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from data.drawn.circuit import Circuit
from data.drawn.noise import Rng, log_uniform

LUMINANCE = np.array([0.114, 0.587, 0.299], np.float32)  # of B, G, R


@dataclass
class Part:
    """The outline of a work piece that ends within the image: `mask` (H, W) in [0, 1], what lies behind it (H, W, 3)."""

    mask: np.ndarray
    behind: np.ndarray


@dataclass
class Surface:
    """A defect-free surface.

    Attributes:
        pixels: (H, W, 3), float32, BGR, about 0 to 255, evenly lit.
        angle: direction of its texture (rolling, brushing, warp) in radians.
        grain: strength of its texture, the std of its finest part in grey levels.
        unit: pixels per unit of length; defects are about 3 to 200 units long, the image 200 times its zoom.
        part: the work piece, where its edge is in the image.
        circuit: conductors and holes, on circuit boards.
        pitch: distance of threads in pixels, on fabrics.
    """

    pixels: np.ndarray
    angle: float
    grain: float
    unit: float
    part: Part | None = None
    circuit: Circuit | None = None
    pitch: float | None = None

    @property
    def size(self) -> int:
        """Side of the square image in pixels."""
        return self.pixels.shape[0]

    @property
    def board(self) -> Circuit:
        """The circuit of a circuit board. Raises `ValueError` on another surface."""
        if self.circuit is None:
            raise ValueError("expected a circuit board, got a surface without a circuit")
        return self.circuit

    def place(self, rng: Rng) -> np.ndarray:
        """Return a point (x, y) for a defect, at the border too."""
        return rng.uniform(0.04, 0.96, 2) * self.size

    def length(self, rng: Rng, low: float, high: float) -> float:
        """Return a length in pixels; `low` and `high` are in units, the logarithm uniform; at most the image's side."""
        return min(log_uniform(rng, low, high) * self.unit, float(self.size))

    def contrast(self, rng: Rng, low: float = 1.0, high: float = 4.0) -> float:
        """Return a contrast in grey levels, between `low` and `high` times the grain and 14 more, faint ones more often."""
        return self.grain * (low + (high - low) * rng.random() ** 1.5) + log_uniform(rng, 14, 70)

    def sign(self, rng: Rng, dark: float = 0.5) -> int:
        """Return -1 for a defect darker than the surface, with probability `dark`, else 1; what cannot show is not drawn."""
        level = float(self.pixels[::8, ::8].mean())
        dark = 0.05 if level < 50 else 0.95 if level > 205 else dark
        return -1 if rng.random() < dark else 1

    def towards(self, mask: np.ndarray, colour: np.ndarray) -> np.ndarray:
        """Return the change (H, W, 3) that paints `colour`, (3,) or (H, W, 3), where `mask` (H, W) is 1."""
        if colour.ndim == 1:
            return cv2.merge((mask, mask, mask)) * cv2.subtract((*map(float, colour), 0.0), self.pixels)  # type: ignore[call-overload] # OpenCV's types know of no scalars
        return cv2.merge((mask, mask, mask)) * (colour - self.pixels)


def grey(pixels: np.ndarray) -> np.ndarray:
    """Return the luminance (H, W) of pixels (H, W, 3) in BGR order."""
    return pixels @ LUMINANCE


def shift(mask: np.ndarray, amount: float) -> np.ndarray:
    """Return the change (H, W, 1), for all channels alike, that makes `mask` (H, W) brighter by `amount`."""
    return (np.float32(amount) * mask.astype(np.float32, copy=False))[..., None]


def random_colour(rng: Rng, low: float = 20, high: float = 235, saturation: float = 0.5) -> np.ndarray:
    """Return a colour (3,), float32: a grey level of `low` to `high`, its channels apart by up to `saturation` of it."""
    level = rng.uniform(low, high)
    return np.clip(level * (1 + rng.uniform(-saturation, saturation, 3)), 4, 250).astype(np.float32)
