"""--tile from end to end: large images in tiles through detect.py and val.py, on weights and exports."""

from __future__ import annotations

import json
import sys
import weakref
from collections.abc import Callable
from functools import cache
from pathlib import Path, PurePath

import cv2
import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from tiny import SIZE, results, stock_detector, training, write_data, write_image, write_model

import detect
import export
import val
from cfg.errors import UserError, guard
from data.files import find_images
from data.images import read_pixels
from engine.checkpoint import load_detector, save_student
from engine.detection.detect_run import Run
from engine.detection.items import Item
from engine.settings import Settings, complete, known_names, read_command_line
from engine.tiling.pictures import TileItem, joined, tile_boxes
from engine.tiling.training import check_tiling, is_cut
from engine.training import launch
from engine.training.launch import train
from engine.validation.box_files import load_boxes
from inspection.plan import ClassRule, Plan
from inspection.plan import Tiling as PlanTiling
from inspection.plan_file import save_plan
from inspection.seams import TileBoxes, merge
from inspection.tiles import Tiling

from ultralytics.engine.results import Results

HEIGHT, WIDTH = 150, 200  # of the large image: 3 x 4 tiles of 64 that share 13 px
TILED = ("--tile", str(SIZE), "--overlap", "0.2", "--max-det", "2000")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiling")
    detector = stock_detector()
    for branch in detector.model[-1].cv2:  # sides of some two cells: boxes as large as a tile would all be united
        branch[-1].bias.data.view(4, -1)[:, 1] += 6.0
    save_student(folder / "best.pt", detector, {"train_args": {"imgsz": SIZE}})
    write_image(folder / "large/large.png", 1, HEIGHT, WIDTH)
    return folder


def run(weights: Path, source: Path, project: Path, *more: str) -> int:
    given = ["--weights", str(weights), "--source", str(source), "--project", str(project), "--device", "cpu", "--save-json"]
    return guard(lambda: detect.main([*given, *more]))


def found(project: Path, name: str = "exp") -> dict[str, list[tuple]]:
    """Rows of x1, y1, x2, y2, score, class of each image in results.json."""
    content = json.loads((project / name / "results.json").read_text(encoding="utf-8"))
    return {
        image["image"]: [(*d["box"].values(), d["confidence"], d["class"]) for d in image["detections"]]
        for image in content["images"]
    }


@pytest.fixture(scope="module")
def by_hand(place: Path) -> list[np.ndarray]:
    """What detect.py finds in the tiles when they are images of their own, merged: boxes, scores, classes."""
    pixels, windows = read_pixels(place / "large/large.png"), Tiling(SIZE, 0.2).windows(HEIGHT, WIDTH)
    assert len(windows) == 12
    (place / "cut").mkdir()
    for number, (x1, y1, x2, y2) in enumerate(windows):
        cv2.imwrite(str(place / f"cut/{number:02}.png"), pixels[y1:y2, x1:x2])
    tables: list[np.ndarray] = []  # the files round, which decides between boxes that fit equally well
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "consume", lambda self, results: tables.extend(r.boxes.data.double().numpy() for r in results))
        patch.setattr("engine.detection.detect_run.Run.lose", lambda self, source, reason: None)
        assert run(place / "best.pt", place / "cut", place / "cut-runs", "--conf", "0.1", "--max-det", "2000") == 0
    tiles = np.repeat(np.arange(12), [len(t) for t in tables])
    every = np.concatenate(tables)
    boxes = TileBoxes(every[:, :4] + np.tile(windows[tiles, :2], 2), every[:, 4], every[:, 5].astype(int), tiles)
    merged = merge(boxes, windows, 0.45, most=2000)
    assert 10 < len(merged[1]) < len(every), "nothing was merged, so that nothing was tested"
    return [part[merged[1] > 0.25] for part in merged]


def agree(rows: list[tuple], expected: list[np.ndarray], score: float = 2e-4) -> None:
    """Compare within what results.json rounds to."""
    wanted, got = np.column_stack([*expected]), np.array(rows).reshape(-1, 6)
    assert len(got) == len(wanted) > 10
    tolerance = np.array([0.05, 0.05, 0.05, 0.05, score, 0])
    same = (np.abs(got[:, None] - wanted[None]) <= tolerance).all(2)
    assert same.any(0).all() and same.any(1).all()


