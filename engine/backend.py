"""ultralytics' AutoBackend with as many threads as torch has, and the requested precision."""

from __future__ import annotations

import importlib.util
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, ClassVar

import torch

import models.environment  # noqa: F401  (before ultralytics)
from cfg.signal_stack import signal_stack_kept

from ultralytics.nn.autobackend import AutoBackend
from ultralytics.nn.backends.onnx import ONNXBackend
from ultralytics.nn.backends.openvino import OpenVINOBackend

WARNING, FATAL = 2, 4  # of ONNX Runtime's log; it begins with WARNING


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


@contextmanager
def sessions_of_libraries() -> Iterator[None]:
    """For libraries that open sessions of ONNX Runtime without options: onnxslim, ONNX Runtime's own quantisation.

    Such a session has a thread for each core of the machine, and prints an error for each core that this process may
    not use (taskset, a container). What goes wrong with a model is raised too.
    """
    if importlib.util.find_spec("onnxruntime") is None:
        yield
        return
    import onnxruntime

    set_severity = onnxruntime.set_default_logger_severity
    set_severity(FATAL)
    onnxruntime.set_default_logger_severity = lambda severity: None  # onnxslim sets its own
    try:
        yield
    finally:
        onnxruntime.set_default_logger_severity = set_severity
        set_severity(WARNING)


def openvino_options(precision: str, threads: int) -> dict[str, Any]:
    """How OpenVINO compiles a model for the CPU, wherever Tandem runs one: for single inputs, on so many threads.

    Left alone it computes in bfloat16 where the processor has it, so that the same file finds other boxes elsewhere.

    Args:
        precision: ``fp32``; ``bf16`` or ``half``: bfloat16, where the processor has it, for all that is not INT8.
    """
    import openvino  # late: only these weights need it

    kind = openvino.Type.f32 if precision == "fp32" else openvino.Type.bf16
    return {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads, "INFERENCE_PRECISION_HINT": kind}


def openvino_has_bfloat16() -> bool:
    """Whether OpenVINO computes in bfloat16 on this processor when asked to; else it stays in float32."""
    import openvino

    with signal_stack_kept():
        return "BF16" in openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


class OnnxBackend(ONNXBackend):
    """ONNX Runtime with as many threads as torch has. On x86 it computes in the precision of the file, and in no other."""

    def __init__(self, weight: Any, device: torch.device, fp16: bool = False, format: str = "onnx") -> None:
        super().__init__(weight, device, fp16, format, onnx_options(torch.get_num_threads()))


class OpenVinoBackend(OpenVINOBackend):
    """OpenVINO on the CPU, with `openvino_options`; its images are never rounded to float16."""

    def __init__(self, weight: Any, device: torch.device, fp16: bool = False, precision: str = "fp32") -> None:
        self.precision = precision
        with signal_stack_kept():
            super().__init__(weight, device)

    @property
    def compile_model(self) -> partial[Any]:
        """What compiles a model: the base class puts it here, and calls it, also anew for another size of input."""
        return self._compile

    @compile_model.setter
    def compile_model(self, theirs: partial[Any]) -> None:
        options = openvino_options(self.precision, torch.get_num_threads())
        self._compile = partial(theirs.func, device_name="CPU", config=theirs.keywords["config"] | options)


class Backend(AutoBackend):
    """A model in any format, ready to run. Attributes, and arguments but for `precision`, are those of AutoBackend.

    Args:
        precision: ``fp32``; ``bf16``, which OpenVINO has on some processors; or ``half``, the 16 bits of the device:
            float16 on a GPU, bfloat16 on a CPU. What is not to be had is float32: see `computes_in`.
    """

    _BACKEND_MAP: ClassVar[dict[str, Any]] = AutoBackend._BACKEND_MAP | {"onnx": OnnxBackend, "openvino": OpenVinoBackend}

    def __init__(
        self, model: Any, device: torch.device | None = None, precision: str = "fp32", fp16: bool = False, **options: Any
    ) -> None:
        kinds = type(self)._BACKEND_MAP
        self.__dict__["_BACKEND_MAP"] = kinds | {"openvino": partial(kinds["openvino"], precision=precision)}  # of this model alone
        on_gpu = torch.device(device or "cpu").type != "cpu"
        with warnings.catch_warnings():  # torch 2.9 and later call torch.jit deprecated; it is what TorchScript is
            warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.jit")
            super().__init__(model, device=device, fp16=fp16 or (precision == "half" and on_gpu), **options)

    @property
    def computes_in(self) -> str:
        """``fp32``, ``bf16`` or ``fp16``: the requested precision, or the nearest that is possible."""
        if self.format == "openvino":
            kind: str = self.backend.ov_compiled_model.get_property("INFERENCE_PRECISION_HINT").get_type_name()
            return {"f32": "fp32", "f16": "fp16"}.get(kind, kind)
        return "fp16" if self.fp16 else "fp32"

    def warmup(self, imgsz: tuple[int, int, int, int] = (1, 3, 640, 640), im: torch.Tensor | None = None) -> None:
        """Run once before the clock starts, where the first run is slower: on a GPU, and in TorchScript.

        Elsewhere the base class runs nothing either, but imports torchvision, which takes as long as importing torch.
        """
        if self.device.type != "cpu" or self.format == "torchscript":
            super().warmup(imgsz, im)
