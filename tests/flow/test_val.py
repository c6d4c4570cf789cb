"""Validation from end to end on a tiny model and a few synthetic images."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

import models  # noqa: F401  (before ultralytics)
import val
from cfg import UserError, guard
from engine.checkpoint import load_detector, save_student
from engine.validation import evaluate as evaluation
from engine.validation.evaluate import evaluate
from engine.validation.validator import Validator
from tests.flow.tiny import NAMES, save_tiny

from ultralytics.nn.tasks import DetectionModel

ROOT = Path(__file__).resolve().parents[2]
TINY = {
    "nc": 2,
    "backbone": [[-1, 1, "Conv", [8, 3, 4]], [-1, 1, "Conv", [8, 3, 4]], [-1, 1, "Conv", [8, 3, 2]]],
    "head": [[[1, 2], 1, "Detect", ["nc"]]],
}
LABELS = "0 .5 .5 .4 .4\n1 .15 .2 .1 .2\n"  # on 160 x 100 pixels: 64 x 40 (medium) and 16 x 20 (small)


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with best.pt, exported models and data.yaml (5 images of 160 x 100, one of them without boxes)."""
    folder = tmp_path_factory.mktemp("val")
    rng = np.random.default_rng(0)
    for kind in ("images", "labels"):
        (folder / kind).mkdir()
    for number in range(5):
        cv2.imwrite(str(folder / f"images/{number}.png"), rng.integers(0, 255, (100, 160, 3), dtype=np.uint8))
        (folder / f"labels/{number}.txt").write_text(LABELS if number else "")
    (folder / "data.yaml").write_text("val: images\nnames: [scratch, pit]\n")
    torch.manual_seed(0)
    model = DetectionModel(TINY, verbose=False)
    model.names = {0: "scratch", 1: "pit"}
    save_student(folder / "best.pt", model, {"train_args": {"imgsz": 96}})
    return folder


class Oracle(Validator):
    """Finds exactly what is labelled, in the coordinates of the network's input."""

    def preprocess(self, batch):
        self.labels = super().preprocess(batch)
        return self.labels

    def postprocess(self, preds):
        found = []
        for index in range(len(self.labels["img"])):
            truth = self._prepare_batch(index, self.labels)
            boxes = truth["bboxes"].reshape(-1, 4)
            scores = torch.full((len(boxes),), 0.9)
            found.append({"bboxes": boxes, "conf": scores, "cls": truth["cls"], "extra": boxes[:, :0]})
        return found


def test_perfect_detections_score_one(place, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluation, "Validator", Oracle)
    options = dict(device="cpu", plots=False, save_dir=tmp_path / "run")
    got = evaluate(place / "best.pt", place / "data.yaml", **options)
    for name in ("mAP50", "mAP50-95", "AP75", "AR1", "AR10", "AR100", "AP_small", "AP_medium"):
        assert got["metrics"][name] == pytest.approx(1.0), name
    assert got["metrics"]["AP_large"] is None  # sizes are those of the original images
    assert got["metrics"]["F1"] == pytest.approx(1.0, abs=1e-3)
    rows = [(row["name"], row["boxes"], row["AP50-95"]) for row in got["per_class"]]
    assert rows == [("scratch", 4, 1.0), ("pit", 4, 1.0)]
    assert got["ultralytics"]["mAP50-95"] == pytest.approx(0.995)
    assert got["settings"]["imgsz"] == 96 and got["settings"]["images"] == 5  # the size it was trained with


@pytest.mark.parametrize("border", [False, True])
def test_images_have_a_grey_border_only_where_asked(place, tmp_path, monkeypatch, border):
    seen = []

    class Looking(Oracle):
        def preprocess(self, batch):
            seen.append(super().preprocess(batch)["img"][0])
            return self.labels

    monkeypatch.setattr(evaluation, "Validator", Looking)
    evaluate(place / "best.pt", place / "data.yaml", device="cpu", plots=False, save_dir=tmp_path / "run", border=border)
    stride, grey = 32, 114 / 255  # 160 x 100 pixels at 96: 96 x 60, on 96 x 64 (or 128 x 96)
    assert tuple(seen[0].shape) == (3, *((3 * stride, 4 * stride) if border else (2 * stride, 3 * stride)))
    edge = seen[0][:, :, 0]
    assert bool(torch.isclose(edge, torch.tensor(grey), atol=1e-3).all()) == border


