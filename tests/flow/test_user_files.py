"""What lies in a data set is data: no command runs it, and none writes, renames or deletes a file of the user's."""

from __future__ import annotations

import hashlib
import os
import pickle
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import yaml

sys.path.insert(0, str(Path(__file__).parent))
from tiny import training, write_data, write_model

import detect
import export
from cfg.errors import guard
from data import check, expand, split
from data.convert.__main__ import main as convert
from engine.training.launch import train
from engine.validation.evaluate import evaluate

OURS = ".tandem"  # folders that Tandem made
opened: list[str] = []
watched: list[str] = []


def _listen(event: str, arguments: tuple) -> None:
    if event == "open" and watched and isinstance(arguments[0], str) and arguments[0].startswith(watched[0]):
        opened.append(arguments[0])


sys.addaudithook(_listen)


class Payload:
    """Unpickled, it makes the folder that the environment names."""

    def __reduce__(self):
        return os.mkdir, (os.environ["PAYLOAD"],)


def snapshot(folder: Path) -> dict[str, tuple]:
    """Digest and date of every file below a folder that is not ours, and the folders."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if OURS not in name:
            found[name] = path.is_file() and (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns)
    return found


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory):
    """A trained tiny model, and a data set that holds what other programs, and other people, leave there; read-only."""
    folder = tmp_path_factory.mktemp("user")
    data = folder / "set"
    data.mkdir()
    write_data(data)
    write_model(folder / "model.yaml", width=64)
    os.environ["PAYLOAD"] = str(folder / "RAN")
    bad = pickle.dumps(Payload())
    for name in ("labels/train.cache", "labels/val.cache", "labels.cache", "images/train.cache", "images/train/0.pkl"):
        (data / name).write_bytes(bad)
    np.save(data / "images/train/0.npy", np.linspace(0, 1, 64 * 64, dtype=np.float32).reshape(64, 64))  # a height map
    np.save(data / "images/train/1.npy", np.array(Payload(), dtype=object), allow_pickle=True)
    np.save(data / "images/val/0.npy", np.zeros((64, 64, 3), np.uint8))  # as the host's own cache would be
    (data / "images/train/2.npy").write_bytes(bad)
    noise = np.random.default_rng(1).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    (data / "images/train/phone.jpg").write_bytes(cv2.imencode(".jpg", noise)[1].tobytes() + b"\0" * 3000)
    (data / "labels/train/phone.txt").write_text("0 .5 .5 .2 .2\n")
    (data / "images/train/cut.jpg").write_bytes(cv2.imencode(".jpg", noise)[1].tobytes()[:900])
    (data / "voc").mkdir()
    box = "<bndbox><xmin>4</xmin><ymin>4</ymin><xmax>20</xmax><ymax>20</ymax></bndbox>"
    for i in range(2):
        (data / f"voc/{i}.xml").write_text(
            f"<annotation><filename>train/{i}.png</filename><object><name>dark</name>{box}</object></annotation>"
        )
    for path in data.rglob("*"):
        path.chmod(0o555 if path.is_dir() else 0o444)
    before = snapshot(data)
    watched[:] = [str(data)]
    run = train(training(folder, data=str(data / "data.yaml"), cache="disk", epochs=1, rect=True, auto_anchors=True))
    yield folder, data, before, run / "weights/best.pt"
    watched.clear()
    for path in (data, *data.rglob("*")):
        if path.is_dir():
            path.chmod(0o755)


def commands(folder: Path, data: Path, weights: Path) -> dict[str, int]:
    """Exit status of every command that reads a data set."""
    said, place = str(data / "data.yaml"), [str(folder / name) for name in ("voc-out", "split-out", "large-out")]
    evaluate(weights, said, device="cpu", plots=True, save_dir=folder / "val")
    source = ["--weights", str(weights), "--source", str(data), "--project", str(folder / "detect"), "--save-json"]
    calibrated = ["--int8", "--data", said, "--max-loss", "none", "--no-check"]
    return {
        "train": 0 if train(training(folder, data=said, cache="ram", epochs=1, name="ram")) else 2,
        "detect": guard(lambda: detect.main(source)),
        "check": guard(lambda: check.main(["--data", said])),
        "convert": guard(lambda: convert(["--format", "voc", "--source", str(data), "--out", place[0]])),
        "split": guard(lambda: split.main(["--source", place[0], "--out", place[1], "--ratios", "1:1"])),
        "expand": guard(lambda: expand.main(["--data", f"{place[1]}/data.yaml", "--out", place[2]])),
        "int8": guard(lambda: export.main(["--weights", str(weights), "--out", str(folder / "exports"), *calibrated])),
    }


def test_every_command_leaves_a_data_set_as_it_was_and_runs_nothing_in_it(place) -> None:
    folder, data, before, weights = place
    status = commands(folder, data, weights)
    foreign = [name for name in opened if name.endswith((".cache", ".npy", ".pkl")) and OURS not in name]
    assert not foreign, "files of other programs are not even opened"
    assert not (folder / "RAN").exists(), "something in the data set was run"
    assert snapshot(data) == before
    # 1: the image that ends early was left out, and was said (`train` here: whether it gave a folder)
    assert status == {"train": 0, "detect": 1, "check": 1, "convert": 0, "split": 0, "expand": 0, "int8": 1}


def test_decoded_images_are_kept_in_our_own_folder(place) -> None:
    _folder, data, _, weights = place
    kept = {path.suffix for path in (data / f"labels/train{OURS}").iterdir()}
    decoded = list((data / f"labels/train{OURS}").glob("*.npy"))
    assert kept == {".json", ".npy"} and len(decoded) == 9  # eight squares and the phone's
    assert all(np.load(file, allow_pickle=False).shape == (64, 64, 3) for file in decoded)
    assert "cut.jpg,truncated" in (weights.parent.parent / "left-out.csv").read_text()
    anchors = yaml.safe_load((weights.parent.parent / "args.yaml").read_text())
    assert anchors["rect"] is True and anchors["cache"] == "disk"


def test_a_kept_image_is_data_too(place) -> None:
    folder, data, _, _ = place
    for file in (data / f"labels/train{OURS}").glob("*.npy"):
        file.write_bytes(pickle.dumps(Payload()))
    assert train(training(folder, data=str(data / "data.yaml"), cache="disk", epochs=1, name="again"))
    assert not (folder / "RAN").exists()


@pytest.mark.parametrize("channels", [3, 1])
def test_an_image_that_changes_while_a_run_reads_it_ends_the_run_in_one_line(tmp_path: Path, channels: int) -> None:
    from cfg import UserError
    from engine.dataset import _imread

    (tmp_path / "x.png").write_text("no image any more")
    if channels == 3:
        with pytest.raises(UserError, match="x.png: not a readable image; it could be read when the run began"):
            _imread(str(tmp_path / "x.png"))
    else:
        assert _imread(str(tmp_path / "x.png"), cv2.IMREAD_GRAYSCALE) is None
