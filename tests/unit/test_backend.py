"""What our AutoBackend does differently: threads, arithmetic, and when a first run is made."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from benchmarks.serving.brightness import write_onnx
from engine.backend import Backend, OnnxBackend, OpenVinoBackend, onnx_options, openvino_options, sessions_of_libraries
from engine.host import own_backend

from ultralytics.engine import validator
from ultralytics.nn.autobackend import AutoBackend
from ultralytics.nn.backends.onnx import ONNXBackend
from ultralytics.nn.backends.openvino import OpenVINOBackend


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


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity") or os.cpu_count() == 1, reason="needs Linux and two cores")
def test_on_fewer_cores_than_there_are_sessions_of_libraries_print_nothing(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    file, cores = str(write_onnx(tmp_path / "m.onnx")), os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(cores)})
    try:
        with sessions_of_libraries():
            session = runtime.InferenceSession(file, providers=["CPUExecutionProvider"])
            del session  # its threads have said what they had to
            with pytest.raises(Exception, match="protobuf"):
                runtime.InferenceSession(b"broken", providers=["CPUExecutionProvider"])
    finally:
        os.sched_setaffinity(0, cores)
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(("precision", "kind"), [("fp32", "f32"), ("bf16", "bf16"), ("half", "bf16")])
def test_openvino_is_told_its_arithmetic_and_threads_at_every_compilation(
    monkeypatch: pytest.MonkeyPatch, precision: str, kind: str
) -> None:
    """Also at those that the base class makes for another size of input, and not on a graphics chip that it prefers."""
    pytest.importorskip("openvino")
    asked = []

    def load_model(self, weight) -> None:
        assert self.fp16 is False, "images would be rounded"
        theirs = {"PERFORMANCE_HINT": "LATENCY", "EXECUTION_MODE_HINT": "ACCURACY"}
        compile_ = lambda model, device_name, config: asked.append((model, device_name, config))  # noqa: E731
        self.compile_model = partial(compile_, device_name="AUTO", config=theirs)
        self.compile_model("first")
        self.compile_model("reshaped")

    monkeypatch.setattr(OpenVINOBackend, "load_model", load_model)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    OpenVinoBackend("x", torch.device("cpu"), fp16=True, precision=precision)
    expected = {"EXECUTION_MODE_HINT": "ACCURACY"} | openvino_options(precision, 3)
    assert asked == [("first", "CPU", expected), ("reshaped", "CPU", expected)]
    assert expected["INFERENCE_PRECISION_HINT"].get_type_name() == kind and expected["INFERENCE_NUM_THREADS"] == 3


def test_validation_runs_models_as_detection_does() -> None:
    theirs = validator.AutoBackend
    with own_backend("bf16"):
        assert validator.AutoBackend.func is Backend and validator.AutoBackend.keywords == {"precision": "bf16"}
    assert validator.AutoBackend is theirs


@pytest.mark.parametrize(
    ("device", "precision", "half"),
    [("cpu", "half", False), ("cpu", "bf16", False), ("cuda:0", "half", True), ("cuda:0", "bf16", False)],
)
def test_half_is_float16_on_a_gpu_only(monkeypatch, device: str, precision: str, half: bool) -> None:
    seen = {}
    monkeypatch.setattr(AutoBackend, "__init__", lambda self, model, **given: seen.update(given))
    Backend("x.pt", torch.device(device), precision)
    assert seen == {"device": torch.device(device), "fp16": half}


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
