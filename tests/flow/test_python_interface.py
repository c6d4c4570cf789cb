"""tandem.py and hubconf.py: the same boxes as detect.py, whatever an image comes as, and mistakes told in one line."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))
from tiny import save_tiny, training, write_data, write_image, write_model

import detect
import tandem
from data.images import read_pixels
from engine.decision.plans import embed
from inspection.plan import ClassRule, Plan
from inspection.rules import Code

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with best.pt and images of several sizes, one of them broken."""
    folder = tmp_path_factory.mktemp("python")
    save_tiny(folder / "best.pt")
    for seed, (name, side) in enumerate((("a.png", 64), ("b.png", 96), ("deep/c.jpg", 128))):
        write_image(folder / "images" / name, seed, side, 64)
    return folder


@pytest.fixture(scope="module")
def detector(place: Path) -> tandem.Detector:
    return tandem.load(place / "best.pt", "cpu", conf=0.1)


def by_script(weights: Path, source: Path, project: Path, *more: str) -> dict[str, Any]:
    command = ["--weights", str(weights), "--source", str(source), "--project", str(project), "--device", "cpu", "--save-json"]
    detect.main([*command, "--conf", "0.1", *more])
    return json.loads((project / "exp/results.json").read_text(encoding="utf-8"))


def written(found: tandem.Results) -> list[dict[str, Any]]:
    """A result's boxes as results.json has them."""
    rows = zip(found.boxes_xyxy.tolist(), found.scores.tolist(), found.classes.tolist(), strict=True)
    corners = ("x1", "y1", "x2", "y2")
    return [
        {"class": index, "name": found.names[index], "confidence": round(score, 5),
         "box": dict(zip(corners, (round(value, 2) for value in box), strict=True))}
        for box, score, index in rows
    ]  # fmt: skip


def same(a: tandem.Results, b: tandem.Results) -> bool:
    """Equal but for rounding, which depends on the number of images at once on some processors."""
    if len(a) != len(b) or not np.array_equal(a.classes, b.classes):
        return False
    return np.allclose(a.boxes_xyxy, b.boxes_xyxy, rtol=0, atol=1e-3) and np.allclose(a.scores, b.scores, rtol=0, atol=1e-5)


@pytest.mark.parametrize("changes", [{}, {"tile": 48, "overlap": 0.25}, {"classes": ["pit", 2], "iou": 0.3, "max_det": 5}])
def test_boxes_of_files_are_those_of_detect(place: Path, detector: tandem.Detector, tmp_path: Path, changes: dict[str, Any]) -> None:
    words = {"classes": ["--classes", "pit", "2"]}
    flags = [part for name, value in changes.items() for part in words.get(name, [f"--{name.replace('_', '-')}", str(value)])]
    told = by_script(place / "best.pt", place / "images", tmp_path, *flags)
    results = detector.predict(place / "images", **changes)
    assert [written(found) for found in results] == [image["detections"] for image in told["images"]]
    assert sum(map(len, results)) > 5
    assert [found.relative.as_posix() for found in results] == [image["image"] for image in told["images"]]
    assert (results[0].plot() == read_pixels(tmp_path / "exp/a.png")).all()


def test_a_picture_is_the_same_in_every_form(place: Path, detector: tandem.Detector) -> None:
    path = place / "images/b.png"
    (expected,) = detector(path)
    bgr = cv2.imread(str(path))
    rgb = torch.from_numpy(bgr[..., ::-1].copy()).permute(2, 0, 1)
    forms = [str(path), bgr, Image.open(path), Image.open(path).convert("RGBA"), rgb, rgb / 255, (rgb / 255).half(), (rgb / 255).to_sparse()]
    forms += [bgr.astype(np.uint16) << 8, np.asfortranarray(bgr), bgr / 255.0]
    assert len(expected) and all(same(found, expected) for found in detector(forms))
    assert all(same(found, expected) for found in detector(torch.stack([rgb, rgb])))
    grey = bgr[..., 0]
    assert same(*detector([grey, np.repeat(grey[..., None], 3, axis=2)]))


