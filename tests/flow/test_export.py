"""export.py: what it writes says the same as PyTorch, and what does not is not written."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from tiny import NAMES, SIZE, save_tiny, stock_detector, write_image

import detect
import export
import val
from cfg.errors import UserError, guard
from cfg.version import VERSION
from engine.backend import openvino_has_bfloat16
from engine.export.exporter import check_student_only, target_path
from engine.export.parity import FLOAT32, batches, check_images, check_sizes, nms_difference, raw_difference
from engine.weights import open_backend, read_metadata

from ultralytics.nn.modules.head import Detect

FILES = {"onnx": "best.onnx", "torchscript": "best.torchscript", "openvino": "best_openvino_model"}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("weights") / "best.pt")


@pytest.fixture(scope="module")
def exported(weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder with a fixed-size export in every format."""
    folder = tmp_path_factory.mktemp("exported")
    assert run(weights, folder, ",".join(FILES)) == 0
    return folder


def run(weights: Path, out: Path, formats: str, *more: str) -> int:
    return guard(lambda: export.main(["--weights", str(weights), "--out", str(out), "--format", formats, *more]))


@pytest.mark.parametrize("name", FILES)
def test_file_says_the_same_and_tells_its_origin(exported: Path, name: str) -> None:
    path = exported / FILES[name]
    content = read_metadata(path)
    assert content["names"] == NAMES and content["imgsz"] == [SIZE, SIZE] and content["task"] == "detect"
    assert content["stride"] == 16 and content["batch"] == 1 and content["date"]
    assert content["trained_on"] == "steel.yaml"
    assert content["versions"]["tandem"] == VERSION and content["versions"]["torch"] == torch.__version__
    assert ("opset" in content["versions"]) == (name == "onnx")
    backend, size = open_backend(path, torch.device("cpu"))
    assert size == [SIZE, SIZE] and backend.names == NAMES
    inputs = torch.rand(1, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(1))
    output = backend(inputs)
    output = output[0] if isinstance(output, list) else output
    with torch.no_grad():
        expected = stock_detector()(inputs)[0]
    difference = raw_difference(expected, output, SIZE)
    assert difference.pixels < 0.01, difference


@pytest.mark.parametrize("name", FILES)
def test_detect_finds_the_same_with_the_export(weights: Path, exported: Path, tmp_path: Path, name: str) -> None:
    for seed in range(3):
        write_image(tmp_path / f"images/{seed}.png", seed)
    found = []
    for model, batch in ((weights, "1"), (exported / FILES[name], "2")):
        arguments = ["--weights", str(model), "--source", str(tmp_path / "images"), "--project", str(tmp_path)]
        options = ["--name", "run", "--exist-ok", "--save-json", "--conf", "0.1", "--no-draw", "--batch", batch]
        options += ["--device", "cpu"]
        assert detect.main([*arguments, *options]) == 0
        found.append(json.loads((tmp_path / "run/results.json").read_text(encoding="utf-8"))["images"])
    images = zip(*found, strict=True)
    pairs = [pair for one, two in images for pair in zip(one["detections"], two["detections"], strict=True)]
    assert len(pairs) > 5
    for one, two in pairs:
        assert one["class"] == two["class"]
        assert list(one["box"].values()) == pytest.approx(list(two["box"].values()), abs=0.02)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("flags", [(), ("--half",), ("--precision", "bf16")], ids=" ".join)
def test_arithmetic_is_float32_unless_16_bits_are_asked_for_and_there(exported: Path, tmp_path, capsys, name, flags) -> None:
    write_image(tmp_path / "image.png", 0)
    arguments = ["--weights", str(exported / FILES[name]), "--source", str(tmp_path / "image.png"), "--no-draw"]
    assert detect.main([*arguments, "--project", str(tmp_path), "--device", "cpu", *flags]) == 0
    possible = name == "openvino" and openvino_has_bfloat16()
    assert ("not possible with these weights" in capsys.readouterr().out) == (bool(flags) and not possible)
    precision = {(): "fp32", ("--half",): "half"}.get(flags, "bf16")
    backend, _ = open_backend(exported / FILES[name], torch.device("cpu"), precision)
    assert backend.computes_in == ("bf16" if flags and possible else "fp32")


def test_openvino_reports_nothing(exported: Path) -> None:
    telemetry = sys.modules["openvino.tools.ovc"].telemetry
    assert type(telemetry).__module__ == "openvino.tools.ovc.telemetry_stub" and sys.modules["openvino_telemetry"] is None


