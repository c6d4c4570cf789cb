"""`detect.py --heatmap`: a heat map over each image, saved below the run folder."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np
import torch

from cfg import UserError
from data.result_files import Detections
from engine.detection.items import Item
from engine.heatmaps.attention import attention, gates
from engine.heatmaps.cells import read_cells
from engine.heatmaps.drise import Detect, drise
from engine.heatmaps.evidence import evidence
from engine.heatmaps.layercam import layercam

if TYPE_CHECKING:
    from ultralytics.nn.tasks import DetectionModel

KINDS = ("evidence", "layercam", "attention", "drise")
OF_BOXES = ("layercam", "drise")
LONGEST = 65_535  # pixels of a JPEG's side
STRENGTH = 0.55  # of the colours over the image, where the map is 1


class Heatmaps:
    """Computes and saves one map for each image: that of the image, or the highest of those of its boxes.

    Args:
        kind: one of `KINDS`.
        network: the PyTorch detector; None for an export, of which only `drise` can be had.
        detect: finds boxes in an image as the network takes it.
        device: where it runs.
        folder: for the images.

    Raises:
        UserError: the model has no map of that kind.
    """

    def __init__(self, kind: str, network: DetectionModel | None, detect: Detect, device: torch.device, folder: Path) -> None:
        if network is None and kind != "drise":
            raise UserError(f"--heatmap {kind}: expected PyTorch weights (.pt), got an exported model, which shows nothing of its "
                            "inside; use --heatmap drise, or the .pt file")  # fmt: skip
        if network is not None and kind == "attention" and not gates(network):
            attention(network, torch.zeros(1, 3, 32, 32))  # raises, with the fix
        self.kind, self.network, self.detect, self.device, self.folder = kind, network, detect, device, folder
        self.dtype = torch.float32 if network is None or kind == "drise" else next(network.parameters()).dtype  # float16 with --half on a GPU

    def drawn(self, item: Item, pixels_bgr: np.ndarray, found: Detections) -> bytes:
        """Return the map of one image (H, W, 3), over it, as JPEG. Raises ValueError for an image that is too large for one."""
        heat = unboxed(self.compute(item.prepared, found), *pixels_bgr.shape[:2])
        if max(pixels_bgr.shape[:2]) > LONGEST:
            raise ValueError(f"a JPEG has at most {LONGEST} pixels a side")
        return cv2.imencode(".jpg", overlay(pixels_bgr, heat))[1].tobytes()

    def save(self, item: Item, drawn: bytes) -> None:
        """Write the map of one image. Raises OSError."""
        name = item.relative.name + ("" if item.frame is None else f"_{item.frame:06d}")
        target = self.folder / item.relative.parent / (name if name.lower().endswith((".jpg", ".jpeg")) else f"{name}.jpg")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(drawn)

    def compute(self, prepared_bgr: np.ndarray, found: Detections) -> np.ndarray:
        """Return the map (h, w), 0 to 1, of an image as the network takes it, (h, w, 3)."""
        with torch.inference_mode(False):
            pixels = torch.from_numpy(prepared_bgr[..., ::-1].transpose(2, 0, 1).copy()).to(self.device, self.dtype)[None] / 255
            height, width = pixels.shape[-2:]
            boxes = boxed(found.boxes_xyxy, found.height, found.width, height, width)
            if self.kind in OF_BOXES and not len(boxes):
                maps = [torch.zeros(height, width)]
            elif self.network is None or self.kind == "drise":
                maps = drise(self.detect, pixels, boxes, found.classes)
            elif self.kind == "layercam":
                maps = layercam(self.network, pixels, boxes, found.scores, found.classes)
            elif self.kind == "attention":
                maps = [attention(self.network, pixels)]
            else:
                with torch.no_grad():
                    maps = [evidence(read_cells(self.network, pixels), height, width)]
            heat: np.ndarray = torch.stack(maps).amax(0).float().cpu().numpy()
            return heat


def boxed(boxes_xyxy: np.ndarray, height: int, width: int, to_height: int, to_width: int) -> np.ndarray:
    """Boxes (n, 4) of an image in pixels of its letterboxed form."""
    gain, left, top = _fit(height, width, to_height, to_width)
    return np.asarray(boxes_xyxy, dtype=float).reshape(-1, 4) * gain + (left, top, left, top)


def unboxed(heat: np.ndarray, height: int, width: int) -> np.ndarray:
    """A map of a letterboxed image without the border, in the image's own size (height, width)."""
    gain, left, top = _fit(height, width, *heat.shape)
    inside = heat[top : top + max(1, round(height * gain)), left : left + max(1, round(width * gain))]
    return cv2.resize(np.ascontiguousarray(inside, dtype=np.float32), (width, height), interpolation=cv2.INTER_LINEAR)


def _fit(height: int, width: int, to_height: int, to_width: int) -> tuple[float, int, int]:
    """How ultralytics' letterbox places an image: factor, columns on the left, rows above."""
    gain = min(to_height / height, to_width / width)
    left, top = (to_width - round(width * gain)) / 2, (to_height - round(height * gain)) / 2
    return gain, round(left - 0.1), round(top - 0.1)


def overlay(pixels_bgr: np.ndarray, heat: np.ndarray) -> np.ndarray:
    """Return an image (H, W, 3) under the colours of a map (H, W): the hotter, the less of the image is seen."""
    strength = np.clip(heat, 0, 1)
    colours = cv2.applyColorMap((strength * 255).astype(np.uint8), cv2.COLORMAP_TURBO)
    share = (STRENGTH * np.sqrt(strength))[..., None]
    mixed: np.ndarray = (pixels_bgr * (1 - share) + colours * share).round().astype(np.uint8)
    return mixed


def energy_inside(heat: np.ndarray, box_xyxy: np.ndarray) -> float:
    """The share of a map's sum that lies in a box (Wang et al. 2020, energy-based pointing game)."""
    height, width = heat.shape
    x1, y1, x2, y2 = (int(round(float(value))) for value in box_xyxy)
    inside = heat[max(y1, 0) : min(y2, height), max(x1, 0) : min(x2, width)].sum()
    return float(inside / max(heat.sum(), 1e-12))
