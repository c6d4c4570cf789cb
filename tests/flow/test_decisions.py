"""OK and NG from end to end: val.py chooses thresholds, the weights carry them, detect.py decides as was promised."""

from __future__ import annotations

import csv
import json
import sys
from importlib import import_module
from pathlib import Path

import cv2
import numpy as np
import pytest

import detect
import models  # noqa: F401  (before ultralytics)
import val
from cfg import guard
from engine.checkpoint import load_detector, save_student
from engine.detection import detect_run
from inspection.plan_file import load_plan
from tests.flow.tiny import NAMES, save_tiny, write_image

NG, OK = 60, 12


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """best.pt, and a set of 60 images with a label and 12 without, of two shapes, three to a part."""
    folder = tmp_path_factory.mktemp("decisions")
    save_tiny(folder / "best.pt")
    rows = ["image,part,lot"]
    for number in range(NG + OK):
        name = f"{'ng' if number < NG else 'ok'}{number:02d}.png"
        write_image(folder / "images/val" / name, number, height=64, width=64 if number % 2 else 48)
        (folder / "labels/val").mkdir(parents=True, exist_ok=True)
        (folder / f"labels/val/{name[:-4]}.txt").write_text(f"{number % 3} .5 .5 .4 .4\n" if number < NG else "")
        rows.append(f"val/{name},p{number // 3},l1")
    (folder / "groups.csv").write_text("\n".join(rows) + "\n")
    (folder / "data.yaml").write_text(f"train: images/val\nval: images/val\nnames: [{', '.join(NAMES.values())}]\n")
    return folder


def run(monkeypatch, capsys, script, *arguments) -> tuple[int, str, str]:
    """Status, stdout and stderr of a command line."""
    monkeypatch.setattr(sys, "argv", [f"{script.__name__}.py", *map(str, arguments)])
    capsys.readouterr()
    status = guard(script.main)
    told = capsys.readouterr()
    return status, told.out, told.err


def decide_arguments(place: Path, run_dir: Path, *more) -> list:
    base = ["--weights", place / "best.pt", "--data", place / "data.yaml", "--device", "cpu", "--save-dir", run_dir, "--no-plots"]
    return [*base, "--decide", *more]


def test_what_was_promised_is_what_detection_decides(place, tmp_path, monkeypatch, capsys):
    more = ["--max-escape", "0.05", "--embed", "--json", tmp_path / "r.json"]
    arguments = [a for a in decide_arguments(place, tmp_path / "run", *more) if a != "--no-plots"]
    status, out, _ = run(monkeypatch, capsys, val, *arguments)
    assert status == 0
    assert "with 95 % confidence (delta 0.05), at most 5 % (alpha) of NG images pass as OK with best.pt (pytorch)" in out
    assert f"0 of {NG} NG images passed as OK (0 allowed)" in out and "It rests on: images that are independent" in out
    assert "a training chooses its best epoch on split 'val'" in out
    plan, told = load_plan(tmp_path / "run/decision.yaml"), json.loads((tmp_path / "r.json").read_text())["decision"]
    assert plan.promise.ng == NG and plan.promise.ok == OK and plan.model.kind == "pytorch" and plan.model.imgsz == 64
    assert told["rates"]["escape"]["count"] == 0 and told["escapes"] == [] and len(told["overkills"]) == plan.promise.overkills
    names = {p.name for p in (tmp_path / "run").iterdir()}
    assert {"decision.yaml", "escapes.csv", "overkills.csv", "decision_scores.png", "decision_curve.png", "decision_confusion.png"} <= names
    assert ("overkills.jpg" in names) == bool(plan.promise.overkills) and "escapes.jpg" not in names

    kept = tmp_path / "kept.pt"  # no validation chose among its epochs, so that the part is as good as another
    save_student(kept, load_detector(place / "best.pt")[0], {"train_args": {"imgsz": 64, "val": False}})
    more = ["--weights", kept, "--max-escape", "0.05"]
    assert "It rests on" in (out := run(monkeypatch, capsys, val, *decide_arguments(place, tmp_path / "kept", *more))[1]) and "WARNING" not in out

    (place / "images/val/broken.jpg").write_bytes(b"nothing")
    try:
        status, out, err = run(monkeypatch, capsys, detect, "--weights", place / "best.pt", "--source", place / "images/val", "--device", "cpu",
                               "--project", tmp_path / "det", "--no-draw", "--save-json", "--save-csv", "--save-coco",
                               "--sort-into", "ok,ng,review,undefined")  # fmt: skip
    finally:
        (place / "images/val/broken.jpg").unlink()
    assert status == 1 and "promise" not in err
    content = json.loads((tmp_path / "det/exp/results.json").read_text())
    verdicts = {entry["image"]: entry["verdict"] for entry in content["images"]}
    assert all(verdict == "NG" for name, verdict in verdicts.items() if name.startswith("ng"))  # to the last bit of the lowest score
    overkill = sum(verdict == "NG" for name, verdict in verdicts.items() if name.startswith("ok"))
    assert overkill == plan.promise.overkills
    assert content["skipped"][0]["verdict"] == "UNDEFINED" and f"Verdicts: {OK - overkill} OK, {NG + overkill} NG, 0 REVIEW, 1 UNDEFINED" in out
    rows = list(csv.DictReader((tmp_path / "det/exp/results.csv").open()))
    assert {row["image"]: row["verdict"] for row in rows if row["verdict"] != "UNDEFINED"} == verdicts
    coco = json.loads((tmp_path / "det/exp/coco.json").read_text())["images"]
    assert {image["file_name"]: image["verdict"] for image in coco} == verdicts
    for folder, verdict in (("ok", "OK"), ("ng", "NG")):
        links = {p.name for p in (tmp_path / "det/exp" / folder).glob("*")}
        assert links == {name for name, given in verdicts.items() if given == verdict}
    assert (tmp_path / "det/exp/ng/ng00.png").is_symlink() and (tmp_path / "det/exp/undefined/broken.jpg").is_symlink()
    assert len(list((place / "images/val").iterdir())) == NG + OK


