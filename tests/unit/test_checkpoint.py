"""Checkpoints: what is written, what may be read, and what is refused."""

from __future__ import annotations

import os
import pickle
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import models  # noqa: F401  (before ultralytics)
from cfg import UserError
from engine import checkpoint, foreign

from ultralytics.nn.tasks import DetectionModel, SegmentationModel

TINY = {
    "nc": 2,
    "backbone": [[-1, 1, "Conv", [8, 3, 2]], [-1, 1, "Conv", [8, 3, 2]], [-1, 1, "Conv", [8, 3, 2]]],
    "head": [[[2], 1, "Detect", ["nc"]]],
}
ROOT = Path(__file__).resolve().parents[2]


def stock(seed: int = 0, **rows) -> DetectionModel:
    torch.manual_seed(seed)
    model = DetectionModel({**TINY, **rows}, verbose=False)
    model.names = {0: "scratch", 1: "pit"}
    return model.eval()


def as_ultralytics(path: Path, model: nn.Module, **more) -> Path:
    args = {"imgsz": 96, "project": None}
    torch.save({"epoch": 3, "model": model.half(), "ema": None, "train_args": args, **more}, path)
    return path


def same_output(a: nn.Module, b: nn.Module) -> bool:
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        return torch.equal(a.eval()(image)[0], b.eval()(image)[0])


# -- own files


def test_student_survives_the_file(tmp_path):
    model = stock()
    checkpoint.save_student(tmp_path / "best.pt", model, {"epoch": 7, "train_args": {"imgsz": 96}})
    loaded, ckpt = checkpoint.load_detector(tmp_path / "best.pt")
    assert same_output(model, loaded)
    assert not loaded.training and all(p.dtype == torch.float32 for p in loaded.parameters())
    assert loaded.names == {0: "scratch", 1: "pit"} and ckpt["stride"] == [8]
    assert ckpt["meta"]["epoch"] == 7 and "torch" in ckpt["meta"]["versions"]
    assert set(ckpt["state"]) == set(model.state_dict())


@pytest.mark.long
def test_our_detector_survives_the_file(tmp_path):
    detector_module = pytest.importorskip("models.detector")
    model = detector_module.Detector("yolov5n.yaml", nc=2, names={0: "scratch", 1: "pit"}).eval()
    checkpoint.save_student(tmp_path / "best.pt", model, {})
    loaded, ckpt = checkpoint.load_detector(tmp_path / "best.pt")
    assert ckpt["kind"] == "tandem" and isinstance(loaded, detector_module.Detector)
    assert same_output(model, loaded)


def test_run_file_gives_the_average_and_keeps_the_run(tmp_path):
    moments = {0: {"step": torch.tensor(3.0), "exp_avg": torch.ones(2)}}
    optimizer = {"state": moments, "param_groups": [{"betas": (0.9, 0.99)}]}
    content = checkpoint.pack(stock(), {"train_args": {"lr0": 0.1}}, checkpoint.RUN)
    checkpoint.save_atomic(tmp_path / "last.pt", content | {"run": {"epoch": 4, "optimizer": optimizer, "updates": 9}})
    loaded, ckpt = checkpoint.load_detector(tmp_path / "last.pt")
    assert same_output(stock(), loaded)
    assert ckpt["run"]["optimizer"]["param_groups"][0]["betas"] == (0.9, 0.99)


def test_newer_or_incomplete_file_is_refused(tmp_path):
    content = checkpoint.pack(stock(), {})
    checkpoint.save_atomic(tmp_path / "new.pt", content | {"version": 99})
    with pytest.raises(UserError, match=r"new\.pt.*version 99"):
        checkpoint.load_detector(tmp_path / "new.pt")
    del content["names"]
    checkpoint.save_atomic(tmp_path / "part.pt", content)
    with pytest.raises(UserError, match=r"part\.pt.*lacks names"):
        checkpoint.load_detector(tmp_path / "part.pt")


def test_plain_types_only():
    value = types.SimpleNamespace(a=np.arange(2), b=Path("x"), c=(1, {2}), d=np.bool_(True), e=torch.Size([3]))
    assert checkpoint.plain(value) == {"a": [0, 1], "b": "x", "c": (1, [2]), "d": True, "e": [3]}
    with pytest.raises(TypeError, match=r"checkpoint\.x\[1\].*object"):
        checkpoint.plain({"x": [1, object()]})


def test_a_view_is_stored_without_its_storage(tmp_path):
    checkpoint.save_atomic(tmp_path / "v.pt", {"v": torch.zeros(1_000_000)[:2]})
    assert (tmp_path / "v.pt").stat().st_size < 10_000


def test_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
    target = tmp_path / "last.pt"
    checkpoint.save_atomic(target, {"n": 1})

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match=r"last\.pt.*No space left"):
        checkpoint.save_atomic(target, {"n": 2})
    assert torch.load(target, weights_only=True) == {"n": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["last.pt"]


def test_missing_folder_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match=r"nowhere.*cannot be written"):
        checkpoint.save_atomic(tmp_path / "nowhere/best.pt", {})


