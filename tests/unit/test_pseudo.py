"""data.pseudo: which images a model labels, with which boxes, in whose order of classes; what is left out and refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cfg import UserError, guard
from data import pseudo, resolve
from data.layout import label_rows
from data.pseudo import main, pseudo_label

THEIRS = {"0": "pit", "1": "scratch"}  # the data set has them the other way round
PIT, SCRATCH = (0, [20, 10, 60, 30]), (1, [0, 0, 100, 50])


def picture(path: Path, grey: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((50, 100), grey, np.uint8)).save(path)
    return path


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A data set of two images, `mine`, and a folder of others, `more`."""
    for part, grey in (("train", 1), ("val", 2)):
        image = picture(tmp_path / f"mine/images/{part}/a.png", grey)
        label = tmp_path / f"mine/labels/{part}/{image.stem}.txt"
        label.parent.mkdir(parents=True)
        label.write_text("0 0.5 0.5 0.2 0.2\n")
    (tmp_path / "mine/data.yaml").write_text("train: images/train\nval: images/val\nnames: [scratch, pit]\n")
    for name, grey in (("a", 3), ("sub/a", 4), ("c", 5), ("d", 6)):
        picture(tmp_path / f"more/{name}.png", grey)
    return tmp_path


def model_that_finds(monkeypatch: pytest.MonkeyPatch, found: dict[str, list], names: dict[str, str] = THEIRS) -> list[list[str]]:
    """In the place of detect.py: boxes by the folder and stem of an image, (class, box, confidence); None: not readable."""
    calls: list[list[str]] = []

    def run(script: str, arguments: Sequence[str], folder: Path) -> None:
        calls.append([script, *arguments])
        listed = Path(arguments[arguments.index("--source") + 1]).read_text().split()
        images, skipped = [], []
        for path in map(Path, listed):
            boxes = found.get(f"{path.parent.name}/{path.stem}", [])
            if boxes is None:
                skipped.append({"image": str(path), "reason": "not a readable image"})
                continue
            told = [{"name": names[str(kind)], "confidence": score, "box": dict(zip(("x1", "y1", "x2", "y2"), box))} for kind, box, score in boxes]
            images.append({"image": path.name, "width": 100, "height": 50, "detections": told})
        (folder / "found").mkdir()
        (folder / "found/results.json").write_text(json.dumps({"names": names, "images": images, "skipped": skipped}))

    monkeypatch.setattr(pseudo, "run_script", run)
    return calls


def test_sure_images_are_labelled_and_others_left_out(place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    shutil.copy(place / "mine/images/val/a.png", place / "more/e.png")  # known by its content
    found = {"more/a": [(*PIT, 0.9), (*SCRATCH, 0.1)], "sub/a": [], "more/c": [(*PIT, 0.9), (*SCRATCH, 0.3)], "more/d": None}
    calls = model_that_finds(monkeypatch, found)
    out = place / "out"
    given = ["--weights", "t.pt", "--data", str(place / "mine"), "--unlabelled", str(place / "more"), "--out", str(out), "--imgsz", "96"]
    assert main(given) == 1, "an image could not be read"
    told = capsys.readouterr().out
    assert "labelled 2 images, 1 with defects and 1 without" in told and "d.png: not a readable image" in told
    assert "left out 1 images about which" in told and "left out 1 images that the data set has already" in told
    content = resolve(out)
    assert content["names"] == {0: "scratch", 1: "pit"}
    rows = {image.stem: label_rows(image).tolist() for image in sorted((out / "images/train").iterdir())}
    assert len(rows) == 3 and sorted(map(len, rows.values())) == [0, 1, 1]
    assert [1, 0.4, 0.4, 0.4, 0.4] in [row for some in rows.values() for row in some], "the pit, by the data set's number"
    assert [x.name for x in (out / "images/val").iterdir()] == ["a.png"]
    assert calls[0][0] == "detect.py" and calls[0][calls[0].index("--imgsz") + 1] == "96"
    assert float(calls[0][calls[0].index("--conf") + 1]) == 0.25, "boxes are asked for from the doubt on"


def test_what_is_refused(place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    given = {"weights": "t.pt", "data": place / "mine", "unlabelled": place / "more", "out": place / "out"}
    model_that_finds(monkeypatch, {}, {"0": "pit", "1": "dent"})
    with pytest.raises(UserError, match="expected a model of the classes scratch, pit, got pit, dent"):
        pseudo_label(**given)
    model_that_finds(monkeypatch, {f"{folder}/{stem}": [(*PIT, 0.3)] for folder in ("more", "sub") for stem in "acd"})
    with pytest.raises(UserError, match=r"is sure, got none of 4, 0 of them in .*lower --conf or raise --doubt"):
        pseudo_label(**given)
    for conf, doubt in ((0.0, None), (1.5, None), (0.5, 0.6), (0.5, 0.0), (float("nan"), None)):
        with pytest.raises(UserError, match="expected 0 < doubt <= conf <= 1"):
            pseudo_label(**given, conf=conf, doubt=doubt)
    with pytest.raises(UserError, match="no such folder"):
        pseudo_label(**given | {"unlabelled": place / "none"})
    with pytest.raises(UserError, match="expected an output folder apart"):
        pseudo_label(**given | {"out": place / "mine"})
    assert not (place / "out").exists()
    words = ["--weights", "t.pt", "--data", str(place / "mine"), "--unlabelled", str(place / "more"), "--out", str(place / "out")]
    assert guard(lambda: main([*words, "--conf", "2"])) == 2 and capsys.readouterr().err.count("\n") == 1


def test_all_known_images_need_no_model(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = model_that_finds(monkeypatch, {})
    with pytest.raises(UserError, match="got none of 2, 2 of them in"):
        pseudo_label("t.pt", place / "mine", place / "mine/images", place / "out")
    assert not calls
