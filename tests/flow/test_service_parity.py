"""The service's own path, without PyTorch, finds the boxes that detect.py finds on the same export, and decides the same."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from tiny import NAMES, SIZE, stock_detector, write_image

import detect
from cfg.errors import UserError, guard
from engine.checkpoint import save_student
from engine.detection.detect_run import Run
from engine.export.export_check import ExportOptions
from engine.export.exporter import export
from engine.locate import require
from inspection.belonging import Settings
from inspection.embedded import embed
from inspection.identity import identify
from inspection.plan import ClassRule, ModelFile, Plan, Tiling
from inspection.rules import Code
from service.exported import read_exported
from service.inspector import Inspector, Limits, find_plan
from service.network import open_network

SHAPES = ((64, 64), (100, 48), (40, 132), (150, 200))
KINDS = {"any size": {"format": "onnx", "dynamic": True}, "batch of 3": {"format": "onnx", "batch": 3},
         "suppressed": {"format": "onnx", "nms": True, "conf": 0.1}, "openvino": {"format": "openvino"}}  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("parity")
    detector = stock_detector()
    for branch in detector.model[-1].cv2:  # sides of some two cells: many boxes, of which some overlap
        branch[-1].bias.data.view(4, -1)[:, 1] += 6.0
    save_student(folder / "best.pt", detector, {"train_args": {"imgsz": SIZE}})
    for number, (height, width) in enumerate(SHAPES):
        write_image(folder / f"pictures/{number}.png", number, height, width)
    return folder


@pytest.fixture(scope="module")
def exports(place: Path) -> dict[str, Path]:
    """One export of each kind that the runtimes here can run."""
    made: dict[str, Path] = {}
    for kind, options in KINDS.items():
        try:
            require({"onnx": "onnxruntime"}.get(options["format"], options["format"]), kind)
        except UserError:
            continue
        out = str(place / kind.replace(" ", "-"))
        files, _ = export(ExportOptions(weights=str(place / "best.pt"), check=False, simplify=False, out=out, **options))
        made[kind] = files[0]
    return made


def ours(weights: Path, limits: Limits, decision: str | None = None) -> Inspector:
    network = open_network(read_exported(weights), threads=1)
    return Inspector(network, find_plan(weights, decision, network.exported.names), limits)


def theirs(weights: Path, place: Path, *more: str) -> dict[str, np.ndarray]:
    """Boxes (n, 6) of each image as detect.py has them before it rounds them for its files."""
    tables: dict[str, np.ndarray] = {}

    def consume(run: Run, results) -> None:
        run.finished = True
        tables.update({Path(result.path).name: result.boxes.data.numpy() for result in results})

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "consume", consume)
        given = ["--weights", str(weights), "--source", str(place / "pictures"), "--project", str(place / "runs"), "--device", "cpu", "--no-draw"]
        assert guard(lambda: detect.main([*given, *more])) == 0
    return tables


def compare(inspector: Inspector, expected: dict[str, np.ndarray], place: Path, least: int) -> None:
    assert sum(len(table) for table in expected.values()) >= least, "too few boxes to compare"
    for name, table in expected.items():
        found = inspector.find(inspector.read((place / "pictures" / name).read_bytes()))
        mine = np.column_stack([found.boxes_xyxy, found.scores, found.classes])
        assert mine.shape == table.shape, name
        np.testing.assert_allclose(mine[:, :4], table[:, :4], atol=1e-3)
        np.testing.assert_allclose(mine[:, 4], table[:, 4], atol=1e-5)
        assert (mine[:, 5] == table[:, 5]).all()


@pytest.mark.parametrize("kind", KINDS)
def test_the_boxes_of_an_export_are_those_of_detect(exports, place, kind):
    if kind not in exports:
        pytest.skip(f"the runtime of '{kind}' is not installed")
    limits = Limits(Settings(iou=0.3), conf=0.15, most=20)
    expected = theirs(exports[kind], place, "--conf", "0.15", "--iou", "0.3", "--max-det", "20")
    compare(ours(exports[kind], limits), expected, place, least=40)


def test_classes_that_suppress_each_other(exports, place):
    limits = Limits(Settings(iou=0.3), conf=0.15, agnostic=True)
    expected = theirs(exports["batch of 3"], place, "--conf", "0.15", "--iou", "0.3", "--agnostic-nms")
    compare(ours(exports["batch of 3"], limits), expected, place, least=20)
    apart = theirs(exports["batch of 3"], place, "--conf", "0.15", "--iou", "0.3")
    assert sum(map(len, apart.values())) > sum(map(len, expected.values())), "no box was suppressed by one of another class"


def test_other_sizes_of_an_export_of_any_size(exports, place, capsys):
    expected = theirs(exports["any size"], place, "--conf", "0.15", "--imgsz", "90,60")
    inspector = ours(exports["any size"], Limits(Settings(imgsz=[90, 60]), conf=0.15))
    assert inspector.size == (96, 64) and "multiples of 16" in capsys.readouterr().err
    compare(inspector, expected, place, least=20)
    fixed = ours(exports["batch of 3"], Limits(Settings(imgsz=[32])))
    assert fixed.size == (SIZE, SIZE) and "the only size" in capsys.readouterr().err


@pytest.mark.parametrize("tiling", [None, Tiling(64, 0.25)], ids=["whole", "tiles"])
def test_an_embedded_plan_decides_as_in_detect(exports, place, tiling, tmp_path):
    weights = Path(shutil.copy(exports["batch of 3"], tmp_path / "best.onnx"))
    rules = (ClassRule(0.15, max_count=40 if tiling else 19), ClassRule(0.9, review=0.5), ClassRule(0.3, severity="none"))
    plan = Plan(tuple(NAMES.values()), rules, tiling=tiling, model=identify(weights, imgsz=SIZE, iou=0.35))
    embed(weights, plan)
    given = ["--weights", str(weights), "--source", str(place / "pictures"), "--project", str(tmp_path / "runs"), "--device", "cpu", "--no-draw"]
    assert guard(lambda: detect.main([*given, "--save-json"])) == 0
    content = json.loads((tmp_path / "runs/exp/results.json").read_text())
    inspector = ours(weights, Limits())
    assert inspector.plan == plan and inspector.iou == 0.35 and (inspector.tiling is None) == (tiling is None)
    for image in content["images"]:
        outcome = inspector.inspect((place / "pictures" / image["image"]).read_bytes())
        assert (outcome.verdict.code.name, outcome.verdict.rule) == (image["verdict"], image["rule"])
        assert [box.name for box in outcome.boxes] == [one["name"] for one in image["detections"]]
        np.testing.assert_allclose([box.score for box in outcome.boxes], [one["confidence"] for one in image["detections"]], atol=1e-4)
    assert len({image["verdict"] for image in content["images"]}) > 1
    compare(inspector, theirs(weights, place), place, least=10)


def test_pictures_that_are_not_decided_about(exports, place):
    inspector = ours(exports["batch of 3"], Limits(pixels=5000))
    large = (place / "pictures/3.png").read_bytes()
    for data, reason in ((b"", "empty"), (b"no picture", "not a readable image"), (large, "at most 5,000 pixels, got 30,000")):
        outcome = inspector.inspect(data)
        assert outcome.verdict.code is Code.UNDEFINED and reason in outcome.verdict.rule and not outcome.boxes
    no_plan = inspector.inspect((place / "pictures/0.png").read_bytes())
    assert no_plan.verdict.code is Code.UNDEFINED and "no decision plan" in no_plan.verdict.rule and no_plan.boxes


def test_what_is_refused(exports, place, tmp_path):
    with pytest.raises(UserError, match=r"expected an exported model.*export\.py"):
        read_exported(place / "best.pt")
    for content in (b"", b"nothing of the kind"):
        (tmp_path / "bad.onnx").write_bytes(content)
        with pytest.raises(UserError, match=r"damaged|cannot be loaded"):
            open_network(read_exported(tmp_path / "bad.onnx"), 1)
    plan = Plan(tuple(NAMES.values()), (ClassRule(0.5),) * 3, model=ModelFile("0" * 64, "onnx"))
    copy = Path(shutil.copy(exports["any size"], tmp_path / "copy.onnx"))
    embed(copy, plan)
    with pytest.raises(UserError, match="got one for another file"):
        ours(copy, Limits())


def test_ultralytics_as_a_client_finds_the_same(exports, place):
    for needed in ("starlette", "uvicorn", "httptools", "prometheus_client", "python_multipart", "tritonclient.http"):
        pytest.importorskip(needed, reason=f"needs {needed}: pip install -r requirements-serve.txt tritonclient[http]")
    from serving import Service

    from ultralytics import YOLO

    service = Service("--weights", exports["any size"], "--no-decision")
    try:
        model = YOLO(f"http://127.0.0.1:{service.port}/best", task="detect")
        picture = place / "pictures/3.png"
        found = model.predict(picture, conf=0.15, iou=0.45, imgsz=SIZE, verbose=False)[0].boxes.data.numpy()
        told = service.inspect(picture.read_bytes(), "?PartId=1")
    finally:
        service.stop()
    inspector = ours(exports["any size"], Limits(conf=0.15))
    compare(inspector, {"3.png": found}, place, least=10)
    assert told["Verdict"] == "UNDEFINED" and len(told["Boxes"]) == int((found[:, 4] >= 0.25).sum())


def test_an_output_that_is_no_number_is_undefined(exports, monkeypatch):
    """As in detect.py: suppression would drop it, and the image would pass."""
    inspector = ours(exports["any size"], Limits(conf=0.15))
    run = inspector.network.run

    def broken(feeds):
        outputs = [output.copy() for output in run(feeds)]
        outputs[0].reshape(-1)[-1] = np.nan
        return outputs

    monkeypatch.setattr(inspector.network, "run", broken)
    outcome = inspector.inspect(np.zeros((64, 64, 3), np.uint8))
    assert outcome.verdict.code == Code.UNDEFINED and "values that are no numbers" in outcome.verdict.rule