@pytest.mark.parametrize("promise", [("0.01",), ("0.05", "--max-overkill", "0.05"), ("0.01", "--group-by", "part")], ids=["ng", "ok", "parts"])
def test_what_so_few_images_cannot_promise_is_refused_before_the_model_looks(place, tmp_path, monkeypatch, capsys, promise):
    monkeypatch.setattr(import_module("engine.validation.evaluate"), "_run", lambda *_: pytest.fail("the model looked at the images"))
    status, _, err = run(monkeypatch, capsys, val, *decide_arguments(place, tmp_path / "run", "--max-escape", *promise))
    assert status == 2 and "expected at least" in err.strip().splitlines()[-1] and not (tmp_path / "run").exists()


def test_parts_are_counted_by_a_column(place, tmp_path, monkeypatch, capsys):
    status, out, _ = run(monkeypatch, capsys, val, *decide_arguments(place, tmp_path, "--max-escape", "0.2", "--group-by", "part"))
    assert status == 0 and "0 of 20 NG units (images of one part) passed as OK" in out
    assert load_plan(tmp_path / "decision.yaml").promise.unit == "part"


def test_a_plan_by_hand_is_judged(place, tmp_path, monkeypatch, capsys):
    (tmp_path / "plan.yaml").write_text("classes: {scratch: {threshold: 1.0}, pit: {threshold: 1.0}, patch: {threshold: 1.0}}\n")
    arguments = ["--weights", place / "best.pt", "--data", place / "data.yaml", "--device", "cpu", "--save-dir", tmp_path / "run"]
    status, out, err = run(monkeypatch, capsys, val, *arguments, "--decision", tmp_path / "plan.yaml")
    assert status == 0 and f"{NG} of {NG} NG images passed as OK" in out and "nothing is promised" in err
    assert {"escapes.csv", "escapes.jpg"} <= {p.name for p in (tmp_path / "run").iterdir()}
    assert not (tmp_path / "run/decision.yaml").exists()


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


