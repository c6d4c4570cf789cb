"""export.py --int8: what it writes finds the same objects, says what it lost, and is refused when that is too much."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from tiny import NAMES, SIZE, save_tiny, stock_detector, write_image

import detect
import engine.export.quantise as quantise_module
import export
from cfg.errors import guard
from data.images import read_pixels
from engine.export import int8_table
from engine.export.export_check import ExportOptions
from engine.export.exporter import target_path
from engine.validation.evaluate import evaluate
from engine.validation.nms import complete_nms
from engine.weights import open_backend, read_metadata


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights and a data set of noise whose labels are what the weights find, so that float32 scores high."""
    folder, detector = tmp_path_factory.mktemp("int8"), stock_detector()
    save_tiny(folder / "best.pt")
    for part, seeds in (("train", range(10)), ("val", range(10, 22))):
        (folder / "labels" / part).mkdir(parents=True)
        for seed in seeds:
            image = read_pixels(write_image(folder / f"images/{part}/{seed}.png", seed))
            inputs = torch.from_numpy(image[..., ::-1].transpose(2, 0, 1).copy())[None] / 255
            with torch.no_grad():
                found = complete_nms(detector(inputs), 0.05, 0.45, False, 6, False)[0]
            boxes = found[:, :4].clamp(0, SIZE) / SIZE
            rows = torch.cat([found[:, 5:6], (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]], 1)
            lines = [f"{int(row[0])} " + " ".join(f"{v:.6f}" for v in row[1:]) for row in rows.tolist()]
            (folder / f"labels/{part}/{seed}.txt").write_text("\n".join(lines) + "\n")
    names = ", ".join(NAMES.values())
    (folder / "data.yaml").write_text(f"train: images/train\nval: images/val\nnames: [{names}]\n")
    return folder


def run(place: Path, out: Path, *more: str, formats: str = "onnx") -> int:
    fixed = ["--weights", str(place / "best.pt"), "--out", str(out), "--format", formats]
    return guard(lambda: export.main([*fixed, *more]))


def int8(place: Path, out: Path, *more: str, formats: str = "onnx") -> int:
    return run(place, out, "--int8", "--data", str(place / "data.yaml"), *more, formats=formats)


def test_int8_onnx_works_in_every_command_and_says_what_it_lost(place: Path, tmp_path: Path, capsys) -> None:
    assert int8(place, tmp_path, "--max-loss", "30", "--dynamic") == 0
    assert [path.name for path in tmp_path.iterdir()] == ["best-int8.onnx"]
    printed = capsys.readouterr().out
    assert "calibrating INT8 on 10 training images" in printed and "12 validation images" in printed
    told = read_metadata(tmp_path / "best-int8.onnx")
    assert told["names"] == NAMES and told["stride"] == 16 and told["imgsz"] == [SIZE, SIZE]
    assert told["args"]["quantize"] == 8 and told["trained_on"] == "steel.yaml"
    facts = told["int8"]
    assert facts["calibrated_on"] == "data.yaml"
    assert (facts["calibration_images"], facts["validation_images"]) == (10, 12)
    score = facts["mAP50-95"]
    assert score["float32"] > 0.5 and score["difference"] == pytest.approx(score["int8"] - score["float32"], abs=2e-5)
    options = {"batch": 2, "device": "cpu", "plots": False, "save_dir": tmp_path / "val"}
    report = evaluate(tmp_path / "best-int8.onnx", place / "data.yaml", **options)
    assert report["metrics"]["mAP50-95"] == pytest.approx(score["int8"], abs=1e-5)
    assert report["metrics"]["mAP50"] > 0.6, "quantised, it still finds most of what float32 finds"
    arguments = ["--weights", str(tmp_path / "best-int8.onnx"), "--source", str(place / "images/val"), "--no-draw"]
    assert detect.main([*arguments, "--project", str(tmp_path / "detect"), "--device", "cpu"]) == 0