def test_a_model_of_one_class_reads_all_classes_of_its_data_as_one(place, tmp_path, monkeypatch, capsys):
    torch.manual_seed(0)
    model = DetectionModel({**TINY, "nc": 1}, verbose=False)
    model.names = {0: "item"}
    save_student(tmp_path / "single.pt", model, {"train_args": {"imgsz": 96, "single_cls": True}})
    monkeypatch.setattr(evaluation, "Validator", Oracle)
    got = evaluate(tmp_path / "single.pt", place / "data.yaml", device="cpu", plots=False, save_dir=tmp_path / "run")
    assert [(row["name"], row["boxes"], row["AP50-95"]) for row in got["per_class"]] == [("item", 8, 1.0)]
    assert "trained with single_cls: the 2 classes of" in capsys.readouterr().err


def test_boxes_are_kept_in_original_pixels(place, tmp_path, monkeypatch):
    kept = []

    class Keeper(Oracle):
        def finalize_metrics(self):
            super().finalize_metrics()
            kept.append(self)

    monkeypatch.setattr(evaluation, "Validator", Keeper)
    evaluate(place / "best.pt", place / "data.yaml", device="cpu", plots=False, save_dir=tmp_path / "run")
    expected = np.array([[48, 30, 112, 70], [16, 10, 32, 30]])
    labelled = [t for t in kept[0].truths if len(t.classes)]
    assert len(labelled) == 4
    for truth in labelled:
        np.testing.assert_allclose(truth.boxes_xyxy, expected, atol=0.01)


def test_command_line_prints_json_only_and_saves_plots(place, tmp_path):
    command = [sys.executable, ROOT / "val.py", "--weights", place / "best.pt", "--data", place / "data.yaml"]
    more = ["--device", "cpu", "--imgsz", "100", "--json", "-"]
    done = subprocess.run([*command, *more], cwd=tmp_path, capture_output=True, text=True, check=True)
    got = json.loads(done.stdout)
    assert "100 is not a multiple of the model's stride 32: using 128" in done.stderr
    assert got["settings"]["imgsz"] == 128
    assert got["model"]["parameters"] > 0 and got["model"]["gflops"] > 0
    speed = got["speed"]
    assert speed["fps"] > 0 and min(speed["preprocess_ms"], speed["inference_ms"], speed["postprocess_ms"]) >= 0
    saved = {p.name for p in (tmp_path / "runs/val/exp").iterdir()}
    assert {"BoxPR_curve.png", "BoxF1_curve.png", "confusion_matrix.png", "data.yaml"} <= saved


def test_table_and_numbered_folder(place, tmp_path, monkeypatch, capsys):
    (tmp_path / "runs/val/exp").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    arguments = ["--weights", str(place / "best.pt"), "--data", str(place / "data.yaml"), "--json", "result.json"]
    monkeypatch.setattr(sys, "argv", ["val.py", *arguments, "--no-plots", "--device", "cpu"])
    assert val.main() == 0
    printed = capsys.readouterr().out
    for text in ("AP50-95", "scratch", "pit", "AR100", "GFLOPs at 640", "FPS"):
        assert text in printed
    assert json.loads((tmp_path / "result.json").read_text())["settings"]["save_dir"] == str(tmp_path / "runs/val/exp-2")