LONG = "classes: {scratch: {min_length_mm: 900}, pit: {min_length_mm: 900}, patch: {min_length_mm: 900}}\nmm_per_pixel: 0.1"
REFUSED = [
    (["--max-escape", "0.01"], None, "expected at least 299 NG images (at 0.95 confidence, without a miss), got 60; 4.87 % is the best"),
    (["--max-escape", "0.05", "--max-overkill", "0.05"], None, "--max-overkill 0.05: expected at least 59 OK images"),
    ([], None, "--decide: expected the largest share of NG images"),
    (["--max-escape", "0"], None, "--max-escape: expected a number between 0 and 1"),
    (["--max-escape", "0.05", "--group-by", "prat"], None, "expected a column 'prat', got image, part, lot; did you mean 'part'?"),
    (["--max-escape", "0.05", "--groups", "g.csv"], None, "--groups: expected the column"),
    (["--max-escape", "0.05"], "classes: {dent: {severity: none}}", "expected classes of the model (scratch, pit, patch), got 'dent'"),
    (["--max-escape", "0.05"], LONG, "in 60 of 60 none counts at any threshold under the plan's rules"),
    (["--max-escape", "0.05"], "regions: {unit: pixels, width: 9, height: 9, look_at: [[[0, 0], [9, 0], [9, 9]]]}",
     "expected images of 9 x 9 pixels"),
    (["--max-escape", "0.05"], "classes: {pit: {threshold: 0.3}}", "expected a threshold for every class or for none"),
]  # fmt: skip


@pytest.mark.parametrize(("more", "plan", "message"), REFUSED, ids=[f"{i}" for i in range(len(REFUSED))])
def test_what_cannot_be_promised_is_refused_in_one_line(place, tmp_path, monkeypatch, capsys, more, plan, message):
    start = ["--decision", write(tmp_path / "start.yaml", plan)] if plan else []
    before = (place / "best.pt").read_bytes()
    status, _, err = run(monkeypatch, capsys, val, *decide_arguments(place, tmp_path / "run", *more, *start, "--embed"))
    last = err.strip().splitlines()[-1]
    assert status == 2 and last.startswith("error: ") and message in last
    assert not (tmp_path / "run").exists() and (place / "best.pt").read_bytes() == before


def test_a_set_without_ok_images(place, tmp_path, monkeypatch, capsys):
    write(tmp_path / "list.txt", "\n".join(str(p) for p in sorted((place / "images/val").glob("ng*"))) + "\n")
    data = write(tmp_path / "data.yaml", f"val: {tmp_path}/list.txt\nnames: [{', '.join(NAMES.values())}]\n")
    status, _, err = run(monkeypatch, capsys, val, "--weights", place / "best.pt", "--data", data, "--device", "cpu", "--save-dir", tmp_path / "r",
                         "--no-plots", "--decide", "--max-escape", "0.05")  # fmt: skip
    assert status == 2 and "expected OK images (without labels) too, got none among 60" in err


DETECT_REFUSED = [
    (["--sort-into", "ok,ng,review", "--no-decision"], "--sort-into ok,ng,review: expected a decision plan"),
    (["--sort-into", "ok,ng"], "expected three or four different folders"),
    (["--sort-into", "{images}/ok,ng,review"], "expected folders outside of --source"),
    (["--classes", "pit"], "--classes: expected all classes with a decision plan"),
    (["--decision", "{place}/gone.yaml"], "gone.yaml"),
]


@pytest.mark.parametrize(("more", "message"), DETECT_REFUSED, ids=[m[:20] for _, m in DETECT_REFUSED])
def test_detection_refuses(place, tmp_path, monkeypatch, capsys, more, message):
    plan = write(tmp_path / "plan.yaml", "classes: {scratch: {threshold: .9}, pit: {threshold: .9}, patch: {threshold: .9}}\n")
    images = place / "images/val"
    given = [text.format(images=images, place=place) for text in more]
    given += [] if {"--no-decision", "--decision"} & set(given) else ["--decision", str(plan)]
    status, _, err = run(monkeypatch, capsys, detect, "--weights", save_tiny(tmp_path / "b.pt"), "--source", images, "--device", "cpu",
                         "--project", tmp_path / "det", *given)  # fmt: skip
    assert status == 2 and message in err.strip().splitlines()[-1] and not (tmp_path / "det").exists()