def test_a_loss_above_the_limit_leaves_no_file(place: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    # Everything quantised, decoding included: one scale for pixels and scores.
    monkeypatch.setattr(quantise_module, "float_nodes", lambda graph, outputs: set())
    monkeypatch.setattr(quantise_module, "ONNX_WEIGHTED", ("Conv", "Concat", "Mul", "Sigmoid", "Sub", "Add", "Softmax"))
    assert int8(place, tmp_path) == 2
    error = capsys.readouterr().err
    assert "expected INT8 to lose at most 0.5 points of mAP50-95" in error and error.count("error:") == 1
    assert not list(tmp_path.iterdir())
    assert int8(place, tmp_path, "--max-loss", "none") == 0, "the limit is what failed"
    facts = read_metadata(tmp_path / "best-int8.onnx")["int8"]
    assert facts["mAP50-95"]["difference"] < -0.3


def test_without_the_check_nothing_is_measured(place: Path, tmp_path: Path) -> None:
    assert int8(place, tmp_path / "mine.onnx", "--no-check", "--calibration-images", "2", "--nms", "--batch", "2") == 0
    facts = read_metadata(tmp_path / "mine.onnx")["int8"]
    assert facts == {"calibrated_on": "data.yaml", "calibration_images": 2}
    backend, _ = open_backend(tmp_path / "mine.onnx", torch.device("cpu"))
    assert tuple(backend(torch.rand(2, 3, SIZE, SIZE)).shape) == (2, 300, 6)


def test_int8_openvino(place: Path, tmp_path: Path, capsys) -> None:
    pytest.importorskip("nncf")
    assert int8(place, tmp_path, "--max-loss", "30", formats="openvino") == 0
    folder = tmp_path / "best_int8_openvino_model"
    assert sorted(path.suffix for path in folder.iterdir()) == [".bin", ".xml", ".yaml"]
    told = read_metadata(folder)
    assert told["names"] == NAMES and told["int8"]["calibration_images"] == 10
    assert told["int8"]["mAP50"]["int8"] > 0.6 and "FakeQuantize" in next(folder.glob("*.xml")).read_text()


def test_on_a_processor_with_bfloat16_openvino_is_measured_in_it_too(place: Path, tmp_path: Path, monkeypatch) -> None:
    """The float32 export stands for its INT8 form too: what is said of each column is by the way it was run."""
    assert run(place, tmp_path, "--no-check", formats="openvino") == 0
    folder, asked = tmp_path / "best_openvino_model", []
    original = int8_table.evaluate
    monkeypatch.setattr(int8_table, "openvino_has_bfloat16", lambda: True)
    monkeypatch.setattr(int8_table, "evaluate", lambda *a, **k: asked.append(k["precision"]) or original(*a, **k))
    options = ExportOptions(weights=str(place / "best.pt"), data=str(place / "data.yaml"))
    images = np.random.default_rng(0).random((1, 3, SIZE, SIZE), np.float32)
    measured = int8_table.measure(folder, folder, images, options.data, options.batch, tmp_path)
    assert asked == ["fp32", "bf16", "fp32", "bf16"]
    assert list(measured.milliseconds) == ["float32", "bfloat16", "INT8", "INT8+bf16"]
    assert all(0 < ms < 1000 for ms in measured.milliseconds.values()) and measured.images == 12
    scores = measured.scores["mAP50-95"]
    assert scores["float32"] == scores["INT8"] > 0.5 and scores["bfloat16"] == scores["INT8+bf16"]
    assert scores["bfloat16"] == pytest.approx(scores["float32"], abs=0.1)


def test_a_missing_nncf_is_told_with_the_pip_line(place: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    import engine.locate as module

    find = module.importlib.util.find_spec
    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None if name == "nncf" else find(name))
    assert int8(place, tmp_path, formats="onnx,openvino") == 2
    assert "pip install nncf" in capsys.readouterr().err and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("formats", "more", "expected"),
    [
        ("onnx", ("--int8",), "expected --data, got none"),
        ("onnx", ("--data", "neu-det.yaml"), "with --int8 only"),
        ("onnx,torchscript", ("--int8", "--data", "DATA"), "leave torchscript out"),
        ("onnx", ("--int8", "--data", "DATA", "--half"), "leave --half out"),
        ("onnx", ("--int8", "--data", "nowhere.yaml"), "nowhere.yaml"),
        ("onnx", ("--int8", "--data", "EMPTY"), "expected training images to calibrate on"),
        ("onnx", ("--int8", "--data", "OTHER"), "expected the class names of"),
    ],
)
def test_wrong_arguments_exit_2_and_write_nothing(place: Path, tmp_path: Path, capsys, formats, more, expected) -> None:
    for name, classes in (("EMPTY", list(NAMES.values())), ("OTHER", ["a", "b", "c"])):
        folder = tmp_path / name
        for part in ("train", "val"):
            (folder / "images" / part).mkdir(parents=True)
        (folder / "data.yaml").write_text(f"train: images/train\nval: images/val\nnames: {classes}\n")
    paths = {"DATA": place, "EMPTY": tmp_path / "EMPTY", "OTHER": tmp_path / "OTHER"}
    given = [str(paths[word] / "data.yaml") if word in paths else word for word in more]
    assert run(place, tmp_path / "out", *given, formats=formats) == 2
    assert expected in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_names_of_int8_files() -> None:
    assert target_path(Path("a/best.pt"), "onnx", None, 1, int8=True) == Path("a/best-int8.onnx")
    assert target_path(Path("a/best.pt"), "openvino", "out", 2, int8=True) == Path("out/best_int8_openvino_model")
    assert target_path(Path("a/best.pt"), "onnx", "out/x.onnx", 1, int8=True) == Path("out/x.onnx")