@pytest.mark.parametrize("batch", ["5", "16"])
def test_a_large_image_shows_what_its_tiles_show(place: Path, by_hand, tmp_path: Path, batch: str, capsys) -> None:
    assert run(place / "best.pt", place / "large", tmp_path, *TILED, "--batch", batch) == 0
    agree(found(tmp_path)["large.png"], by_hand)
    assert "large.png: 64x64 " in capsys.readouterr().out
    drawn = read_pixels(tmp_path / "exp/large.png")
    assert drawn.shape == (HEIGHT, WIDTH, 3) and (drawn[-40:, -40:] != read_pixels(place / "large/large.png")[-40:, -40:]).any()


@pytest.fixture(scope="module")
def onnx(place: Path) -> Callable[[str], Path]:
    """An ONNX model of fixed size for this batch."""

    @cache
    def exported(batch: str) -> Path:
        given = ["--weights", str(place / "best.pt"), "--format", "onnx", "--device", "cpu", "--batch", batch]
        assert guard(lambda: export.main([*given, "--imgsz", str(SIZE), "--out", str(place / f"{batch}.onnx")])) == 0
        return place / f"{batch}.onnx"

    return exported


@pytest.mark.parametrize("batch", ["1", "4"])
def test_an_onnx_model_of_fixed_size_takes_tiles(onnx: Callable[[str], Path], place: Path, by_hand, tmp_path: Path, batch: str) -> None:
    assert run(onnx(batch), place / "large", tmp_path, *TILED) == 0
    agree(found(tmp_path)["large.png"], by_hand, 1e-3)


def test_a_large_tiff_is_looked_at_strip_by_strip(place: Path, by_hand, tmp_path: Path, monkeypatch, capsys) -> None:
    tifffile = pytest.importorskip("tifffile", reason="needs tifffile: pip install -r requirements-large.txt")
    pixels = read_pixels(place / "large/large.png")[..., ::-1]
    folder = tmp_path / "in"
    folder.mkdir()
    for name in ("a.tif", "b.tif", "c.tif"):
        tifffile.imwrite(folder / name, pixels, photometric="rgb", rowsperstrip=16, compression="zlib")
    with tifffile.TiffFile(folder / "b.tif") as file:
        last = file.pages[0].dataoffsets[-1]
    content = bytearray((folder / "b.tif").read_bytes())
    content[last : last + 40] = bytes(40)  # most of its tiles are looked at before this is found
    (folder / "b.tif").write_bytes(content)
    monkeypatch.setattr("data.large_tiff.LARGE", 1)
    with monkeypatch.context() as patch:
        patch.setattr("data.large_tiff.read_image", lambda path: pytest.fail(f"{path} was read whole"))
        assert run(place / "best.pt", folder, tmp_path, *TILED, "--no-draw", "--batch", "5") == 1
    rows = found(tmp_path)
    agree(rows["a.tif"], by_hand)
    assert rows["c.tif"] == rows["a.tif"] and not rows.get("b.tif")
    assert "b.tif: damaged TIFF: rows 144 to 150 cannot be decoded from its strips" in capsys.readouterr().out
    assert run(place / "best.pt", folder / "a.tif", tmp_path, *TILED, "--name", "drawn") == 0
    assert found(tmp_path, "drawn")["a.tif"] == rows["a.tif"]


def test_tiles_are_not_held_until_their_image_is_done() -> None:
    windows, held, most = Tiling(64, 0.2).windows(HEIGHT * 2, WIDTH * 2), [], 0
    picture = Item(Path("a.png"), PurePath("a.png"), "image", "image 1/1", "a.png", np.zeros(0))

    def tiles():
        for number in range(len(windows)):
            pixels = np.zeros((SIZE, SIZE, 3), np.uint8)
            held.append(weakref.ref(pixels))
            result = Results(pixels, path="a.png", names={0: "a"}, boxes=torch.tensor([[1.0, 1, 9, 9, 0.5, 0]]))
            result.item = TileItem(**vars(picture) | {"prepared": pixels}, picture=picture, windows=windows, number=number)
            result.speed, result.input_size, result.fault = {"inference": 1.0}, (SIZE, SIZE), "no numbers" if number == 3 else ""
            yield result
            nonlocal most
            most = max(most, sum(ref() is not None for ref in held))

    (whole,) = joined(tiles(), 0.25, 0.5, False, 300)
    assert len(windows) > 40 and most <= 2
    assert len(whole.boxes) == len(windows) and whole.speed == {"inference": float(len(windows))} and whole.item is picture
    assert whole.fault == "no numbers", "of one tile: nothing is known of the image"


