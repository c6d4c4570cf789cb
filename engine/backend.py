"""ultralytics' AutoBackend with two habits changed that cost a start-up or a busy machine dearly."""

from __future__ import annotations

import os
from typing import Any, ClassVar

import models.environment  # noqa: F401  (before ultralytics)
import torch
from ultralytics.nn.autobackend import AutoBackend
from ultralytics.nn.backends.onnx import ONNXBackend


def onnx_options(threads: int) -> Any:
    """ONNX Runtime's session options for so many threads, which wait as torch's: asleep, unless OMP_WAIT_POLICY is ACTIVE.

    Left alone it takes every core of the machine, also those that OMP_NUM_THREADS or a container's limit leave to
    others. Its threads wait in loops: on free cores that saves a sixth, on cores with other work it doubles the time.
    """
    import onnxruntime  # late: only these weights need it

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    if os.environ.get("OMP_WAIT_POLICY", "").lower() == "passive":  # what OpenMP, and so torch, goes by
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


class OnnxBackend(ONNXBackend):
    """ONNX Runtime with as many threads as torch has."""

    def __init__(self, weight: Any, device: torch.device, fp16: bool = False, format: str = "onnx") -> None:
        super().__init__(weight, device, fp16, format, onnx_options(torch.get_num_threads()))


class Backend(AutoBackend):
    """A model in any format, ready to run. Arguments and attributes as those of AutoBackend."""

    _BACKEND_MAP: ClassVar[dict[str, Any]] = AutoBackend._BACKEND_MAP | {"onnx": OnnxBackend}

    def warmup(self, imgsz: tuple[int, int, int, int] = (1, 3, 640, 640), im: torch.Tensor | None = None) -> None:
        """Run once before the clock starts, where the first run is slower: on a GPU, and in TorchScript.

        Elsewhere the base class runs nothing either, but imports torchvision, which takes as long as importing torch.
        """
        if self.device.type != "cpu" or self.format == "torchscript":
            super().warmup(imgsz, im)
