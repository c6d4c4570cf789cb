"""torchvision's suppression without its import, which takes longer than the rest of a short run."""

from __future__ import annotations

import importlib.util
from functools import cache
from pathlib import Path

import torch

from ultralytics.utils.nms import TorchNMS


@cache
def use_compiled_suppression() -> bool:
    """Let ultralytics' non-maximum suppression use torchvision's compiled operator; False where that is impossible.

    ultralytics uses it where torchvision has been imported, and else does the same in Python, some twenty times as
    slowly.
    The import takes 1 to 3 s; to load the library with the operator, which is all that is needed, takes 2 ms.
    """
    spec = importlib.util.find_spec("torchvision")
    places = sorted(Path(spec.origin).parent.glob("_C*")) if spec and spec.origin else []
    for library in (place for place in places if place.suffix in (".so", ".pyd", ".dylib")):
        try:
            torch.ops.load_library(str(library))
            TorchNMS.nms = staticmethod(torch.ops.torchvision.nms)
        except (OSError, AttributeError):  # made for another PyTorch, or without the operator
            continue
        return True
    return False
