"""ultralytics' AutoBackend with two habits changed that cost a start-up or a busy machine dearly."""

from __future__ import annotations

from typing import Any, ClassVar

import models.environment  # noqa: F401  (before ultralytics)
import torch
from ultralytics.nn.autobackend import AutoBackend
from ultralytics.nn.backends.onnx import ONNXBackend


class OnnxBackend(ONNXBackend):
    """ONNX Runtime with as many threads as torch has.

    Left alone it takes every core of the machine, also those that OMP_NUM_THREADS or a container's limit leave to
    others; its threads wait by spinning, and two of them on one core keep each other from working.
    """

    def __init__(self, weight: Any, device: torch.device, fp16: bool = False, format: str = "onnx") -> None:
        import onnxruntime  # late: only these weights need it

        session_options = onnxruntime.SessionOptions()
        session_options.intra_op_num_threads = torch.get_num_threads()
        super().__init__(weight, device, fp16, format, session_options)


class Backend(AutoBackend):
    """A model in any format, ready to run. Arguments and attributes as those of AutoBackend."""

    _BACKEND_MAP: ClassVar[dict[str, Any]] = AutoBackend._BACKEND_MAP | {"onnx": OnnxBackend}

    def warmup(self, imgsz: tuple[int, int, int, int] = (1, 3, 640, 640), im: torch.Tensor | None = None) -> None:
        """Run once before the clock starts, where the first run is slower: on a GPU, and in TorchScript.

        Elsewhere the base class runs nothing either, but imports torchvision, which takes as long as importing torch.
        """
        if self.device.type != "cpu" or self.format == "torchscript":
            super().warmup(imgsz, im)