# -- foreign files


def test_ultralytics_checkpoint_is_rebuilt(tmp_path):
    model = stock()
    path = as_ultralytics(tmp_path / "y.pt", stock(), train_metrics={"fitness": np.float64(0.5)}, when=Path("x"))
    loaded, ckpt = checkpoint.load_detector(path)
    assert loaded.names == model.names
    assert same_output(model.half().float(), loaded)  # stored in half precision
    assert ckpt["meta"]["train_args"]["imgsz"] == 96 and ckpt["meta"]["epoch"] == 3


def test_the_average_comes_before_the_model(tmp_path):
    torch.save({"model": stock(1), "ema": stock(2)}, tmp_path / "y.pt")
    assert same_output(stock(2), checkpoint.load_detector(tmp_path / "y.pt")[0])


def test_no_foreign_code_runs(tmp_path, monkeypatch):
    path = as_ultralytics(tmp_path / "y.pt", stock())
    called = []
    monkeypatch.setattr(nn.Module, "__setstate__", lambda *_: called.append(1))
    foreign.load_inert(path)
    assert not called


class Evil:
    def __reduce__(self):
        return os.system, ("touch evil-was-here",)


@pytest.mark.parametrize("form", ["torch", "bare pickle"])
def test_malicious_pickle_is_refused(tmp_path, monkeypatch, form):
    monkeypatch.chdir(tmp_path)
    if form == "torch":
        torch.save({"model": Evil()}, "evil.pt")
    else:
        Path("evil.pt").write_bytes(pickle.dumps(Evil()))
    for load in (checkpoint.load_detector, checkpoint.read_state):
        with pytest.raises(UserError, match=r"evil\.pt.*refused" if form == "torch" else r"evil\.pt"):
            load("evil.pt")
    assert not Path("evil-was-here").exists()


def test_refusal_names_the_type(tmp_path):
    torch.save({"model": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(UserError, match=r"'(posix|nt)\.system'"):
        checkpoint.load_detector(tmp_path / "evil.pt")


@pytest.mark.parametrize(
    "rows",
    [
        {"activation": "__import__('os').system('touch evil-was-here')"},
        {"backbone": [[-1, 1, "checks.check_requirements", ["x"]]]},
        {"backbone": [[-1, 1, "torch_safe_load", ["x"]]]},
        {"backbone": [[-1, 1, "TorchVision", [8, "resnet18", "DEFAULT"]]]},
        {"backbone": [[-1, 1, "DetectionModel", ["x.yaml"]]]},
    ],
)
def test_a_model_yaml_cannot_run_anything(tmp_path, monkeypatch, rows):
    monkeypatch.chdir(tmp_path)
    model = stock()
    model.yaml |= rows
    checkpoint.save_student("best.pt", model, {})
    as_ultralytics(tmp_path / "y.pt", model)
    for name in ("best.pt", "y.pt"):
        with pytest.raises(UserError, match=rf"{name}: refused"):
            checkpoint.load_detector(name)
    assert not Path("evil-was-here").exists()


def test_an_ordinary_activation_is_built(tmp_path):
    model = stock(activation="nn.LeakyReLU(0.1, inplace=True)")
    checkpoint.save_student(tmp_path / "best.pt", model, {})
    assert same_output(model, checkpoint.load_detector(tmp_path / "best.pt")[0])


def test_segmentation_model_is_refused(tmp_path):
    rows = {**TINY, "head": [[[0, 1, 2], 1, "Segment", ["nc", 8, 8]]]}
    path = as_ultralytics(tmp_path / "seg.pt", SegmentationModel(rows, verbose=False))
    with pytest.raises(UserError, match="SegmentationModel"):
        checkpoint.load_detector(path)


def save_like_yolov5(path: Path, monkeypatch) -> None:
    """Write a pickle whose classes are called models.yolo.Model and models.common.Conv, as YOLOv5's are."""
    yolo, common = types.ModuleType("models.yolo"), types.ModuleType("models.common")
    common.Conv = type("Conv", (nn.Conv2d,), {"__module__": "models.common"})
    yolo.Model = type("Model", (nn.Sequential,), {"__module__": "models.yolo"})
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "models.yolo", yolo)
        patch.setitem(sys.modules, "models.common", common)
        torch.save({"model": yolo.Model(common.Conv(1, 2, 1)), "epoch": -1}, path)


def test_yolov5_pickle_gives_its_tensors_only(tmp_path, monkeypatch):
    save_like_yolov5(tmp_path / "v5.pt", monkeypatch)
    state = checkpoint.read_state(tmp_path / "v5.pt")
    assert {k: tuple(v.shape) for k, v in state.items()} == {"0.weight": (2, 1, 1, 1), "0.bias": (2,)}
    assert "models.yolo" not in sys.modules
    with pytest.raises(UserError, match=r"v5\.pt.*models\.yolo\.Model"):
        checkpoint.load_detector(tmp_path / "v5.pt")


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", b"PK\x03\x04 truncated"])
def test_bad_files_name_the_file(tmp_path, content):
    path = tmp_path / "bad.pt"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"bad\.pt: expected a checkpoint"):
        checkpoint.load_detector(path)
    with pytest.raises(UserError, match=r"bad\.pt"):
        checkpoint.read_state(path)


