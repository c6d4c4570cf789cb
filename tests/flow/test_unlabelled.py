"""Distillation without labels: from images to a student, and from that to an ordinary run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import SIZE, results, training, write_data, write_image, write_model

import train as program
from cfg import UserError
from engine.checkpoint import RUN, load_detector, read, read_state, save_student
from engine.dataset import LEFT_OUT
from engine.settings import Settings
from engine.start.start import start_from_file
from engine.training.launch import train
from engine.validation.evaluate import evaluate
from engine.weights import open_backend
from models.detector import Detector

HEAD = "model.4."


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Labelled data, a teacher of other classes, and a folder of images whose labels, were they read, would be refused."""
    folder = tmp_path_factory.mktemp("unlabelled")
    write_data(folder)
    write_model(folder / "model.yaml", width=8)
    write_model(folder / "teacher.yaml")
    write_data(folder / "other", count=4, classes=("a", "b", "c"))
    run = train(training(folder, model=str(folder / "teacher.yaml"), data=str(folder / "other"), name="teacher", epochs=1))
    teacher, content = load_detector(run / "weights/best.pt")
    teacher.train()
    for _ in range(100):  # BatchNorm statistics as after a long training: the features have a scale that can be learned
        teacher(torch.rand(8, 3, SIZE, SIZE))
    save_student(folder / "teacher.pt", teacher, content["meta"])
    for seed in range(20):
        write_image(folder / f"line/{seed // 10}/{seed:02}.png", seed)
    (folder / "line/0/01.txt").write_text("99 no label\n")
    return folder


def label_free(place: Path, **changes: Any) -> dict[str, Any]:
    """Arguments of a run on the images alone, without `data`."""
    usual = {"teacher": str(place / "teacher.pt"), "unlabelled": str(place / "line"), "teacher_init": False, "lr0": 0.01,
             "distill": "cwd"}  # fmt: skip
    return {name: value for name, value in training(place, **usual | changes).items() if name != "data"}


@pytest.fixture(scope="module")
def run(place: Path) -> Path:
    """Ten epochs on the images, by `cwd`."""
    return train(label_free(place, name="pictures", epochs=10, batch=2, nbs=2, plots=True, auto_anchors=True))