@pytest.mark.parametrize("kind", ["torchscript", "onnx", "openvino"])
def test_exported_model_is_validated(place, tmp_path, kind):
    pytest.importorskip({"torchscript": "torch", "onnx": "onnxruntime", "openvino": "openvino"}[kind])
    from ultralytics.engine.exporter import Exporter

    model, _ = load_detector(place / "best.pt")
    model.pt_path = str(tmp_path / "best.pt")
    exported = Exporter(overrides={"format": kind, "imgsz": 96, "batch": 1, "device": "cpu"})(model=model)
    options = dict(data=place / "data.yaml", device="cpu", plots=False, conf=0.0001)
    got = evaluate(exported, save_dir=tmp_path / "a", **options)
    assert got["model"]["parameters"] is None and got["model"]["gflops"] is None and got["model"]["size_mb"] > 0
    assert got["settings"]["imgsz"] == 96 and got["speed"]["fps"] > 0
    assert [row["name"] for row in got["per_class"]] == ["scratch", "pit"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights": "gone.pt"}, r"gone\.pt.*nothing is there"),
        ({"weights": "gone.onnx"}, r"gone\.onnx.*nothing is there"),
        ({"weights": "broken.onnx"}, r"broken\.onnx.*cannot be loaded"),
        ({"data": "other.yaml"}, r"other\.yaml.*class 1 is 'dent' in the data, 'pit' in the model"),
        ({"data": "more.yaml"}, r"more\.yaml.*3 classes in the data, 2 in the model"),
        ({"split": "test"}, r"data\.yaml.*test"),
        ({"data": "nothing.yaml"}, r"nothing\.yaml.*labelled boxes"),
        ({"device": "99"}, r"--device.*99"),
    ],
)
def test_bad_input(place, tmp_path, monkeypatch, change, message):
    monkeypatch.chdir(tmp_path)
    Path("broken.onnx").write_bytes(b"nothing")
    Path("images").mkdir()
    cv2.imwrite("images/0.png", np.zeros((50, 50, 3), np.uint8))
    Path("other.yaml").write_text(f"path: {place}\nval: images\nnames: [scratch, dent]\n")
    Path("more.yaml").write_text(f"path: {place}\nval: images\nnames: [scratch, pit, dent]\n")
    Path("nothing.yaml").write_text(f"path: {tmp_path}\nval: images\nnames: [scratch, pit]\n")
    options = {"weights": place / "best.pt", "data": place / "data.yaml", "device": "cpu", "plots": False}
    with pytest.raises(UserError, match=message):
        evaluate(**(options | change), save_dir=tmp_path / "run")


def test_damaged_labels_are_counted_and_the_status_says_so(place, tmp_path, monkeypatch, caplog):
    caplog.set_level("INFO")
    for number, text in enumerate([LABELS, "0 .5 .5\n"]):  # the second has too few columns
        (tmp_path / "images").mkdir(exist_ok=True)
        (tmp_path / "labels").mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / f"images/{number}.png"), np.full((50, 50, 3), number, np.uint8))
        (tmp_path / f"labels/{number}.txt").write_text(text)
    (tmp_path / "data.yaml").write_text("val: images\nnames: [scratch, pit]\n")
    options = dict(device="cpu", plots=False, save_dir=tmp_path / "run")
    got = evaluate(place / "best.pt", tmp_path / "data.yaml", **options)
    assert (got["settings"]["images"], got["settings"]["images_dropped"]) == (1, 1)
    assert f"left out {tmp_path}/images/1.png: {tmp_path}/labels/1.txt:1: expected 5 columns" in caplog.text
    arguments = ["--weights", str(place / "best.pt"), "--data", str(tmp_path / "data.yaml"), "--device", "cpu"]
    monkeypatch.setattr(sys, "argv", ["val.py", *arguments, "--no-plots", "--save-dir", str(tmp_path / "again")])
    assert val.main() == 1


