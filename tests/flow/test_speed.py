"""The speed benchmark: its three commands on tiny models, workers that crash, and what it refuses."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any, ClassVar

import pytest
from tiny import write_data, write_model

from benchmarks import speed
from benchmarks.timing import worker
from benchmarks.timing.session import Settings
from benchmarks.timing.worker import Worker, WorkerFailed, told
from cfg import UserError
from engine.checkpoint import save_student
from engine.detectors import build_detector

COMMON = ("--imgsz", "64", "--threads", "1", "--rounds", "2", "--classes", "2")


class Inside:
    """A worker in this process: starting Python takes longer than all that is measured here."""

    started: ClassVar[list[dict[str, Any]]] = []

    def __init__(self, factory: str, options: dict[str, Any], threads: int, log: Path, limit_s: float) -> None:
        Inside.started.append({"factory": factory, "threads": threads, "log": log} | options)
        try:
            self.thing = worker.made(factory, options)
        except Exception as error:
            raise WorkerFailed(told(error)) from None
        self.facts = self.thing.facts

    def ask(self, **question: Any) -> dict[str, Any]:
        return self.thing.measure(**question)

    def close(self) -> None:
        self.thing = None

    def __enter__(self) -> Inside:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@pytest.fixture
def inside(monkeypatch) -> list[dict[str, Any]]:
    """All workers in this process; the list of what was started."""
    monkeypatch.setattr("benchmarks.timing.session.Worker", Inside)
    Inside.started = []
    return Inside.started


@pytest.fixture
def place(tmp_path) -> Path:
    write_model(tmp_path / "s.yaml", width=8)
    write_model(tmp_path / "t.yaml")
    return tmp_path


def run(monkeypatch, *given: str) -> int:
    monkeypatch.setattr(sys, "argv", ["speed.py", *given])
    return speed.main()


def hide(monkeypatch, *packages: str) -> None:
    """Make packages look as if they were not installed."""
    import importlib.util

    find = importlib.util.find_spec
    seen = lambda name, *more: None if name in packages else find(name, *more)  # noqa: E731
    monkeypatch.setattr(importlib.util, "find_spec", seen)


def test_inference_with_a_runtime_that_is_not_there(place, inside, monkeypatch, capsys):
    hide(monkeypatch, "onnxruntime")
    models = f"{place / 't.yaml'},{place / 's.yaml'}"
    given = ["--models", models, "--runtimes", "torch,onnx", "--precisions", "fp32,int8", "--batch", "1,2", *COMMON]
    assert run(monkeypatch, "inference", *given, "--out", str(place / "out")) == 0
    result = json.loads((place / "out/results.json").read_text())
    assert len(result["rows"]) == 2 * 2 * 2 * 2
    done = {(Path(r["model"]).name, r["batch"]): r for r in result["rows"] if not r["reason"]}
    assert set(done) == {(m, b) for m in ("s.yaml", "t.yaml") for b in (1, 2)}
    assert all(r["runtime"] == "torch" and r["precision"] == "fp32" for r in done.values())
    small, large = done["s.yaml", 2], done["t.yaml", 2]
    assert large["to_reference"] is None and small["to_reference"]["count"] == 2
    assert small["parameters"] < large["parameters"] and 0 < small["gflops"] < large["gflops"]
    assert small["images_per_s"] == pytest.approx(2000 / small["forward_ms"]["median"])
    assert min(small[name]["low"] for name in ("preprocess_ms", "forward_ms", "postprocess_ms")) > 0
    assert small["base_mb"] > 50 and 0 < small["file_mb"] < 1 and not small["trained"]
    reasons = {(r["runtime"], r["precision"]): r["reason"] for r in result["rows"]}
    assert reasons["onnx", "fp32"] == "needs the package onnxruntime: pip install onnxruntime"
    assert "INT8" in reasons["torch", "int8"]
    text = (place / "out/results.md").read_text()
    assert "pip install onnxruntime" in text and text.strip() in capsys.readouterr().out
    tasks = [one for one in inside if "runtime" in one]
    assert [(Path(one["file"]).suffix, one["imgsz"]) for one in tasks] == [(".pt", 64)] * 4


def test_inference_in_onnx_runtime(place, inside, monkeypatch):
    pytest.importorskip("onnxruntime")
    write_model(place / "wide.yaml", width=64)  # ultralytics takes smaller ONNX files for failures
    given = ["--models", str(place / "wide.yaml"), "--runtimes", "torch,onnx", *COMMON, "--out", str(place / "out")]
    assert run(monkeypatch, "inference", *given) == 0
    rows = {row["runtime"]: row for row in json.loads((place / "out/results.json").read_text())["rows"]}
    assert not rows["onnx"]["reason"] and rows["onnx"]["forward_ms"]["count"] == 2
    assert rows["onnx"]["parameters"] == rows["torch"]["parameters"] and rows["onnx"]["file_mb"] > 0


def test_weights_have_the_classes_they_have(place, inside, monkeypatch):
    save_student(place / "s.pt", build_detector(str(place / "s.yaml"), 3, dict(enumerate("abc"))), {})
    given = ["--models", str(place / "s.pt"), "--axes", "classes", *COMMON, "--out", str(place / "out"), "--quick"]
    assert run(monkeypatch, "scaling", *given) == 1  # nothing to vary
    for row in json.loads((place / "out/results.json").read_text())["rows"]:
        assert not row["values"] and "give the model's YAML" in row["reasons"]["80"]
    given[3] = "batch"
    assert run(monkeypatch, "scaling", *given) == 0
    for row in json.loads((place / "out/results.json").read_text())["rows"]:
        assert row["values"] and not row["reasons"]


def test_a_model_that_fails_is_a_row(place, inside, monkeypatch):
    (place / "wrong.yaml").write_text((place / "s.yaml").read_text().replace("Conv", "Cnov"))
    models = f"{place / 's.yaml'},{place / 'wrong.yaml'}"
    assert run(monkeypatch, "--models", models, "--runtimes", "torch", *COMMON, "--out", str(place / "out")) == 0
    good, wrong = json.loads((place / "out/results.json").read_text())["rows"]
    assert good["forward_ms"]["count"] == 2 and "Cnov" in wrong["reason"] and "forward_ms" not in wrong
    models = str(place / "wrong.yaml")
    assert run(monkeypatch, "--models", models, "--runtimes", "torch", *COMMON, "--out", str(place / "out")) == 1


def test_compiled_without_a_compiler_says_what_to_install(place, inside, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    given = ["--models", str(place / "s.yaml"), "--runtimes", "torch,compile", *COMMON, "--out", str(place / "out")]
    assert run(monkeypatch, "inference", *given) == 0
    eager, compiled = json.loads((place / "out/results.json").read_text())["rows"]
    assert not eager["reason"] and "forward_ms" not in compiled
    assert compiled["reason"].startswith("torch.compile needs a C++ compiler") and "apt install g++" in compiled["reason"]


def test_training_with_a_method_that_needs_no_teacher(place, inside, monkeypatch):
    write_data(place)
    (place / "stock.yaml").write_text(json.dumps(STOCK))
    given = ["--models", str(place / "s.yaml"), "--distill", "sdd", "--data", str(place / "data.yaml"), "--batch", "2"]
    given += ["--stock", str(place / "stock.yaml"), "--stock-teacher", str(place / "stock.yaml"), "--clock", "cpu"]
    assert run(monkeypatch, "training", *given, "--progress", "0", *COMMON, "--out", str(place / "out")) == 0
    result = json.loads((place / "out/results.json").read_text())
    assert [row["variant"] for row in result["rows"]] == ["student", "distilled", "measured", "stock", "stock-distilled"]
    steps = {row["variant"]: row["samples_ms"] for row in result["rows"]}
    found = [d / s for d, s in zip(steps["distilled"], steps["student"])]
    assert result["comparisons"][0]["without_measuring"]["median"] == pytest.approx(sum(found) / 2)
    assert {one["progress"] for one in inside} == {0.0} and {one["clock"] for one in inside} == {"cpu"}


def test_training(place, inside, monkeypatch):
    write_data(place)
    given = ["--models", str(place / "s.yaml"), "--teacher", str(place / "t.yaml"), "--data", str(place / "data.yaml")]
    given += ["--stock", str(place / "stock.yaml"), "--stock-teacher", str(place / "stock.yaml"), "--batch", "2"]
    (place / "stock.yaml").write_text(json.dumps(STOCK))
    assert run(monkeypatch, "training", *given, *COMMON, "--out", str(place / "out")) == 0
    result = json.loads((place / "out/results.json").read_text())
    rows = {row["variant"]: row for row in result["rows"]}
    assert list(rows) == ["student", "teacher", "distilled", "measured", "stock", "stock-distilled"]
    assert not any(row["reason"] for row in rows.values()), [row["reason"] for row in rows.values()]
    (compared,) = result["comparisons"]
    assert set(rows["distilled"]["parts"]) == {
        "forward", "detection loss", "distillation losses", "teacher", "backward", "optimiser"
    }  # fmt: skip
    assert "gradient measuring" in rows["measured"]["parts"] and "teacher" not in rows["student"]["parts"]
    assert sum(part["share"] for part in rows["student"]["parts"].values()) == pytest.approx(1, abs=0.2)
    assert set(rows["stock-distilled"]["parts"]) == {"forward and losses", "backward", "optimiser"}
    steps = {name: row["samples_ms"] for name, row in rows.items()}
    found = [d / (s + t) for d, s, t in zip(steps["distilled"], steps["student"], steps["teacher"])]
    assert compared["without_measuring"]["median"] == pytest.approx(sum(found) / 2)
    averages = [d + (m - d) / 50 for d, m in zip(steps["distilled"], steps["measured"])]
    found = [a / (s + t) for a, s, t in zip(averages, steps["student"], steps["teacher"])]
    assert compared["with_measuring"]["median"] == pytest.approx(sum(found) / 2)
    assert rows["stock-distilled"]["to_student"]["count"] == 2 and rows["stock"]["to_student"] is None
    assert rows["stock-distilled"]["parameters"] > rows["stock"]["parameters"]  # a teacher is in it
    assert inside[0]["classes"] == ["dark", "bright"]


def test_scaling(place, inside, monkeypatch):
    axes = {"imgsz": (60, 64, 128), "objects": (1, 5), "classes": (2, 4)}
    monkeypatch.setattr("benchmarks.timing.scaling_run.QUICK", axes)
    given = ["--models", str(place / "s.yaml"), "--axes", "imgsz,objects,classes", "--quick", *COMMON]
    assert run(monkeypatch, "scaling", *given, "--out", str(place / "out")) == 0
    rows = {(r["kind"], r["axis"]): r for r in json.loads((place / "out/results.json").read_text())["rows"]}
    assert set(rows) == {(kind, axis) for kind in ("inference", "training") for axis in ("imgsz", "objects", "classes")}
    sizes = rows["inference", "imgsz"]
    assert sizes["sides"] == [64, 128] and sizes["sizes"] == [4096, 16384]  # 60 px are 64 for this stride
    assert len(sizes["slopes"]["total"]) == 1 and sizes["ms"]["forward"][0] < sizes["ms"]["total"][0]
    steps = rows["training", "objects"]
    assert steps["values"] == [1, 5] and set(steps["ms"]) == {"total", "forward", "loss", "backward"}
    assert sum(steps["ms"][part][0] for part in ("forward", "loss", "backward")) <= 1.2 * steps["ms"]["total"][0]
    assert sorted((one["factory"][-7:], one["classes"]) for one in inside) == [
        ("Forward", 2), ("Forward", 4), ("ledStep", 2), ("ledStep", 4)
    ]  # fmt: skip
    assert {p.name for p in (place / "out").glob("*.png")} == {f"scaling-{axis}.png" for axis in axes}


@pytest.mark.parametrize("command", ["inference", "training", "scaling"])
def test_an_interrupted_run_keeps_its_rounds(command, place, inside, monkeypatch):
    turns = []

    def ask(worker: Inside, **question: Any) -> dict[str, Any]:
        turns.append(question)
        if len(turns) == 3:
            raise KeyboardInterrupt
        return worker.thing.measure(**question)

    monkeypatch.setattr(Inside, "ask", ask)
    monkeypatch.setattr("benchmarks.timing.scaling_run.QUICK", {"batch": (1, 2)})
    (place / "stock.yaml").write_text(json.dumps(STOCK))
    given = ["--models", f"{place / 's.yaml'},{place / 't.yaml'}", "--runtimes", "torch", "--axes", "batch", "--quick"]
    given += ["--teacher", str(place / "t.yaml"), "--stock", str(place / "stock.yaml"), "--distill", "cwd"]
    given += ["--stock-teacher", str(place / "stock.yaml"), *COMMON, "--out", str(place / "out")]
    assert run(monkeypatch, command, *given) == 130
    result = json.loads((place / "out/results.json").read_text())
    text = (place / "out/results.md").read_text()
    assert result["interrupted"] and "interrupted after 1 of 2 rounds" in text
    if command == "scaling":
        assert [row["values"] for row in result["rows"]] == [[1, 2], [], [], []]
    else:
        assert [len(row.get("samples_ms", ())) for row in result["rows"]][:3] == [1, 1, 0][: len(result["rows"])]


STOCK = {
    "nc": 2,
    "backbone": [[-1, 1, "Conv", [8, 3, 2]], [-1, 1, "Conv", [8, 3, 2]], [-1, 1, "Conv", [16, 3, 2]]],
    "head": [[-1, 1, "Conv", [16, 3, 2]], [[2, 3], 1, "Detect", ["nc"]]],
}


class Probe:
    """What a real worker builds in the test below."""

    def __init__(self, note: str) -> None:
        import torch

        self.facts = {"pid": os.getpid(), "threads": torch.get_num_threads(), "note": note}

    def measure(self, do: str) -> dict[str, Any]:
        if do == "end":
            os.kill(os.getpid(), signal.SIGKILL)
        if do == "fail":
            print("about to fail")
            raise UserError("no such thing; choose another")
        return {"said": do}


def test_workers_are_processes_of_their_own_and_may_crash(tmp_path):
    settings = Settings("cpu", 1, 1, 64, ["a"], None, tmp_path, limit_s=600)
    factory = f"{__name__}:Probe"
    one, other = (settings.worker(factory, name, note=name) for name in ("one", "an/other"))
    try:
        assert len({one.facts["pid"], other.facts["pid"], os.getpid()}) == 3
        assert one.facts["threads"] == 1 and other.facts["note"] == "an/other"
        assert other.ask(do="this") == {"said": "this"}
        with pytest.raises(WorkerFailed, match="SIGKILL .out of memory"):
            one.ask(do="end")
        with pytest.raises(WorkerFailed, match="^no such thing; choose another$"):
            other.ask(do="fail")
        assert not one.process.is_alive() and not other.process.is_alive()
        assert "about to fail" in (tmp_path / "logs/an_other.log").read_text()
    finally:
        one.close()
        other.close()


def test_a_worker_that_does_not_answer_is_ended(tmp_path):
    with pytest.raises(WorkerFailed, match="no answer in 0.01 s"):
        Worker("time:sleep", {}, 1, tmp_path / "log", limit_s=0.01)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--models", "s-modle.yaml"], "s-modle.yaml.*did you mean 's-model.yaml'"),
        (["--models", "gone.pt"], "gone.pt: weights file not found"),
        (["--models", "s.onnx"], "--models s.onnx: expected a model YAML or a .pt file"),
        (["--models", ","], "--models: expected at least one"),
        (["--runtimes", "torch,onx"], "--runtimes onx: .*did you mean 'onnx'"),
        (["--precisions", "fp8"], "--precisions fp8: expected some of fp32"),
        (["--reference", "t-model.yaml", "--models", "s-model.yaml"], "--reference t-model.yaml: .*add it there"),
        (["--batch", "0"], "--batch 0: expected a whole number above 0"),
        (["--rounds", "0"], "--rounds 0: expected a whole number above 0"),
        (["training", "--batch", "1,2"], "training takes one number"),
        (["training", "--teacher", "gone.yaml"], "gone.yaml"),
        (["scaling", "--axes", "size"], "--axes size: expected some of imgsz"),
        (["--device", "97"], "--device 97: expected cpu or the number of a GPU"),
    ],
)
def test_refused_before_anything_starts(given, message, tmp_path, inside, monkeypatch):
    with pytest.raises(UserError, match=message):
        run(monkeypatch, *given, "--out", str(tmp_path / "out"))
    assert not inside and not (tmp_path / "out").exists()
