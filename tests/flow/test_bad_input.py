"""Each mistake a person can make ends in one line that names it and the fix, status 2, and nothing half-written."""

from __future__ import annotations

import errno
import re
import resource
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from tiny import SIZE, TRAINING, results, save_tiny, training, write_data, write_image, write_model

import detect
import export
import train
import val
from cfg import UserError, guard
from engine import checkpoint
from engine.checkpoint import save_student
from engine.training import trainer
from engine.training.launch import train as run_training
from models.detector import Detector

TOP = """nc: 2
anchors: [[10, 12, 16, 14], [24, 30, 40, 36]]
backbone: [[-1, 1, Conv, [8, 3, 2]], [-1, 1, Conv, [8, 3, 2]], [-1, 1, Conv, [16, 3, 2]], [-1, 1, Conv, [16, 3, 2]]]
"""
MODELS = {
    "block.yaml": TOP + "head: [[-1, 1, Convv, [8, 3, 1]], [[2, 3], 1, AnchorDetect, [nc, anchors, coupled]]]",
    "argument.yaml": TOP + "head: [[-1, 1, Conv, [8, three, 1]], [[2, 3], 1, AnchorDetect, [nc, anchors, coupled]]]",
    "many.yaml": TOP + "head: [[-1, 1, SPP, [8, [5], 1, 2, 3, 4]], [[2, 3], 1, AnchorDetect, [nc, anchors, coupled]]]",
    "sizes.yaml": TOP + "head: [[[1, 3], 1, Concat, [1]], [[2, 3], 1, AnchorDetect, [nc, anchors, coupled]]]",
    "anchors.yaml": TOP + "head: [[[1, 2, 3], 1, AnchorDetect, [nc, anchors, coupled]]]",
    "rows.yaml": "nc: 2\nbackbone: []\nhead: []\n",
    "text.yaml": "just text",
    "broken.yaml": "nc: [",
    "coarse.yaml": TOP.replace("anchors: [[10, 12, 16, 14], [24, 30, 40, 36]]", "anchors: [[10, 12, 16, 14]]")
    + "head: [[-1, 1, Conv, [16, 3, 2]], [[4], 1, AnchorDetect, [nc, anchors, coupled]]]",
    "code.yaml": "nc: 2\nactivation: \"__import__('pathlib').Path('ran').touch()\"\n"
    "backbone: [[-1, 1, Conv, [8, 3, 2]]]\nhead: [[[0], 1, Detect, [nc]]]\n",
    "download.yaml": "nc: 2\nbackbone: [[-1, 1, TorchVision, [512, resnet18, DEFAULT, True, 2]]]\n"
    "head: [[[0], 1, Detect, [nc]]]\n",
    "stockargs.yaml": "nc: 2\nbackbone: [[-1, 1, Conv, [8, three, 2]]]\nhead: [[[0], 1, Detect, [nc]]]\n",
    "stock.yaml": "nc: 2\nbackbone: [[-1, 1, Conv, [8, 3, 2]], [-1, 1, Conf, [8]]]\nhead: [[[1], 1, Detect, [nc]]]",
}  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with a good data set and model, and one of everything that is wrong."""
    folder = tmp_path_factory.mktemp("bad")
    write_data(folder)
    write_model(folder / "model.yaml")
    for name, text in MODELS.items():
        (folder / name).write_text(text)
    (folder / "empty.pt").write_bytes(b"")
    (folder / "noise.pt").write_bytes(bytes(range(256)) * 20)
    good = Detector(folder / "model.yaml", names={0: "dark", 1: "bright"})
    save_student(folder / "good.pt", good, {"train_args": {"imgsz": SIZE}})
    (folder / "half.pt").write_bytes((folder / "good.pt").read_bytes()[:5000])
    save_student(folder / "coarse.pt", Detector(folder / "coarse.yaml", names={0: "dark", 1: "bright"}), {})
    save_tiny(folder / "three.pt")
    torch.save({"a": 1}, folder / "plain.pt")
    (folder / "file").write_text("")
    (folder / "temperature.yaml").write_text("method: attention\ntemperature: warm\n")
    (folder / "option.yaml").write_text("method: attention\ntemprature: 20\n")
    _bad_data(folder)
    return folder


def _bad_data(folder: Path) -> None:
    text = (folder / "data.yaml").read_text()
    (folder / "gone.yaml").write_text(text.replace("images/train", "images/nowhere"))
    (folder / "names.yaml").write_text("train: images/train\nval: images/val\n")
    (folder / "grey.yaml").write_text(text + "channels: 1\n")
    wrong = {"columns": "0 .5 .5 .2\n", "class": "2 .5 .5 .2 .2\n", "range": "0 50 50 20 20\n", "nobox": ""}
    for name, label in wrong.items():
        for kind in ("images", "labels"):
            for part in ("train", "val"):
                (folder / name / kind / part).mkdir(parents=True)
        for part in ("train", "val"):
            write_image(folder / name / f"images/{part}/0.png", seed=1)
            (folder / name / f"labels/{part}/0.txt").write_text(label)
        (folder / name / "data.yaml").write_text(text)


CASES = [
    ("teacher=gone.pt", r"gone\.pt: weights file not found"),
    ("teacher=empty.pt", r"empty\.pt: expected a checkpoint, got an empty file"),
    ("teacher=noise.pt", r"noise\.pt: "),
    ("teacher=half.pt", r"half\.pt: "),
    ("teacher=plain.pt", r"plain\.pt: expected a checkpoint with a model"),
    ("teacher=nowhere.yaml", r"'nowhere\.yaml' not found"),
    ("teacher=code.yaml", r"code\.yaml: refused, activation .*is not a torch\.nn layer"),
    ("teacher=three.pt", r"knows 3 classes, student model\.yaml 2"),
    ("teacher=coarse.pt", r"no common stride: student model\.yaml has strides \[8, 16\], teacher .*coarse\.pt \[32\]"),
    ("teacher=good.pt distill=foo", r"'foo' not found.*attention\.yaml"),
    ("teacher=good.pt distill=temperature.yaml", r"temperature.*'warm'"),
    ("teacher=good.pt distill=option.yaml", r"unknown option 'temprature'; did you mean 'temperature'"),
    ("teacher=good.pt adaptive=stabel", r"adaptive: expected one of stable, paper, .*did you mean 'stable'"),
    ("teacher=good.pt teacher_init=perhaps", r"teacher_init: expected select, True or False, got 'perhaps'"),
    ("weights=gone.pt", r"gone\.pt: weights file not found"),
    ("weights=noise.pt", r"noise\.pt: "),
    ("weights=plain.pt", r"plain\.pt: expected a checkpoint with named tensors"),
    ("model=nowhere.yaml", r"'nowhere\.yaml' not found"),
    ("model=good.pt", r"--cfg .*good\.pt: expected a model YAML.*--weights"),
    ("model=yolo11n-seg.yaml", r"yolo11n-seg\.yaml: expected a detector, its last row is 'Segment'"),
    ("model=block.yaml", r"block\.yaml.*'Convv'.*did you mean 'Conv'"),
    ("model=argument.yaml", r"argument\.yaml.*row 4"),
    ("model=many.yaml", r"many\.yaml.*row 4.*SPP"),
    ("model=sizes.yaml", r"sizes\.yaml.*row 4.*Concat"),
    ("model=anchors.yaml", r"anchors\.yaml.*row 4.*AnchorDetect"),
    ("model=rows.yaml", r"rows\.yaml: expected a list of rows under 'backbone:'"),
    ("model=text.yaml", r"text\.yaml: expected a YAML mapping"),
    ("model=broken.yaml", r"broken\.yaml: not valid YAML"),
    ("model=stock.yaml", r"stock\.yaml: refused, the model YAML names 'Conf', which is not a known layer"),
    ("model=stockargs.yaml", r"stockargs\.yaml: ultralytics cannot build it"),
    ("model=code.yaml", r"code\.yaml: refused, activation .*is not a torch\.nn layer"),
    ("model=download.yaml", r"download\.yaml: refused, the model YAML names 'TorchVision'"),
    ("data=nowhere.yaml", r"'nowhere\.yaml' not found"),
    ("data=gone.yaml", r"gone\.yaml: training images not found: expected .*nowhere"),
    ("data=names.yaml", r"names\.yaml: expected 'names'"),
    ("data=grey.yaml", r"grey\.yaml: expected images of 3 channels"),
    ("data=columns", r"columns/labels/train/0\.txt:1: .*column"),
    ("data=class", r"class/labels/train/0\.txt:1: .*class"),
    ("data=range", r"range/labels/train/0\.txt:1: "),
    ("data=nobox", r"nobox.*: expected boxes in the training part, got none in 1 images"),
    ("classes=99", r"classes: expected indices of the data set's classes \(0 .*, got 99"),
    ("classes=[0,scratch]", r"classes: expected indices of the data set's classes"),
    ("seed=4294967296", r"seed: expected a whole number of at most 2147483647, got 4294967296"),
    ("split=test", r"data\.yaml: expected a key 'test'"),
    ("--recipe foo", r"'foo' not found.*paper\.yaml"),
    ("--lrr0 0.1", r"unknown argument 'lrr0'; did you mean 'lr0'"),
    ("--epochs", r"--epochs: expected a value"),
    ("epochs=", r"--epochs: expected a value"),
    ("stray", r"unexpected 'stray'"),
    ("epochs=many", r"'epochs=many' is of invalid type str"),
    ("epochs=0", r"'epochs=0' is an invalid value"),
    ("lr0=5", r"'lr0=5' is an invalid value"),
    ("amp=fp8", r"'amp=fp8' is invalid"),
    ("optimizer=Adm", r"optimizer: expected one of .*did you mean 'Adam'"),
    ("batch=2.5", r"batch: expected a whole number"),
    ("batch=8.0", r"batch: expected a whole number"),
    ("freeze=[[0]]", r"freeze: expected a number of layers"),
    ("freeze=[a]", r"freeze: expected a number of layers"),
    ("time=0", r"time: expected hours above 0, got 0"),
    ("time=-1", r"time: expected hours above 0, got -1"),
    ("save_dir=columns", r"--save-dir columns: expected a new or empty folder"),
    ("batch=-4", r"batch: expected a whole number"),
    ("imgsz=big", r"imgsz: expected one whole number"),
    ("imgsz=[64,64]", r"imgsz: expected one whole number"),
    ("freeze=5", r"freeze: expected fewer than the model's 5 layers"),
    ("freeze=-1", r"freeze: expected a number of layers"),
    ("cls_pw=0.5", r"cls_pw: "),
    ("cache=tape", r"cache: expected True, False, ram or disk"),
    ("quantize=8", r"quantize: training in 8 bits"),
    ("distill_model=good.pt", r"distill_model: .*--teacher"),
    ("--compile", r"compile: training is not compiled"),
    ("task=segment", r"task: this is a detector"),
    ("device=9", r"--device 9: expected cpu or GPUs of this machine"),
    ("device=8,9", r"--device 8,9: expected cpu or GPUs of this machine"),
    ("project=file/runs", r"file/runs.*cannot be read or written.*--project"),
    ("resume=gone.pt", r"gone\.pt: weights file not found"),
    ("resume=good.pt", r"good\.pt: expected the last\.pt of an interrupted run"),
]


def call(main, arguments: list[str], monkeypatch, capsys) -> str:
    """Run a command line here; check the status and that one line tells why; return the line."""
    monkeypatch.setattr(sys, "argv", ["script.py", *arguments])
    assert guard(main) == 2
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    return lines[0]


@pytest.mark.parametrize(("arguments", "message"), CASES, ids=[case[0] for case in CASES])
def test_train(place, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(place)
    before = {path for path in place.rglob("*") if path.suffix != ".cache"}
    base = TRAINING | {"model": "model.yaml", "data": "data.yaml", "project": "runs"}
    if arguments.startswith("resume"):
        base = {}
    error = call(train.main, [*(f"{k}={v}" for k, v in base.items()), *arguments.split()], monkeypatch, capsys)
    assert re.search(message, error), error
    assert {path for path in place.rglob("*") if path.suffix != ".cache"} == before


SCRIPTS = {
    "val": (val.main, ["--data", "data.yaml", "--device", "cpu", "--save-dir", "out"]),
    "detect": (detect.main, ["--source", "images/val", "--device", "cpu", "--project", "out"]),
    "export": (export.main, ["--format", "onnx", "--imgsz", "64"]),
}


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize("weights", ["gone.pt", "empty.pt", "noise.pt", "half.pt", "plain.pt"])
def test_weights_of_the_other_scripts(place, monkeypatch, capsys, script, weights):
    monkeypatch.chdir(place)
    main, arguments = SCRIPTS[script]
    error = call(main, ["--weights", weights, *arguments], monkeypatch, capsys)
    assert weights in error and not (place / "out").exists()


@pytest.mark.parametrize(
    ("script", "arguments", "message"),
    [
        ("val", ["--weights", "good.pt", "--data", "gone.yaml"], "nowhere|val"),
        ("val", ["--weights", "good.pt", "--data", "nobox"], "expected labelled boxes"),
        ("val", ["--weights", "good.pt", "--device", "9"], "--device"),
        ("detect", ["--weights", "good.pt", "--source", "nowhere"], "nowhere"),
        ("detect", ["--weights", "good.pt", "--device", "9"], "--device"),
    ],
)
def test_arguments_of_the_other_scripts(place, monkeypatch, capsys, script, arguments, message):
    monkeypatch.chdir(place)
    main, common = SCRIPTS[script]
    if script == "val" and "gone.yaml" in arguments:
        (place / "gone.yaml").write_text((place / "gone.yaml").read_text().replace("images/val", "images/void"))
        message = "void"
    error = call(main, [*common, *arguments], monkeypatch, capsys)
    assert re.search(message, error), error


def test_training_prints_one_line_and_leaves_nothing(place, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["train.py", "--cfg", "s-model.yaml", "--data", str(place / "columns"), "--epochs", "1"])
    assert guard(train.main) == 2
    errors = capsys.readouterr().err
    assert "Traceback" not in errors and errors.strip().splitlines()[-1].startswith("error: ") and not list(tmp_path.iterdir())


def test_full_disk_before_the_first_epoch(place, monkeypatch):
    from ultralytics.engine import trainer as host

    def full(path, data):
        raise OSError(errno.ENOSPC, "No space left on device", str(path))

    monkeypatch.setattr(host.YAML, "save", full)
    expected = r"runs/full/args\.yaml: cannot be read or written \(No space left on device\); free space"
    with pytest.raises(UserError, match=expected):
        run_training(training(place, name="full"))
    assert not (place / "runs/full").exists()


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.EDQUOT, "free space, or choose another --project"),
        (errno.EROFS, "make it a writable folder, or choose another --project"),
        (errno.EMFILE, "remove that cause, and start again or --resume"),
    ],
)
def test_advice_fits_the_cause(number, advice):
    from engine.training.folders import told

    error = OSError(number, "the cause", "f.txt")
    assert told(error, Path("run")) == f"f.txt: cannot be read or written (the cause); {advice}"


def test_full_disk_at_the_first_checkpoint(place, monkeypatch):
    original, (soft, hard) = checkpoint.save_atomic, resource.getrlimit(resource.RLIMIT_FSIZE)

    def save_atomic(*given):
        resource.setrlimit(resource.RLIMIT_FSIZE, (15000, hard))
        try:
            original(*given)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    monkeypatch.setattr(checkpoint, "save_atomic", save_atomic)
    monkeypatch.setattr(trainer, "save_atomic", save_atomic)
    with pytest.raises(UserError, match=r"cannot be written \(File too large\).*free space"):
        run_training(training(place, name="full"))
    assert not (place / "runs/full").exists()


def test_images_without_labels_are_background(tmp_path):
    write_data(tmp_path)
    write_model(tmp_path / "model.yaml")
    for path in (tmp_path / "labels/train").glob("[0-3].txt"):
        path.unlink()
    (tmp_path / "labels/val/0.txt").write_text("")
    assert len(results(run_training(training(tmp_path)))) == 2


def test_truncated_images_are_left_out_and_left_alone(tmp_path, caplog):
    write_data(tmp_path)
    write_model(tmp_path / "model.yaml")
    image = np.random.default_rng(0).integers(0, 255, (SIZE, SIZE, 3), dtype=np.uint8)
    whole = cv2.imencode(".jpg", image)[1].tobytes()
    half_png = cv2.imencode(".png", image)[1].tobytes()[:500]
    files = {"half.jpg": whole[: len(whole) // 2], "marker.jpg": whole + b"\0\0", "half.png": half_png}
    for name, content in files.items():
        (tmp_path / "images/train" / name).write_bytes(content)
        (tmp_path / "labels/train" / Path(name).with_suffix(".txt")).write_text("0 .5 .5 .2 .2\n")
    with caplog.at_level("INFO"):
        run_training(training(tmp_path, epochs=1))
    for name in ("half.jpg", "half.png"):
        assert f"{name}: truncated" in caplog.text
        assert f"{tmp_path / 'images/train' / name},truncated" in (tmp_path / "runs/exp/left-out.csv").read_text()
    assert "images/train... 9 images" in caplog.text  # the JPEG whose end is padded is whole
    for name, content in files.items():
        assert (tmp_path / "images/train" / name).read_bytes() == content


def test_no_image_can_be_read(tmp_path):
    write_data(tmp_path)
    write_model(tmp_path / "model.yaml")
    for path in (tmp_path / "images/train").iterdir():
        path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(UserError, match="expected images that can be used, got none .*0.png: truncated"):
        run_training(training(tmp_path))
    assert not (tmp_path / "runs/exp").exists()