def test_images_that_cannot_be_decided_about_are_counted(place, tmp_path, monkeypatch, capsys):
    """Regions in pixels are for images of one size."""
    text = "classes: {scratch: {threshold: .9}, pit: {threshold: .9}, patch: {threshold: .9}}\n"
    plan = write(tmp_path / "plan.yaml", text + "regions: {unit: pixels, width: 64, height: 64, look_at: [[[0, 0], [64, 0], [64, 64]]]}")
    weights, images = save_tiny(tmp_path / "b.pt"), place / "images/val"
    for name, status, words in (("ng00.png", 1, "Undecided: 1 images"), ("ng01.png", 0, "0 REVIEW of 1 images")):
        got, out, _ = run(monkeypatch, capsys, detect, "--weights", weights, "--source", images / name, "--device", "cpu", "--no-draw",
                          "--project", tmp_path / "det", "--decision", plan)  # fmt: skip
        assert got == status and words in out and ("-> UNDEFINED: image of 48 x 64 pixels" in out) == bool(status)


def test_two_models_are_compared(place, tmp_path, monkeypatch, capsys):
    base = ["--data", place / "data.yaml", "--device", "cpu"]
    boxes = tmp_path / "a.npz"
    saved = ["--detections", boxes, "--save-dir", tmp_path / "v", "--no-plots"]
    assert run(monkeypatch, capsys, val, "--weights", place / "best.pt", *base, *saved)[0] == 0
    plan = write(tmp_path / "plan.yaml", "classes: {scratch: {threshold: .5}, pit: {threshold: .5}, patch: {threshold: .5}}\n")
    status, out, _ = run(monkeypatch, capsys, val, "--compare", boxes, place / "best.pt", *base, "--decision", plan, "--save-dir", tmp_path / "c")
    assert status == 0 and "0 flips are harmful, 0 beneficial, McNemar p = 1" in out and "B differs by at most 1 points" in out
    again = ["--compare", boxes, boxes, *base, "--group-by", "part", "--decision"]
    assert run(monkeypatch, capsys, val, *again, plan)[0] == 0, "images are known by the end of their path, as with --decide"
    assert "boxes were found at" not in out
    other = write(tmp_path / "other.yaml", "classes: {scratch: {threshold: .5}}\nmodel: {kind: pytorch, sha256: '0', imgsz: 64, iou: 0.45}\n")
    tiled = write(tmp_path / "tiled.yaml", plan.read_text() + "tiling: {size: 64, overlap: 0.2}\n")
    (tmp_path / "cut.npz").write_bytes(boxes.read_bytes()[:200])
    for given, words in ((tiled, "expected boxes that were found in tiles of 64 px"), (other, "expected")):
        status, _, err = run(monkeypatch, capsys, val, *again, given)
        assert status == 2 and words in err and err.count("\n") == 1
    status, _, err = run(monkeypatch, capsys, val, "--compare", boxes, tmp_path / "cut.npz", *base)
    assert status == 2 and "expected weights, or boxes that val.py --detections wrote" in err
    for missing in ("none.npz", "none.pt"):
        status, _, err = run(monkeypatch, capsys, val, "--compare", boxes, tmp_path / missing, *base)
        assert status == 2 and f"--compare {tmp_path / missing}: expected a " in err and "nothing is there" in err


def test_an_image_that_was_read_in_part_is_never_ok(place, tmp_path, monkeypatch, capsys):
    """Of a file of two images only the first is looked at: nothing is found there, and it has one verdict in every file."""
    pages = [np.full((64, 64, 3), value, np.uint8) for value in (60, 90)]
    assert cv2.imwritemulti(str(tmp_path / "pages.tif"), pages)
    plan = write(tmp_path / "plan.yaml", "classes: {scratch: {threshold: 1}, pit: {threshold: 1}, patch: {threshold: 1}}\n")
    weights = save_tiny(tmp_path / "b.pt")
    status, out, _ = run(monkeypatch, capsys, detect, "--weights", weights, "--source", tmp_path / "pages.tif", "--device", "cpu",
                         "--decision", plan, "--project", tmp_path / "det", "--no-draw", "--save-json", "--save-csv", "--report")  # fmt: skip
    assert status == 1 and "0 OK, 0 NG, 0 REVIEW, 1 UNDEFINED of 1 images" in out
    content = json.loads((tmp_path / "det/exp/results.json").read_text())
    assert [(x["image"], x["verdict"]) for x in content["images"]] == [("pages.tif", "UNDEFINED")] and content["skipped"] == []
    assert [x["image"] for x in content["notes"]] == ["pages.tif"] and "2 images" in content["notes"][0]["reason"]
    rows = list(csv.DictReader((tmp_path / "det/exp/results.csv").open()))
    assert [(row["image"], row["verdict"]) for row in rows] == [("pages.tif", "UNDEFINED")] and "2 images" in rows[0]["rule"]