def test_half_and_precision_exclude_each_other() -> None:
    for program, where in ((detect, "--source"), (val, "--data")):
        with pytest.raises(UserError, match="not allowed with"):
            program.parse(["--weights", "a", where, "b", "--half", "--precision", "bf16"])


@pytest.mark.parametrize("name", FILES)
def test_dynamic_export_is_checked_at_several_sizes(weights: Path, tmp_path: Path, capsys, name: str) -> None:
    assert run(weights, tmp_path, name, "--dynamic") == 0
    printed = capsys.readouterr().out
    for size in ("2x64x64", "2x32x64", "2x80x64", "2x32x48", "2x16x16"):
        assert f"at {size}:" in printed
    assert read_metadata(tmp_path / FILES[name])["args"]["dynamic"] is True


def test_options_of_onnx(weights: Path, tmp_path: Path, capsys) -> None:
    images = [write_image(tmp_path / f"real/{seed}.png", seed, 48, 80) for seed in range(2)]
    more = ("--check-images", str(images[0].parent), "--imgsz", "50,90")
    assert run(weights, tmp_path / "half.onnx", "onnx", "--half", "--no-simplify", "--opset", "17", *more) == 0
    assert "using [64, 96]" in capsys.readouterr().out
    content = read_metadata(tmp_path / "half.onnx")
    assert content["versions"]["opset"] == 17 and content["args"]["quantize"] == 16 and content["imgsz"] == [64, 96]
    assert run(weights, tmp_path / "b2.onnx", "onnx", "--batch", "2", *more) == 0
    assert read_metadata(tmp_path / "b2.onnx")["batch"] == 2
    assert run(weights, tmp_path / "nms.onnx", "onnx", "--nms", "--conf", "0.2", *more) == 0
    printed = capsys.readouterr().out
    assert "detections" in printed and "no detection above" not in printed
    backend, _ = open_backend(tmp_path / "nms.onnx", torch.device("cpu"))
    assert tuple(backend(torch.rand(1, 3, 64, 96))[0].shape[-2:]) == (300, 6)


@pytest.mark.parametrize("name", FILES)
def test_a_wrong_export_fails_and_leaves_nothing(weights: Path, tmp_path: Path, monkeypatch, capsys, name: str) -> None:
    forward = Detect.forward

    def shifted(self: Detect, x):
        y = forward(self, x)
        return y + 0.02 if self.export else y  # twice the limit in pixels

    monkeypatch.setattr(Detect, "forward", shifted)
    (tmp_path / "out").mkdir()
    assert run(weights, tmp_path / "out", name) == 2
    error = capsys.readouterr().err
    assert "expected boxes within 0.01 px" in error and error.count("error:") == 1
    assert not list((tmp_path / "out").iterdir())
    assert run(weights, tmp_path / "out", name, "--no-check") == 0, "the check is not what failed"


def test_a_failed_export_keeps_the_older_file(weights: Path, tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "best.onnx").write_text("older")
    assert run(weights, tmp_path, "onnx", "--opset", "3") == 2
    assert [path.name for path in tmp_path.iterdir()] == ["best.onnx"]
    assert (tmp_path / "best.onnx").read_text() == "older"


def test_a_folder_is_replaced_whole(weights: Path, tmp_path: Path) -> None:
    (tmp_path / "best_openvino_model").mkdir()
    (tmp_path / "best_openvino_model/stale.xml").touch()
    assert run(weights, tmp_path, "openvino", "--no-check") == 0
    made = sorted(path.name for path in (tmp_path / "best_openvino_model").iterdir())
    assert made == ["best.bin", "best.xml", "metadata.yaml"]
    assert [p.name for p in tmp_path.iterdir()] == ["best_openvino_model"]


@pytest.mark.parametrize(
    ("formats", "more", "expected"),
    [
        ("onxx", (), "did you mean 'onnx'"),
        ("torchscript", ("--half",), "FP16 TorchScript export is only supported on GPU"),
        ("onnx", ("--check-images", "nowhere"), "nothing is there"),
        ("onnx", ("--device", "77"), "--device 77"),
    ],
)
def test_wrong_arguments_exit_2(weights: Path, tmp_path: Path, capsys, formats: str, more, expected: str) -> None:
    assert run(weights, tmp_path / "out", formats, *more) == 2
    error = capsys.readouterr().err
    assert expected in error and not list(tmp_path.rglob("*.*"))