def test_truncated_and_missing_files(tmp_path):
    checkpoint.save_student(tmp_path / "best.pt", stock(), {})
    whole = (tmp_path / "best.pt").read_bytes()
    (tmp_path / "cut.pt").write_bytes(whole[: len(whole) // 2])
    for name in ("cut.pt", "gone.pt", "."):
        with pytest.raises(UserError):
            checkpoint.load_detector(tmp_path / name)


class Program(nn.Module):
    """As TorchScript, a program that runs while it is loaded: it leaves `trace` behind."""

    def __init__(self, trace: str) -> None:
        super().__init__()
        self.trace = trace

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x

    @torch.jit.export
    def __getstate__(self) -> tuple[str, bool]:
        return self.trace, self.training

    @torch.jit.export
    def __setstate__(self, state: tuple[str, bool]) -> None:
        self.trace, self.training = state
        torch.from_file(self.trace, shared=True, size=4, dtype=torch.uint8)


@pytest.mark.parametrize("padding", [0, 65_600, 68_000, 69_000])  # behind 65,557 bytes, Python's zip reader finds no archive
def test_a_torchscript_program_does_not_run(tmp_path, padding):
    trace = tmp_path / "trace"
    torch.jit.script(Program(str(trace))).save(str(tmp_path / "s.pt"))
    (tmp_path / "s.pt").write_bytes((tmp_path / "s.pt").read_bytes() + bytes(padding))
    with pytest.raises(UserError):
        checkpoint.read(tmp_path / "s.pt")
    with pytest.raises(UserError):  # nor where it took the place of another file after a first look
        foreign.load_inert(tmp_path / "s.pt")
    assert not trace.exists()


@pytest.mark.parametrize("odd", [
    torch.zeros(2, dtype=torch.complex64), torch.zeros(2).to(torch.float8_e4m3fn), torch.zeros(2, 2).to_sparse(), torch.zeros(2, device="meta"),
])  # fmt: skip
def test_tensors_that_cannot_be_reckoned_with_are_refused(tmp_path, odd):
    torch.save({"a": torch.zeros(2), "b": odd}, tmp_path / "odd.pt")
    with pytest.raises(UserError, match="expected plain tensors of real numbers, got b as"):
        checkpoint.read_state(tmp_path / "odd.pt")


def test_torchscript_file_is_explained(tmp_path):
    torch.jit.save(torch.jit.trace(nn.Identity(), torch.zeros(1)), tmp_path / "s.pt")
    with pytest.raises(UserError, match=r"TorchScript.*\.torchscript"):
        checkpoint.load_detector(tmp_path / "s.pt")


def test_bare_state_dict_has_no_model(tmp_path):
    torch.save(stock().state_dict(), tmp_path / "sd.pt")
    assert set(checkpoint.read_state(tmp_path / "sd.pt")) == set(stock().state_dict())
    with pytest.raises(UserError, match="bare tensors"):
        checkpoint.load_detector(tmp_path / "sd.pt")


# -- ultralytics


@pytest.fixture
def installed(monkeypatch):
    import ultralytics.nn
    from ultralytics.nn import tasks

    monkeypatch.setattr(tasks, "torch_safe_load", tasks.torch_safe_load)  # put back after the test
    monkeypatch.setattr(ultralytics.nn, "torch_safe_load", ultralytics.nn.torch_safe_load)
    checkpoint.install()


def test_ultralytics_reads_our_files(tmp_path, installed):
    from ultralytics.nn.autobackend import AutoBackend
    from ultralytics.nn.tasks import load_checkpoint

    content = checkpoint.pack(stock(), {"train_args": {"lr0": 0.25}, "metrics": {"fitness": 0.5}}, checkpoint.RUN)
    checkpoint.save_atomic(tmp_path / "last.pt", content | {"run": {"epoch": 4, "updates": 9}})
    model, ckpt = load_checkpoint(tmp_path / "last.pt")
    assert same_output(stock(), model) and ckpt["ema"] is model
    assert (ckpt["epoch"], ckpt["updates"], ckpt["train_args"]) == (4, 9, {"lr0": 0.25})
    assert model.args["lr0"] == 0.25
    assert AutoBackend(str(tmp_path / "last.pt"), verbose=False).names == {0: "scratch", 1: "pit"}


def test_ultralytics_reads_its_own_files_through_us(tmp_path, installed):
    from ultralytics.nn.tasks import load_checkpoint

    path = as_ultralytics(tmp_path / "y.pt", stock())
    assert load_checkpoint(path)[1]["train_args"]["imgsz"] == 96
    torch.save({"model": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(UserError, match="refused"):
        load_checkpoint(tmp_path / "evil.pt")