@pytest.mark.parametrize("more", [[], ["--tile", "32"]])
def test_a_network_whose_output_is_no_number_never_says_ok(place, tmp_path, monkeypatch, capsys, more):
    """Suppression drops what is no number: nothing would be left, and the image would pass."""
    weights, images, plan = tmp_path / "nan.pt", tmp_path / "images", tmp_path / "plan.yaml"
    detector = load_detector(place / "best.pt")[0]
    detector.model[-1].cv3[0][-1].bias.data.fill_(float("nan"))
    save_student(weights, detector, {"train_args": {"imgsz": 64}})
    write(plan, "classes: {scratch: {threshold: .5}, pit: {threshold: .5}, patch: {threshold: .5}}\n")
    for number in range(2):
        write_image(images / f"{number}.png", number)
    given = ["--weights", weights, "--source", images, "--device", "cpu", "--decision", plan, *more]
    status, out, _ = run(monkeypatch, capsys, detect, *given, "--project", tmp_path / "det", "--no-draw", "--save-json")
    assert status == 1 and "0 OK, 0 NG, 0 REVIEW, 2 UNDEFINED of 2 images" in out and "values that are no numbers" in out
    content = json.loads((tmp_path / "det/exp/results.json").read_text())
    assert content["images"] == [] and [entry["verdict"] for entry in content["skipped"]] == ["UNDEFINED"] * 2
    status, _, err = run(monkeypatch, capsys, val, *decide_arguments(place, tmp_path / "run", "--weights", weights, "--max-escape", "0.1"), *more)
    assert status == 2 and "values that are no numbers" in err.splitlines()[-1]


def test_a_run_folder_with_images_of_the_source_is_refused(place, tmp_path, monkeypatch, capsys):
    """Drawings have the images' names, and an image without objects has its label file removed."""
    for source in (tmp_path / "mine/images", tmp_path / "mine/images/*.png", tmp_path / "mine/images/0.png"):
        image = write_image(tmp_path / "mine/images/0.png", 1)
        (tmp_path / "mine/labels").mkdir(exist_ok=True)
        label, before = write(tmp_path / "mine/labels/0.txt", "0 .5 .5 .1 .1\n"), image.read_bytes()
        for name in ("mine", "mine/images"):
            status, _, err = run(monkeypatch, capsys, detect, "--weights", place / "best.pt", "--source", source, "--device", "cpu",
                                 "--project", tmp_path, "--name", name, "--exist-ok", "--save-txt", "--conf", "0.99")  # fmt: skip
            assert status == 2 and err.count("\n") == 1
            assert "expected a run folder without images of --source" in err or source == tmp_path / name
        assert image.read_bytes() == before and label.is_file()


def test_what_a_run_that_ended_early_wrote_says_so(place, tmp_path, monkeypatch, capsys):
    for number in range(3):
        write_image(tmp_path / f"images/{number}.png", number)
    take = detect_run.Run._take
    seen = []

    def interrupted(self, result):
        seen.append(result)
        if len(seen) == 2:
            raise KeyboardInterrupt
        return take(self, result)

    monkeypatch.setattr(detect_run.Run, "_take", interrupted)
    given = ["--weights", place / "best.pt", "--source", tmp_path / "images", "--device", "cpu", "--project", tmp_path / "det"]
    status, out, _ = run(monkeypatch, capsys, detect, *given, "--no-draw", "--save-json", "--report")
    assert status == 130 and "ended before all of it was looked at" in out and "Images lost: 1 times" in out
    content = json.loads((tmp_path / "det/exp/results.json").read_text())
    assert len(content["images"]) == 1 and content["skipped"][0]["reason"] == detect_run.ENDED_EARLY
    assert detect_run.ENDED_EARLY in (tmp_path / "det/exp/report.html").read_text()