def test_a_missing_package_is_told_with_the_pip_line(weights: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    import engine.locate as module

    monkeypatch.setattr(module.importlib.util, "find_spec", lambda name: None)
    assert run(weights, tmp_path, "openvino") == 2
    assert "pip install openvino" in capsys.readouterr().err


def test_exported_weights_are_not_exported_again(exported: Path, tmp_path: Path, capsys) -> None:
    assert run(exported / "best.onnx", tmp_path, "onnx") == 2
    assert "expected a .pt file" in capsys.readouterr().err


def test_no_teacher_and_no_adapter() -> None:
    detector = stock_detector()
    check_student_only(detector, Path("best.pt"))
    detector.teacher = torch.nn.Linear(1, 1)
    with pytest.raises(UserError, match="teacher.weight"):
        check_student_only(detector, Path("best.pt"))


def test_target_paths() -> None:
    assert target_path(Path("a/best.pt"), "openvino", None, 1) == Path("a/best_openvino_model")
    assert target_path(Path("a/best.v2.pt"), "onnx", "out", 2) == Path("out/best.v2.onnx")
    assert target_path(Path("a/best.pt"), "onnx", "out/x.onnx", 1) == Path("out/x.onnx")
    for name, count in (("torchscript", 1), ("onnx", 2)):
        with pytest.raises(UserError, match="give a folder"):
            target_path(Path("a/best.pt"), name, "out/x.onnx", count)


def test_raw_difference_by_hand() -> None:
    # Two anchors: one visible (score 0.5) that moves by 0.004 px, one dead (0.0005) that moves by 0.03 px and is 200 px
    # wide in an input of 100 px: it counts half, 0.015.
    reference = torch.tensor([[[10.0, 50.0], [10.0, 50.0], [20.0, 200.0], [20.0, 20.0], [0.5, 0.0005]]])
    moved = reference + torch.tensor([[[0.004, 0.03], [0.0, 0.0], [0.0, 0.0], [0.0, 0.0], [0.0002, 0.0]]])
    difference = raw_difference(reference, moved, side=100)
    assert difference.pixels == pytest.approx(0.03, rel=1e-3)
    assert difference.scaled_pixels == pytest.approx(0.015, rel=1e-3)
    assert difference.visible_pixels == pytest.approx(0.004, rel=1e-3)
    assert (difference.anchors, difference.visible) == (2, 1)
    assert difference.score == pytest.approx(0.0002, rel=1e-3) and not difference.within(FLOAT32)
    assert raw_difference(reference, reference, 100).within(FLOAT32)
    assert not raw_difference(reference, reference * float("nan"), 100).within(FLOAT32)
    with pytest.raises(UserError, match="shape"):
        raw_difference(reference, reference[..., :1], 100)


def test_nms_difference_by_hand() -> None:
    # Eight anchors, one above the threshold: centre (30, 30), 20 x 20 -> corners 20, 20, 40, 40.
    reference = torch.zeros(1, 6, 8)
    reference[0, :, 0] = torch.tensor([30.0, 30.0, 20.0, 20.0, 0.1, 0.8])
    exported = torch.zeros(1, 3, 6)
    exported[0, 0] = torch.tensor([20.0, 20.0, 40.005, 40.0, 0.8, 1.0])

    def difference() -> float:
        return nms_difference(reference, exported, 0.25, 0.45, 300, FLOAT32).pixels

    assert difference() == pytest.approx(0.005, rel=0.01)
    exported[0, 0, 5] = 0.0  # another class: no partner
    assert difference() == float("inf")
    exported[0, 0] = 0.0  # missing
    assert difference() == float("inf")


def test_check_sizes_and_batches() -> None:
    assert check_sizes([640, 640], 32, dynamic=False) == [[640, 640]]
    sizes = check_sizes([640, 640], 128, dynamic=True)
    assert sizes == [[640, 640], [256, 640], [768, 640], [256, 384], [128, 128]]
    assert all(side % 128 == 0 for size in sizes for side in size)
    made = list(batches(check_images(None), [64, 96], 2))
    assert [tuple(batch.shape) for batch in made] == [(2, 3, 64, 96)] and made[0].min() >= 0 and made[0].max() <= 1
    assert not torch.equal(made[0][0], made[0][1])