def test_unwritable_run_folder(place, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot be written"):
        evaluate(place / "best.pt", place / "data.yaml", device="cpu", save_dir=tmp_path / "file/run")


def test_error_is_one_line_and_status_two(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["val.py", "--weights", "gone.pt", "--data", "x.yaml"])
    assert guard(val.main) == 2
    assert capsys.readouterr().err.strip().splitlines()[-1].startswith("error: --weights gone.pt")
    assert not (tmp_path / "runs").exists()


def test_a_damaged_image_of_the_users_is_left_as_it_is(place, tmp_path, monkeypatch):
    for kind in ("images", "labels"):
        (tmp_path / kind).mkdir()
    cv2.imwrite(str(tmp_path / "images/0.jpg"), np.full((64, 64, 3), 90, dtype=np.uint8))
    image = tmp_path / "images/0.jpg"
    image.write_bytes(image.read_bytes() + b"\0\0")  # no end marker at its end: ultralytics would write it anew
    before = image.read_bytes()
    (tmp_path / "labels/0.txt").write_text(LABELS)
    (tmp_path / "data.yaml").write_text("val: images\nnames: [scratch, pit]\n")
    given = ["--weights", str(place / "best.pt"), "--data", str(tmp_path / "data.yaml"), "--device", "cpu"]
    monkeypatch.setattr(sys, "argv", ["val.py", *given, "--save-dir", str(tmp_path / "run"), "--no-plots"])
    assert val.main() == 0 and image.read_bytes() == before


def test_a_split_without_an_image_that_can_be_read(place, tmp_path):
    for kind in ("images", "labels"):
        (tmp_path / kind).mkdir()
    (tmp_path / "images/0.jpg").write_bytes(b"no image")
    (tmp_path / "labels/0.txt").write_text(LABELS)
    (tmp_path / "data.yaml").write_text("val: images\nnames: [scratch, pit]\n")
    with pytest.raises(UserError, match="expected images that can be used, got none .*0.jpg: not a readable image"):
        evaluate(place / "best.pt", tmp_path / "data.yaml", device="cpu", plots=False, save_dir=tmp_path / "run")


def test_validator_takes_our_training_arguments(tmp_path):
    made = Validator(save_dir=tmp_path, args={"teacher": "t.pt", "imgsz": 64})
    assert made.args.imgsz == 64 and not hasattr(made.args, "teacher")


def test_val_does_not_replace_the_data_yaml_that_it_reads(tmp_path, monkeypatch, capsys):
    """Nor does it end with 0 where a comparison left images out, or in a traceback for images that OpenCV alone does not read."""
    weights = save_tiny(tmp_path / "best.pt")
    for number in range(3):
        grey = np.random.default_rng(number).random((64, 64)).astype(np.float32)
        (tmp_path / "images").mkdir(exist_ok=True)
        assert cv2.imwrite(str(tmp_path / f"images/{number}.tif"), grey)
        (tmp_path / "labels").mkdir(exist_ok=True)
        (tmp_path / f"labels/{number}.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    text = f"# mine\ntrain: images\nval: images\nnames: {list(NAMES.values())}\n"
    (tmp_path / "data.yaml").write_text(text)
    given = ["--data", tmp_path / "data.yaml", "--device", "cpu", "--no-plots"]

    def command(*words):
        monkeypatch.setattr(sys, "argv", ["val.py", *map(str, words)])
        return guard(val.main)

    assert command(*given, "--weights", weights, "--save-dir", tmp_path) == 2
    assert "expected a folder of its own" in capsys.readouterr().err and (tmp_path / "data.yaml").read_text() == text
    for _ in range(2):  # its own, again
        assert command(*given, "--weights", weights, "--save-dir", tmp_path / "run") == 0
    (tmp_path / "training").mkdir()
    (tmp_path / "training/data.yaml").write_text(text)
    assert command(*given, "--weights", weights, "--save-dir", tmp_path / "training") == 2
    assert (tmp_path / "training/data.yaml").read_text() == text
    (tmp_path / "images/broken.png").write_bytes(b"no image")
    assert command(*given, "--compare", weights, weights, "--save-dir", tmp_path / "both") == 1
    assert {path.name for path in (tmp_path / "both").iterdir()} == {"a", "b"}