def test_a_plan_brings_its_tiles(place: Path, by_hand, tmp_path: Path, capsys) -> None:
    """Thresholds that were chosen in tiles decide in tiles, and the report is of the whole image."""
    detector, _ = load_detector(place / "best.pt")
    names = tuple(detector.names.values())
    save_plan(tmp_path / "plan.yaml", Plan(names, (ClassRule(0.25),) * len(names), tiling=PlanTiling(SIZE, 0.2)))
    more = ["--decision", str(tmp_path / "plan.yaml"), "--max-det", "2000", "--report"]
    assert run(place / "best.pt", place / "large", tmp_path, *more) == 0
    agree(found(tmp_path)["large.png"], by_hand)
    assert "Verdicts: 0 OK, 1 NG" in capsys.readouterr().out
    text = (tmp_path / "exp/report.html").read_text(encoding="utf-8")
    assert text.count('<article class="card"') == 1
    run(place / "best.pt", place / "large", tmp_path, *more[:2], "--tile", "96", "--no-draw")
    assert "chosen at 64: its promise does not hold here" in capsys.readouterr().err


def test_small_images_and_videos_in_a_folder_with_large_ones(place: Path, tmp_path: Path, capsys) -> None:
    folder = tmp_path / "mixed"
    write_image(folder / "a-small.png", 2, 40, 48)
    write_image(folder / "b-large.png", 3, HEIGHT, WIDTH)
    video = cv2.VideoWriter(str(folder / "c.avi"), cv2.VideoWriter_fourcc(*"MJPG"), 5.0, (WIDTH, HEIGHT))
    for seed in range(2):
        video.write(read_pixels(write_image(tmp_path / "frame.png", seed, HEIGHT, WIDTH)))
    video.release()
    assert run(place / "best.pt", folder, tmp_path / "tiled", *TILED) == 0
    printed = capsys.readouterr().out
    assert "image 2/3, 12 tiles" in printed and "image 1/3 " in printed and "(frame 2/2), 12 tiles" in printed
    assert "4 images" in printed and "no image is larger" not in printed
    assert run(place / "best.pt", folder / "a-small.png", tmp_path / "tiled", *TILED, "--name", "small") == 0
    assert "--tile 64: no image is larger than a tile" in capsys.readouterr().out
    assert run(place / "best.pt", folder / "a-small.png", tmp_path / "whole") == 0
    rows, whole = found(tmp_path / "tiled", "small")["a-small.png"], found(tmp_path / "whole")["a-small.png"]
    assert rows == whole and whole


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--tile", "8"), "--tile 8: expected a side of at least 32"),
        (("--tile", "64", "--overlap", "1"), "--overlap 1: expected a share of the tile, from 0 to 0.9"),
        (("--tile", "64", "--overlap", "-0.1"), "--overlap -0.1"),
        (("--tile", "64", "--overlap", "nan"), "--overlap nan"),
        (("--overlap", "0.2"), "expected --tile beside it"),
    ],
)
def test_bad_tilings_of_detect(place: Path, tmp_path: Path, options: tuple[str, ...], words: str, capsys) -> None:
    assert run(place / "best.pt", place / "large", tmp_path, *options) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1 and not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def data(place: Path, by_hand) -> Path:
    """Two data sets of the large image: whole, beside a small one, and cut into its tiles by hand."""
    for name, images in (("set", [place / "large/large.png"]), ("cut-set", sorted((place / "cut").iterdir()))):
        for kind in ("images", "labels"):
            (place / name / kind).mkdir(parents=True)
        for image in images:
            (place / name / "images" / image.name).write_bytes(image.read_bytes())
            (place / name / "labels" / f"{image.stem}.txt").write_text("0 .5 .5 .2 .2\n1 .34 .3 .1 .1\n")
        (place / name / "data.yaml").write_text("val: images\nnames: [scratch, pit, patch]\n")
    write_image(place / "set/images/small.png", 5, 40, 48)
    return place / "set/data.yaml"


def validate(weights: Path, data: Path, folder: Path, *more: str) -> tuple[int, dict]:
    command = ["val.py", "--weights", str(weights), "--data", str(data), "--save-dir", str(folder / "val"), "--device", "cpu"]
    (folder / "result.json").unlink(missing_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [*command, "--json", str(folder / "result.json"), *more])
        status = guard(val.main)
    return status, json.loads((folder / "result.json").read_text()) if status < 2 else {}