def files(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def head_of(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: tensor for name, tensor in state.items() if name.startswith(HEAD)}


def test_features_come_closer_to_the_teacher_s(run: Path) -> None:
    rows = results(run)
    for part, share in (("train", 0.5), ("val", 0.95)):
        losses = [row[f"{part}/cwd_loss"] for row in rows]
        assert losses[-1] < share * losses[0], losses
    assert not any(name.startswith(("metrics/", "weight/", "share/")) or "box" in name for row in rows for name in row)
    assert (run / "results.png").exists() and not (run / "labels.jpg").exists()


def test_the_head_stays_as_it_was(place: Path, run: Path) -> None:
    whole = torch.load(run / "weights/best.pt", weights_only=True)
    longer = torch.load(train(label_free(place, name="other-length", epochs=1)) / "weights/best.pt", weights_only=True)
    head, other = head_of(whole["state"]), head_of(longer["state"])
    assert head and all(torch.equal(tensor, other[name]) for name, tensor in head.items())
    moved = [n for n, tensor in whole["state"].items() if n.startswith("model.3.") and not torch.equal(tensor, longer["state"][n])]
    assert moved, "nothing before the head was trained"
    assert whole["meta"]["untrained"] == HEAD and set(read_state(run / "weights/best.pt")) == set(whole["state"]) - set(head)


def test_best_is_the_epoch_that_is_closest_on_the_held_out_pictures(run: Path) -> None:
    losses = [row["val/cwd_loss"] for row in results(run)]
    best = read(run / "weights/best.pt")
    assert best["meta"]["epoch"] == losses.index(min(losses))
    assert best["meta"]["metrics"]["fitness"] == pytest.approx(-min(losses), rel=1e-4)


def test_the_header_says_that_there_are_no_labels(place: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        train(label_free(place, name="header", epochs=1, distill="cwd+0.5*mgd"))
    assert "NO LABELS are used: 18 images of " in caplog.text and ", and 2 held out" in caplog.text
    assert "kd_* and adaptive have no effect" in caplog.text and "best possible recall" not in caplog.text


@pytest.mark.parametrize("weights", ["best", "last"])
def test_an_ordinary_run_starts_from_it(place: Path, run: Path, caplog: pytest.LogCaptureFixture, weights: str) -> None:
    start = run / f"weights/{weights}.pt"
    with caplog.at_level("INFO"):
        folder = train(training(place, name=f"from-{weights}", weights=str(start), epochs=1, lr0=1e-9))
    assert "start: 24 of 24 tensors" in caplog.text and "the head of" in caplog.text and "is left out" in caplog.text
    taken, own = read(start)["state"], read(folder / "weights/best.pt")
    assert own["names"] == {0: "dark", 1: "bright"} and "untrained" not in own["meta"]
    weight = "model.3.conv.weight"
    assert torch.allclose(own["state"][weight], taken[weight], atol=1e-5)


def test_a_network_of_another_width_starts_by_structure(place: Path, run: Path) -> None:
    student = Detector(place / "teacher.yaml")
    before, taken = {k: v.clone() for k, v in student.state_dict().items()}, read_state(run / "weights/best.pt")
    start = start_from_file(student, str(run / "weights/best.pt"), Settings.of(training(place)).network, {})
    assert "values from the weights" in start.lines[0] and "is left out" in start.lines[1]
    after = student.state_dict()
    assert all(torch.equal(tensor, after[name]) for name, tensor in head_of(before).items())
    assert torch.equal(after["model.1.conv.weight"], taken["model.1.conv.weight"])


def test_it_is_no_detector_yet(place: Path, run: Path) -> None:
    message = "distilled without labels: its head is untrained; train it first"
    with pytest.raises(UserError, match=message):
        open_backend(run / "weights/best.pt", torch.device("cpu"))
    with pytest.raises(UserError, match=message):
        evaluate(run / "weights/best.pt", place / "data.yaml")
    with pytest.raises(UserError, match="output compares predictions and teacher .* its head is untrained"):
        train(training(place, name="never", teacher=str(run / "weights/best.pt"), distill="output"))


def test_a_resumed_run_ends_as_one_that_was_not_interrupted(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = train(label_free(place, name="whole", epochs=3))

    class Killed(Exception):
        pass

    from engine.training.label_free import LabelFreeTrainer

    original = LabelFreeTrainer.save_model

    def killed(self: LabelFreeTrainer) -> bool:
        original(self)
        if self.epoch == 1:
            raise Killed
        return True

    with monkeypatch.context() as patch:
        patch.setattr(LabelFreeTrainer, "save_model", killed)
        with pytest.raises(Killed):
            train(label_free(place, name="killed", epochs=3))
    last = place / "runs/killed/weights/last.pt"
    assert read(last)["format"] == RUN
    write_image(place / "line/new.png", seed=99)  # the run goes on with the images that it began with
    try:
        resumed = train({"resume": str(last)})
    finally:
        (place / "line/new.png").unlink()
    assert [row["val/cwd_loss"] for row in results(resumed)] == [row["val/cwd_loss"] for row in results(whole)]
    one, other = (load_detector(folder / "weights/last.pt")[0].state_dict() for folder in (whole, resumed))
    assert all(torch.equal(tensor, other[name]) for name, tensor in one.items())


def test_an_unreadable_picture_is_named_and_nothing_of_the_user_s_is_touched(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    for seed in range(6):
        write_image(tmp_path / f"line/{seed:02}.png", seed)
    for broken in ("00.png", "03.png"):  # the first would be the only one to be held out
        (tmp_path / "line" / broken).write_bytes(b"no picture")
    (tmp_path / "line/04.txt").write_text("0 .5 .5 .2 .2\n")
    (tmp_path / "line/04.npy").write_bytes(b"mine")
    before = files(tmp_path / "line")
    given = label_free(place, unlabelled=str(tmp_path / "line"), project=str(tmp_path / "runs"), epochs=1)
    monkeypatch.setattr("sys.argv", ["train.py", *(f"--{name}={value}" for name, value in given.items())])
    assert program.main() == 1
    left_out = (tmp_path / "runs/exp" / LEFT_OUT).read_text()
    assert "00.png" in left_out and "03.png" in left_out
    assert (tmp_path / "runs/exp/val.txt").read_text().split() == [str(tmp_path / "line/01.png")]
    assert files(tmp_path / "line") == before


@pytest.mark.parametrize("kind", ["list", "data set", "data.yaml"])
def test_pictures_come_from_lists_and_data_sets_too(place: Path, tmp_path: Path, kind: str) -> None:
    (tmp_path / "pictures.txt").write_text("\n".join(str(p) for p in sorted((place / "images/train").iterdir())[:6]))
    where = {"list": tmp_path / "pictures.txt", "data set": place, "data.yaml": place / "data.yaml"}[kind]
    folder = train(label_free(place, unlabelled=str(where), project=str(tmp_path), name="run", epochs=1))
    listed = [Path(line) for part in ("train", "val") for line in (folder / f"{part}.txt").read_text().splitlines()]
    assert len(listed) == (6 if kind == "list" else 8) and {path.parent for path in listed} == {place / "images/train"}


@pytest.mark.parametrize("method", ["pkd", "mgd", "score_l2"])
def test_other_methods_that_read_features(place: Path, method: str) -> None:
    row = results(train(label_free(place, name=method, distill=method, epochs=1)))[0]
    assert row[f"train/{method}_loss"] > 0 and row[f"val/{method}_loss"] > 0


def test_an_untrained_teacher_is_a_control(place: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        train(label_free(place, name="control", teacher=str(place / "teacher.yaml"), epochs=1))
    assert "UNTRAINED: a control" in caplog.text


def test_yolov5_s_own_tensors_are_a_teacher(place: Path, tmp_path: Path) -> None:
    """A state dict as COCO's is published, of 80 classes; the student is a stock model, with the data's class names."""
    yolov5 = Detector("yolov5n.yaml", nc=80)
    state = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in yolov5.state_dict().items()}
    state["model.24.anchors"] = (state.pop("model.24.anchor_wh").float() / yolov5.stride.view(-1, 1, 1)).half()
    torch.save(state, tmp_path / "coco.pt")
    given = label_free(place, name="coco", model="yolov8n.yaml", teacher=str(tmp_path / "coco.pt"), epochs=1)
    folder = train(given | {"data": str(place / "data.yaml")})
    assert results(folder)[0]["train/cwd_loss"] > 0
    content = read(folder / "weights/best.pt")
    assert content["names"] == {0: "dark", 1: "bright"} and content["meta"]["untrained"] == "model.22."
    with pytest.raises(UserError, match=r"coco\.pt knows 80 classes, student model\.yaml 2"):
        train(training(place, name="labels", teacher=str(tmp_path / "coco.pt")))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"unlabelled": "nowhere"}, r"--unlabelled nowhere: no such folder"),
        ({"unlabelled": "{place}/labels"}, r"labels: expected two images or more, got none"),
        ({"unlabelled": "{place}/runs/nothing.yaml"}, r"nothing\.yaml' not found"),
        ({"unlabelled": "{place}/line/0/00.png"}, r"expected two images or more, got only 00\.png"),
        ({"teacher": None}, r"--unlabelled: images without labels teach nothing alone; give the teacher with --teacher"),
        ({"distill": "attention"}, r"--unlabelled: attention needs labels.*\(auto, cwd, mgd, pkd, score_l2\)"),
        ({"distill": "cwd+output"}, r"--unlabelled: output needs labels"),
        ({"distill": "sdd"}, r"--unlabelled: sdd needs labels"),
    ],
    ids=str,
)
def test_what_cannot_be(place: Path, changes: dict[str, Any], message: str) -> None:
    changes = {name: value.format(place=place) if value else value for name, value in changes.items()}
    with pytest.raises(UserError, match=message) as told:
        train(label_free(place, name="never", **changes))
    assert "\n" not in str(told.value) and not (place / "runs/never").exists()