def test_paths_and_pictures_mix_and_keep_their_order(place: Path, detector: tandem.Detector, tmp_path: Path) -> None:
    picture = read_pixels(place / "images/a.png")
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no image")
    with pytest.warns(UserWarning, match="broken.png: not a readable image"):
        results = detector([place / "images/b.png", broken, place / "images/a.png", picture])
    assert [(found.path.name, bool(found.problem)) for found in results] == [
        ("b.png", False), ("broken.png", True), ("a.png", False), ("image0", False)]  # fmt: skip
    assert results[1].verdict.code is Code.UNDEFINED and not len(results[1])
    assert same(results[2], results[3]) and (results[3].plot() == results[2].plot()).all()
    with pytest.raises(tandem.UserError, match="nothing to draw"):
        results[1].plot()


def test_verdicts_of_a_plan_inside_the_weights(place: Path, tmp_path: Path) -> None:
    weights = save_tiny(tmp_path / "best.pt")
    embed(weights, Plan(("scratch", "pit", "patch"), (ClassRule(threshold=0.26),) * 3))
    told = by_script(weights, place / "images", tmp_path)
    deciding = tandem.load(weights, "cpu", conf=0.1)
    assert repr(deciding) == f"Detector('{weights}', 3 classes, with a decision plan)"
    results = deciding.predict(place / "images")
    assert [(found.verdict.code.name, found.verdict.rule) for found in results] == [(i["verdict"], i["rule"]) for i in told["images"]]
    assert tandem.load(weights, "cpu", no_decision=True).predict(place / "images/a.png")[0].verdict is None