def check_validation(weights: Path, place: Path, folder: Path) -> dict:
    """Validate in tiles, and compare the boxes with those of tiles that are images of their own; return the result."""
    boxes = "--detections", str(folder / "boxes.npz")
    assert validate(weights, place / "cut-set/data.yaml", folder, *boxes, "--no-plots")[0] == 0
    windows, (_, _, parts) = Tiling(SIZE, 0.2).windows(HEIGHT, WIDTH), load_boxes(folder / "boxes.npz")
    tables = [np.column_stack([part.boxes_xyxy, part.scores, part.classes]).astype(float) for part in parts]
    expected = merge(tile_boxes(tables, windows), windows, 0.7)
    status, result = validate(weights, place / "set/data.yaml", folder, *boxes, "--tile", str(SIZE), "--overlap", "0.2")
    _, truths, found = load_boxes(folder / "boxes.npz")
    assert status == 0 and truths[0].boxes_xyxy[0].tolist() == pytest.approx([80, 60, 120, 90])
    rows = np.column_stack([found[0].boxes_xyxy, found[0].scores, found[0].classes])
    strong = [part[expected[1] > 0.25] for part in expected]
    agree(rows[rows[:, 4] > 0.25], strong, 1e-3)
    return result


def test_validation_scores_whole_images_by_what_their_tiles_show(place: Path, data: Path, tmp_path: Path, capsys) -> None:
    result = check_validation(place / "best.pt", place, tmp_path)
    assert result["tiling"]["tiles"] == 13 and result["tiling"]["overlap"] == 0.2
    assert result["tiling"]["cut_objects"] == 1  # 80 to 120 across: the tiles end at 115, or begin at 102
    assert "in 13 tiles of 64 px, overlap 0.2: " in capsys.readouterr().out
    assert (tmp_path / "val/val_batch0_pred.jpg").is_file()


def test_validation_in_tiles_of_a_fixed_size_onnx_model(onnx: Callable[[str], Path], place: Path, data: Path, tmp_path: Path) -> None:
    check_validation(onnx("1"), place, tmp_path)


def test_bad_tilings_of_validation(place: Path, data: Path, tmp_path: Path, capsys) -> None:
    for more, words in ((("--tile", "16"), "--tile 16"), (("--tile", "64", "--border"), "--border")):
        assert validate(place / "best.pt", data, tmp_path, *more)[0] == 2
        error = capsys.readouterr().err
        assert words in error and error.count("\n") == 1 and not list(tmp_path.iterdir())


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A place with a tiny model, a data set of images of 64 px and a run on tiles of 48 of it; and the run's folder."""
    place = tmp_path_factory.mktemp("trained")
    write_model(place / "model.yaml")
    write_data(place)
    return place, train(training(place, tile=48, overlap=0.5, epochs=1))


def test_training_on_tiles(trained: tuple[Path, Path]) -> None:
    place, folder = trained
    tiles = find_images(folder / "tiles/images/train")
    assert len(tiles) > 8 and {read_pixels(tile).shape for tile in tiles} == {(48, 48, 3)}
    assert str(folder / "tiles/images/train") in (folder / "data.yaml").read_text()
    assert {"data.yaml", "images", "labels", "model.yaml", "runs"} == {path.name for path in place.iterdir()}
    assert results(folder)[0]["train/box_loss"] > 0


def test_bad_tilings_of_training(trained: tuple[Path, Path]) -> None:
    place, folder = trained
    for changes, words in (({"tile": 16}, "--tile 16"), ({"tile": "big"}, "whole number of pixels"), ({"overlap": 0.1}, "--tile"),
                           ({"tile": 48, "overlap": 1.0}, "--overlap 1")):  # fmt: skip
        with pytest.raises(UserError, match=words):
            train(training(place, **changes))
    assert [path.name for path in folder.parent.iterdir()] == [folder.name]


def test_processes_of_a_run_take_the_tiles_that_were_cut_for_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And record the size of the tiles: the same command, given again, resumes the run."""
    seen: list = []
    monkeypatch.setattr(launch, "start_processes", lambda run, command: seen.append((run, command)) or tmp_path)
    monkeypatch.setattr(launch, "needs_processes", lambda run: True)
    monkeypatch.setattr(launch, "check_devices", lambda run, data: None)
    monkeypatch.setattr(launch, "cut_data", lambda data, folder: folder / "tiles/data.yaml")
    given = {"model": "s-demo.yaml", "data": "sample.yaml", "tile": 64, "project": str(tmp_path), "name": "run"}
    launch.train(given)
    ((run, command),) = seen
    child = Settings.of(complete(read_command_line([*command, f"--save_dir={run.save_dir}"], known_names())))
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert child.data.tile == 64 and is_cut(child.data, child.run.save_dir)
    check_tiling(child.data, resumed=True)
    with pytest.raises(UserError, match="expected one process, got several"):
        check_tiling(child.data, resumed=False)
