"""Class names travel with weights: whatever takes both weights and data compares them, and pairs them by name when asked."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from tiny import NAMES, STOCK, save_tiny, training, write_data, write_model

import export
import val
from benchmarks import kd
from benchmarks.harness.rival import build_pair
from cfg import UserError
from engine.checkpoint import load_detector, save_student
from engine.detection.settled import class_indices
from engine.settings import OWN_DEFAULTS, known_names, read_command_line
from engine.training.launch import train
from engine.training.trainer import Trainer
from engine.validation.box_files import load_boxes
from engine.validation.evaluate import evaluate

CLASSES = tuple(NAMES.values())  # scratch, pit, patch
ORDER = ("patch", "scratch", "pit")
REORDERED = r"got the same in another order \(class 0 is 'patch' in the data, 'scratch' in the model, and 2 more\)"


class Killed(BaseException):
    """Ends a run where it stands."""


def reordered(data: Path, name: str, classes: tuple[str, ...]) -> Path:
    """A YAML beside `data` of the same images, whose names are `classes`."""
    content = yaml.safe_load(data.read_text()) | {"names": list(classes)}
    other = data.with_name(name)
    other.write_text(yaml.safe_dump(content))
    return other


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with a model, best.pt of the three classes, their data, and the same data with other numbers and names."""
    folder = tmp_path_factory.mktemp("names")
    write_model(folder / "model.yaml")
    data = write_data(folder, classes=CLASSES)
    save_tiny(folder / "best.pt")
    reordered(data, "other.yaml", ORDER)
    reordered(data, "case.yaml", ("scratch", "Pit", "patch"))
    reordered(data, "numbers.yaml", ("class_0", "class_1", "class_2"))
    shutil.copytree(folder / "images", folder / "renumbered/images")  # the same boxes, with the numbers of ORDER
    for file in (folder / "labels").rglob("*.txt"):
        target = folder / "renumbered" / file.relative_to(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        rows = [line.split(" ", 1) for line in file.read_text().splitlines()]
        target.write_text("".join(f"{ORDER.index(CLASSES[int(number)])} {rest}\n" for number, rest in rows))
    text = "train: images/train\nval: images/val\nnames: "
    (folder / "renumbered/data.yaml").write_text(text + f"{list(ORDER)}\n")
    return folder


# -- val.py


def scores(weights: Path, data: Path, to: Path, **options) -> tuple[dict, list]:
    """The report, and what was found: (boxes, class name, score) of every image."""
    options = {"device": "cpu", "plots": False, "conf": 0.01} | options
    report = evaluate(weights, data, save_dir=to, detections=to.with_suffix(".npz"), **options)
    names = yaml.safe_load((to / "data.yaml").read_text())["names"]
    found = [(i.boxes_xyxy.tolist(), [names[int(c)] for c in i.classes], i.scores.tolist()) for i in
             load_boxes(to.with_suffix(".npz"))[2]]  # fmt: skip
    return report, found


def test_validation_refuses_another_order_or_pairs_by_name(place, tmp_path):
    data = place / "renumbered/data.yaml"
    with pytest.raises(UserError, match=f"data.yaml: expected the class names of .*best.pt, {REORDERED}; use --map-classes"):
        evaluate(place / "best.pt", data, device="cpu", plots=False, save_dir=tmp_path / "no")
    expected, boxes = scores(place / "best.pt", place / "data.yaml", tmp_path / "a")
    got, mapped = scores(place / "best.pt", data, tmp_path / "b", map_classes=True, plots=True)
    assert mapped == boxes and any(names for _, names, _ in boxes)
    assert [row["name"] for row in got["per_class"]] == list(ORDER)
    by_name = {row["name"]: row for row in expected["per_class"]}
    for row in got["per_class"]:
        assert row == by_name[row["name"]] | {"class": row["class"]}
    assert got["ultralytics"] == pytest.approx(expected["ultralytics"])
    assert (expected["settings"]["classes"], got["settings"]["classes"]) == ("same", "mapped")
    assert {"confusion_matrix.png", "BoxPR_curve.png"} <= {p.name for p in (tmp_path / "b").iterdir()}
    assert "paired with the data's by name" in val.table(got)


def test_a_model_of_more_classes_is_scored_on_the_datas(place, tmp_path):
    data = reordered(place / "data.yaml", "fewer.yaml", ("pit", "scratch"))
    for file in (tmp_path / "labels", tmp_path / "images"):
        shutil.copytree(place / file.name, file)
    for file in (tmp_path / "labels").rglob("*.txt"):
        file.write_text("0 .5 .5 .2 .2\n")
    data = Path(shutil.copy(data, tmp_path / "data.yaml"))
    message = "2 classes in the data, 3 in the model; only the model has 'patch'.*--map-classes"
    with pytest.raises(UserError, match=message):
        evaluate(place / "best.pt", data, device="cpu", plots=False, save_dir=tmp_path / "no")
    _, found = scores(place / "best.pt", data, tmp_path / "a", map_classes=True)
    assert {name for _, names, _ in found for name in names} == {"pit", "scratch"}
    unknown = reordered(data, "unknown.yaml", ("pit", "Scratch"))
    with pytest.raises(UserError, match="to know every class of .* but not 'Scratch'; did you mean 'scratch'"):
        evaluate(place / "best.pt", unknown, device="cpu", plots=False, save_dir=tmp_path / "no", map_classes=True)


def test_a_difference_of_case_is_named(place, tmp_path):
    with pytest.raises(UserError, match=r"class 1 is 'Pit' in the data, 'pit' in the model.*did you mean 'pit'\?"):
        evaluate(place / "best.pt", place / "case.yaml", device="cpu", plots=False, save_dir=tmp_path / "no")


def test_placeholders_are_scored_and_it_is_said(place, tmp_path, capsys):
    report, _ = scores(place / "best.pt", place / "numbers.yaml", tmp_path / "a")
    assert report["settings"]["classes"] == "unknown"
    assert "class names of" in (said := capsys.readouterr().err) and "cannot be compared" in said


def test_an_exported_model_is_paired_by_name_too(place, tmp_path):
    export.main(["--weights", str(place / "best.pt"), "--format", "torchscript", "--out", str(tmp_path), "--no-check"])
    weights, data = tmp_path / "best.torchscript", place / "renumbered/data.yaml"
    with pytest.raises(UserError, match=REORDERED):
        evaluate(weights, data, device="cpu", plots=False, save_dir=tmp_path / "no")
    expected, boxes = scores(weights, place / "data.yaml", tmp_path / "a")
    got, mapped = scores(weights, data, tmp_path / "b", map_classes=True)
    assert mapped == boxes and got["metrics"]["mAP50-95"] == pytest.approx(expected["metrics"]["mAP50-95"])


# -- detect.py, export.py


def test_detect_takes_names_before_numbers(capsys):
    digits = {0: "9", 1: "8", 2: "0"}
    assert class_indices(["9", "8", "1"], digits) == [0, 1, 1]
    assert class_indices(["0"], digits) == [2] and "taken as the name of class 2" in capsys.readouterr().out
    assert class_indices(["2", "pit"], {0: "a", 1: "pit", 2: "c"}) == [2, 1] and not capsys.readouterr().out
    with pytest.raises(UserError, match="--classes PIT: .*did you mean 'pit'"):
        class_indices(["PIT"], {0: "a", 1: "pit"})


def test_calibration_refuses_another_order(place, tmp_path):
    given = ["--weights", str(place / "best.pt"), "--format", "onnx", "--int8", "--out", str(tmp_path)]
    with pytest.raises(UserError, match=f"other.yaml: expected the class names of .*best.pt, {REORDERED}"):
        export.main([*given, "--data", str(place / "other.yaml")])
    assert not list(tmp_path.iterdir())


# -- train.py


def kill_after_first_epoch(patch) -> None:
    original = Trainer.save_model

    def save_model(self):
        original(self)
        raise Killed

    patch.setattr(Trainer, "save_model", save_model)


def interrupted(monkeypatch, place: Path, name: str, **changes) -> Path:
    """last.pt of a run that was killed after its first epoch of two."""
    with monkeypatch.context() as patch:
        kill_after_first_epoch(patch)
        with pytest.raises(Killed):
            train(training(place, name=name, **changes))
    return place / "runs" / name / "weights/last.pt"


@pytest.mark.parametrize("data", ["other.yaml", "case.yaml"])
def test_a_resumed_run_keeps_its_classes(place, monkeypatch, data):
    last = interrupted(monkeypatch, place, f"resumed-{data}")
    before = {path: path.read_bytes() for path in last.parents[1].rglob("*") if path.is_file()}
    message = f"{data}: expected the class names of .*last.pt, got .*a resumed run keeps its classes"
    with pytest.raises(UserError, match=message):
        train({"resume": str(last), "data": str(place / data)})
    with pytest.raises(UserError, match="map_classes cannot change in a resumed run"):
        train({"resume": str(last), "data": str(place / data), "map_classes": True})
    assert before == {path: path.read_bytes() for path in last.parents[1].rglob("*") if path.is_file()}
    folder = train({"resume": str(last), "data": str(place / "data.yaml")})
    assert torch.load(folder / "weights/best.pt", weights_only=True)["names"] == NAMES


def test_a_run_folder_whose_names_were_edited_is_not_resumed(place, monkeypatch):
    last = interrupted(monkeypatch, place, "edited")
    own = last.parents[1] / "data.yaml"
    own.write_text(own.read_text().replace("pit", "PIT"))
    with pytest.raises(UserError, match="class 1 is 'PIT' in the data, 'pit' in the model"):
        train({"resume": str(last)})


def test_weights_and_teacher_by_name_also_in_a_resumed_run(place, monkeypatch):
    own = Path(shutil.copy(place / "model.yaml", place / "three.yaml"))
    teacher = train(training(place, name="teacher", epochs=1)) / "weights/best.pt"
    changes = {"model": str(own), "data": str(place / "renumbered/data.yaml"), "teacher": str(teacher), "distill": "output"}
    with pytest.raises(UserError, match="use --map-classes to pair them by name"):
        train(training(place, name="refused", **changes))
    with pytest.raises(UserError, match="use --map-classes to start each class"):
        train(training(place, name="refused", **changes | {"teacher": None, "distill": None, "weights": str(teacher)}))
    assert not (place / "runs/refused").exists()
    last = interrupted(monkeypatch, place, "mapped", **changes, map_classes=True)
    seen = []
    original = Trainer.setup_model
    monkeypatch.setattr(Trainer, "setup_model", lambda self: seen.append(self.networks.teacher) or original(self))
    folder = train({"resume": str(last)})
    assert list(seen[0].spec.names.values()) == list(ORDER)
    assert list(load_detector(folder / "weights/best.pt")[0].names.values()) == list(ORDER)


def test_the_switch_of_the_command_line():
    assert read_command_line(["--map-classes", "--epochs", "3"], known_names()) == {"map_classes": True, "epochs": 3}
    assert OWN_DEFAULTS["map_classes"] is False


# -- kd.py


def test_a_comparison_is_refused_before_its_first_run(place, tmp_path, monkeypatch):
    teacher = load_detector(save_tiny(tmp_path / "stock.pt"))[0]
    save_student(tmp_path / "t.pt", teacher, {})
    given = ["--cfg", str(place / "model.yaml"), "--data", str(place / "other.yaml"), "--teacher", str(tmp_path / "t.pt")]
    given += ["--out", str(tmp_path / "out"), "--methods", "none,attention", "--recipe", "quick", "--device", "cpu"]
    monkeypatch.setattr(sys, "argv", ["kd.py", *given])
    with pytest.raises(UserError, match="method attention: .*got another order .*--map-classes"):
        kd.main()
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("role", ["weights", "teacher"])
def test_the_rival_is_refused_too(place, tmp_path, role):
    (tmp_path / "stock.yaml").write_text(yaml.safe_dump(STOCK))
    settings = SimpleNamespace(model=str(tmp_path / "stock.yaml"), data="d.yaml", weights=None, teacher=None)
    settings = vars(settings) | {role: str(place / "best.pt")}
    with pytest.raises(UserError, match=f"d.yaml: expected the class names of .*best.pt, {REORDERED}"):
        build_pair(settings, dict(enumerate(ORDER)))
