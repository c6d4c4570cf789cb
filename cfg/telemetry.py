"""Usage reports that libraries send by themselves, switched off before they are imported."""

from __future__ import annotations

import sys
from typing import Any, cast


def silence_openvino() -> None:
    """Have OpenVINO import its stub for telemetry, as where the package openvino_telemetry is absent.

    With that package, which it brings, each import and each export of a model is reported to Google Analytics, without asking,
    by a copy of the whole process. None in `sys.modules` makes an import fail (Python's reference, The module cache).
    """
    cast("dict[str, Any]", sys.modules).setdefault("openvino_telemetry", None)