def test_exports_load_and_say_the_same(place: Path, detector: tandem.Detector, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("openvino")
    files = tandem.export(place / "best.pt", "onnx,openvino", out=tmp_path, check=False)
    assert [file.name for file in files] == ["best.onnx", "best_openvino_model"]
    expected = detector(place / "images/a.png")[0]
    for file in files:
        (found,) = tandem.load(file, "cpu", conf=0.1)(place / "images/a.png")
        assert np.allclose(found.boxes_xyxy, expected.boxes_xyxy, atol=0.05) and (found.classes == expected.classes).all()


def test_forms_of_other_libraries(place: Path, detector: tandem.Detector, tmp_path: Path) -> None:
    (found,) = detector(place / "images/a.png")
    assert (read_pixels(found.save(tmp_path / "drawn.png")) == found.plot()).all()
    with pytest.raises(tandem.UserError, match="cannot be written"):
        found.save(tmp_path / "none/drawn.png")
    pandas = pytest.importorskip("pandas")
    table = found.to_pandas()
    assert isinstance(table, pandas.DataFrame) and list(table) == ["class", "name", "confidence", "x1", "y1", "x2", "y2"]
    assert np.array_equal(table[["x1", "y1", "x2", "y2"]].to_numpy(), found.boxes_xyxy) and len(table) == len(found)
    supervision = pytest.importorskip("supervision")
    other = found.to_supervision()
    assert isinstance(other, supervision.Detections) and np.array_equal(other.xyxy, found.boxes_xyxy)
    assert list(other.data["class_name"]) == list(table["name"])


def closed(path: Path) -> Image.Image:
    image = Image.open(path)
    image.close()
    return image


MISTAKES = [
    (lambda d, p: tandem.load("none.pt"), "nothing is there"),
    (lambda d, p: tandem.load(p / "best.pt", "gpu9"), "--device gpu9"),
    (lambda d, p: tandem.load(p / "best.pt", "cpu", cnf=0.1), "did you mean 'conf'"),
    (lambda d, p: d(p / "images", conf=3), "conf: expected a number from 0 to 1"),
    (lambda d, p: d(p / "images", device="cpu"), "unknown argument 'device'"),
    (lambda d, p: d(p / "images", classes=["hole"]), "--classes hole"),
    (lambda d, p: d(p / "images", agnostic_nms=1), "expected True or False"),
    (lambda d, p: d(p / "images", imgsz=(64, "x")), "imgsz: expected pixels"),
    (lambda d, p: d(p / "none"), "nothing is there"),
    (lambda d, p: d(3), "got int"),
    (lambda d, p: d([np.zeros((8, 8, 3), np.uint8), None]), "images[1]: expected paths"),
    (lambda d, p: d(closed(p / "images/a.png")), "got one that fails (Operation on closed image"),
    (lambda d, p: d(Image.new("RGB", (0, 0))), "got (0, 0, 3)"),
    (lambda d, p: d(torch.zeros(3, 8, 8, device="meta")), "got one that fails"),
    (lambda d, p: d(np.zeros((8, 8, 3), bool)), "got bool; convert them"),
    (lambda d, p: d(""), "images: expected a path, got an empty text"),
    (lambda d, p: d(p / "images", classes=np.array([7])), "--classes 7"),
    (lambda d, p: tandem.load(None), "expected a path, got None"),
    (lambda d, p: tandem.distil("s-model.yaml", None, "sample.yaml"), "teacher: expected weights or a YAML, got None"),
    (lambda d, p: d(np.zeros((2, 8, 8, 3), np.uint8)), "several images as a list"),
    (lambda d, p: d(np.full((8, 8, 3), -1.0)), "got float64 from -1"),
    (lambda d, p: d(torch.zeros(8, 8, 3)), "expected a tensor"),
    (lambda d, p: tandem.export(p / "best.pt", "onxx"), "did you mean 'onnx'"),
    (lambda d, p: tandem.validate(p / "best.pt", "none.yaml"), "none.yaml"),
    (lambda d, p: tandem.validate(p / "best.pt", "none.yaml", split="all"), "split: expected train or val or test"),
    (lambda d, p: tandem.decide(p / "best.pt", "none.yaml", 2), "max_escape: expected a number from 0 to 1"),
    (lambda d, p: tandem.train("s-model.yaml", "none.yaml"), "none.yaml"),
    (lambda d, p: tandem.train("s-model.yaml", "sample.yaml", epoch=3), "did you mean 'epochs'"),
    (lambda d, p: tandem.distil("s-model.yaml", "none.pt", "none.yaml"), "none"),
]


@pytest.mark.parametrize(("call", "words"), MISTAKES, ids=[words for _, words in MISTAKES])
def test_mistakes_are_user_errors(detector: tandem.Detector, place: Path, call: Any, words: str) -> None:
    with pytest.raises(tandem.UserError) as caught:
        call(detector, place)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_train_validate_and_decide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    data, cfg = write_data(tmp_path / "set"), write_model(tmp_path / "model.yaml")
    chosen = {name: value for name, value in training(tmp_path, epochs=1).items() if name not in ("model", "data")}
    folder = tandem.train(cfg, data, **chosen)
    best = folder / "weights/best.pt"
    assert best.is_file() and folder.parent == tmp_path / "runs"
    measured = tandem.validate(best, data, device="cpu", plots=False, save_dir=tmp_path / "val")
    assert measured["settings"]["images"] == 4 and set(measured["metrics"]) >= {"mAP50", "mAP50-95"}
    for name in ("0", "1"):  # parts without a defect
        (tmp_path / f"set/labels/val/{name}.txt").write_text("")
    decided = tandem.decide(best, data, 0.5, confidence=0.6, device="cpu", plots=False, save_dir=tmp_path / "decided")
    assert (tmp_path / "decided/decision.yaml").is_file() and decided["decision"]["words"]


def test_torch_hub(place: Path, detector: tandem.Detector) -> None:
    before = list(sys.path)
    found = torch.hub.load(str(ROOT), "custom", str(place / "best.pt"), device="cpu", conf=0.1, source="local")(place / "images/a.png")
    assert same(*found, *detector(place / "images/a.png"))
    assert set(sys.path) == set(before)
