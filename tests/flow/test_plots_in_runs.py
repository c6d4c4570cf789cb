"""No class name and no plot ends a run or costs a checkpoint."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
import yaml
from matplotlib.figure import Figure
from PIL import Image
from tiny import SIZE, training, write_data, write_model

import detect
import val
from engine.checkpoint import save_student
from engine.training.launch import train
from models.detector import Detector

WILD = ["$a$b^$", "_x", "\\frac{", "50%", "a\nb", "😀", "划痕", "عربي", "x" * 300, "", "\x1b[31m", "yes", "null", "1.0", "../a/b",
        'a,"b']  # fmt: skip
TRAINED = {"labels.jpg", "train_batch0.jpg", "results.png"}
VALIDATED = {"BoxPR_curve.png", "BoxF1_curve.png", "confusion_matrix.png", "confusion_matrix_normalized.png",
             "val_batch0_labels.jpg", "val_batch0_pred.jpg"}  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """Data whose images have a box of every class, and a model for them with best.pt."""
    folder = tmp_path_factory.mktemp("wild")
    data = write_data(folder, count=4)
    data.write_text(yaml.safe_dump(yaml.safe_load(data.read_text()) | {"names": WILD}, allow_unicode=True), encoding="utf-8")
    for file in (folder / "labels").rglob("*.txt"):
        file.write_text("".join(f"{c} {.1 + .05 * c:.2f} .5 .2 .2\n" for c in range(len(WILD))))
    write_model(folder / "model.yaml")
    torch.manual_seed(0)
    model = Detector(folder / "model.yaml", nc=len(WILD), names=dict(enumerate(WILD)))
    save_student(folder / "best.pt", model.eval(), {"train_args": {"imgsz": SIZE}})
    return folder


def names_of(file: Path) -> list[str]:
    return list(torch.load(file, weights_only=True)["names"].values())


def test_training_draws_everything_whatever_the_names_and_after_the_checkpoint(place, monkeypatch, capfd, caplog):
    kept = []
    original = Figure.savefig

    def savefig(self, file, *args, **kwargs):
        weights = Path(file).parent / "weights"
        kept.append((Path(file).name, all((weights / name).exists() for name in ("best.pt", "last.pt"))))
        return original(self, file, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", savefig)
    folder = train(training(place, name="wild", epochs=1, plots=True, verbose=True))
    assert {path.name for path in folder.iterdir()} >= TRAINED | VALIDATED
    assert names_of(folder / "weights/best.pt") == names_of(folder / "weights/last.pt") == WILD
    assert {name for name, there in kept if not there} == {"labels.jpg"}  # drawn of the data, before training
    assert len({name for name, _ in kept}) == len(kept), "something is drawn twice"
    err = capfd.readouterr().err
    assert "was not drawn" not in err and "Glyph" not in err and err.count("lacks characters") <= 1
    assert "  a\\nb  " in caplog.text and "a\nb" not in caplog.text  # the host's table keeps its lines


def test_validation_and_detection_take_any_name(place, tmp_path, monkeypatch, capfd):
    report = tmp_path / "report.json"
    given = ["--weights", str(place / "best.pt"), "--data", str(place / "data.yaml"), "--device", "cpu"]
    monkeypatch.setattr(sys, "argv", ["val.py", *given, "--save-dir", str(tmp_path / "val"), "--json", str(report)])
    assert val.main() == 0
    assert {path.name for path in (tmp_path / "val").iterdir()} >= VALIDATED
    assert [row["name"] for row in json.loads(report.read_text(encoding="utf-8"))["per_class"]] == WILD
    table = capfd.readouterr().out.split("AR1 ")[0].splitlines()
    rows = [line for line in table if line.endswith(("0.0000", "         -"))]
    assert len(rows) == len(WILD) + 1 and max(map(len, rows)) < 130
    given = ["--weights", str(place / "best.pt"), "--source", str(place / "images/val"), "--conf", "0", "--device", "cpu"]
    saved = ["--save-json", "--save-csv", "--save-coco", "--save-txt", "--project", str(tmp_path), "--name", "found"]
    assert detect.main([*given, *saved]) == 0
    found = json.loads((tmp_path / "found/results.json").read_text(encoding="utf-8"))
    assert list(found["names"].values()) == WILD and all(image["detections"] for image in found["images"])
    assert len(list((tmp_path / "found").glob("*.png"))) == 4


def broken(*_, **__):
    raise OSError(28, "No space left on device")


def test_plots_that_fail_cost_nothing_but_themselves(place, tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(Figure, "savefig", broken)
    monkeypatch.setattr(Image.Image, "save", broken)
    folder = train(training(place, name="broken", epochs=2, plots=True))
    assert not TRAINED & {path.name for path in folder.iterdir()}
    assert torch.load(folder / "weights/last.pt", weights_only=True)["format"] == "tandem-detector"  # it ended as it should
    assert len((folder / "results.csv").read_text().splitlines()) == 3
    said = [line for line in capfd.readouterr().err.splitlines() if "was not drawn" in line]
    assert all("No space left on device" in line and "Traceback" not in line for line in said)
    assert {line.split(" was")[0] for line in said} >= {"labels.jpg", "train_batch*.jpg", "results.png", "BoxPR_curve.png"}
    given = ["--weights", str(place / "best.pt"), "--data", str(place / "data.yaml"), "--device", "cpu"]
    monkeypatch.setattr(sys, "argv", ["val.py", *given, "--save-dir", str(tmp_path / "val")])
    assert val.main() == 0


def test_ctrl_c_while_drawing_keeps_the_checkpoint(place, monkeypatch):
    def interrupt(self, file, *args, **kwargs):
        if "labels" not in Path(file).name:
            raise KeyboardInterrupt

    monkeypatch.setattr(Figure, "savefig", interrupt)
    with pytest.raises(KeyboardInterrupt):
        train(training(place, name="interrupted", epochs=1, plots=True))
    assert names_of(place / "runs/interrupted/weights/last.pt") == WILD
