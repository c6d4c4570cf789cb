"""What our AutoBackend does differently: threads of ONNX Runtime, and when a first run is made."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from engine.backend import Backend, OnnxBackend, onnx_options
from engine.host import use_own_backend
from ultralytics.engine import validator
from ultralytics.nn.autobackend import AutoBackend
from ultralytics.nn.backends.onnx import ONNXBackend


def test_onnx_runtime_gets_as_many_threads_as_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    given = {}

    def keep(self, weight, device, fp16=False, format="onnx", session_options=None) -> None:
        given.update(weight=weight, fp16=fp16, threads=session_options.intra_op_num_threads)

    monkeypatch.setattr(ONNXBackend, "__init__", keep)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    backend = Backend._BACKEND_MAP["onnx"](Path("x.onnx"), device=torch.device("cpu"), fp16=True)
    assert isinstance(backend, OnnxBackend)
    assert given == {"weight": Path("x.onnx"), "fp16": True, "threads": 3}
    assert AutoBackend._BACKEND_MAP["onnx"] is ONNXBackend, "ultralytics' own table was changed"


@pytest.mark.parametrize(("policy", "sleeps"), [("PASSIVE", True), ("passive", True), ("ACTIVE", False), ("", False)])
def test_threads_of_onnx_runtime_wait_as_those_of_torch(monkeypatch: pytest.MonkeyPatch, policy: str, sleeps: bool) -> None:
    pytest.importorskip("onnxruntime")
    monkeypatch.setenv("OMP_WAIT_POLICY", policy)
    entry = "session.intra_op.allow_spinning"
    if sleeps:
        assert onnx_options(1).get_session_config_entry(entry) == "0"
    else:
        with pytest.raises(RuntimeError):  # not set
            onnx_options(1).get_session_config_entry(entry)


def test_validation_runs_models_as_detection_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validator, "AutoBackend", AutoBackend)
    use_own_backend()
    assert validator.AutoBackend is Backend


@pytest.mark.parametrize(
    ("device", "format", "runs"), [("cpu", "pt", 0), ("cpu", "onnx", 0), ("cuda", "pt", 1), ("cpu", "torchscript", 1)]
)
def test_a_first_run_is_made_where_it_is_slower(monkeypatch, device: str, format: str, runs: int) -> None:
    calls = []
    monkeypatch.setattr(AutoBackend, "warmup", lambda self, imgsz, im: calls.append(im))
    backend = Backend.__new__(Backend)
    torch.nn.Module.__init__(backend)
    backend.backend, backend.format = SimpleNamespace(device=torch.device(device)), format
    image = torch.zeros(1, 3, 8, 8)
    backend.warmup(im=image)
    assert len(calls) == runs and all(call is image for call in calls)
