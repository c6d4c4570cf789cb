"""Tandem by torch.hub, as YOLOv5's: torch.hub.load("path/of/this/folder", "custom", "best.pt", source="local")."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tandem import Detector

dependencies = ["torch", "ultralytics", "cv2", "av"]


def custom(path: str, device: str = "", **options: Any) -> Detector:
    """Load weights in any form (`tandem.load`). Raises `cfg.UserError`."""
    folder = str(Path(__file__).resolve().parent)
    if folder not in sys.path[1:]:
        sys.path.append(folder)  # torch.hub takes its own entry away when this returns, and some imports come later
    from tandem import load

    return load(path, device, **options)
