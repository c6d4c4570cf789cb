"""detect.py from source to files: what it reads, what it skips, what it writes, how much memory it takes."""

from __future__ import annotations

import csv
import gc
import json
import math
import subprocess
import sys
import threading
import tracemalloc
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
import torchvision  # noqa: F401
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))
from tiny import NAMES, SIZE, save_tiny, write_image

import detect
from cfg.errors import UserError, guard
from data.images import Unreadable, read_pixels
from engine.detection.detect_run import Run
from engine.detection.listing import FileList
from engine.detection.options import DetectOptions
from engine.detection.predictor import Predictor
from engine.detection.predictor import detect as run_detect
from engine.detection.settled import batch_size


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("weights") / "best.pt")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Four images in three folders, equal stems among them."""
    folder = tmp_path / "images"
    for seed, name in enumerate(("a.jpg", "a.png", "north/a.jpg", "north/Riß ☃.bmp")):
        write_image(folder / name, seed)
    return folder


def run(weights: Path, source: list[Path | str], project: Path, *more: str) -> int:
    arguments = ["--weights", str(weights), "--source", *map(str, source), "--project", str(project), "--device", "cpu"]
    return guard(lambda: detect.main([*arguments, *more]))


def read_json(project: Path, run_name: str = "exp") -> dict:
    return json.loads((project / run_name / "results.json").read_text(encoding="utf-8"))


def write_video(path: Path, frames: int = 5) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 5.0, (SIZE, SIZE))
    for seed in range(frames):
        writer.write(np.random.default_rng(seed).integers(0, 256, (SIZE, SIZE, 3), dtype=np.uint8))
    writer.release()
    return path


def test_folder_in_all_formats(weights: Path, images: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    project = tmp_path / "runs"
    options = ("--save-txt", "--save-conf", "--save-json", "--save-csv", "--save-coco", "--conf", "0.1")
    assert run(weights, [images], project, *options) == 0
    out = project / "exp"
    content, coco = read_json(project), json.loads((out / "coco.json").read_text(encoding="utf-8"))
    listed = [image["image"] for image in content["images"]]
    assert listed == ["a.jpg", "a.png", "north/Riß ☃.bmp", "north/a.jpg"]
    total = sum(len(image["detections"]) for image in content["images"])
    assert total > 10, "the test's detector finds nothing, so that nothing was tested"
    with (out / "results.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    files = out.rglob("labels/**/*.txt")
    labels = {path.relative_to(out / "labels").as_posix(): path.read_text().splitlines() for path in files}
    assert len(rows) == len(coco["annotations"]) == sum(map(len, labels.values())) == total
    assert set(labels) == {"a.jpg.txt", "a.png.txt", "north/a.txt", "north/Riß ☃.txt"}
    assert [image["file_name"] for image in coco["images"]] == listed and content["skipped"] == []
    for name in listed:
        drawn, source = read_pixels(out / name), read_pixels(images / name)
        assert drawn.shape == source.shape and (drawn != source).any()
    # The same box in three formats.
    box, annotation = content["images"][0]["detections"][0]["box"], coco["annotations"][0]["bbox"]
    assert annotation == pytest.approx([box["x1"], box["y1"], box["x2"] - box["x1"], box["y2"] - box["y1"]], abs=0.02)
    x, y, width, height = (float(v) * SIZE for v in labels["a.jpg.txt"][0].split()[1:5])
    assert annotation == pytest.approx([x - width / 2, y - height / 2, width, height], abs=0.02)
    printed = capsys.readouterr().out
    assert f"image 1/4 {images / 'a.jpg'}: {SIZE}x{SIZE} " in printed and f"{total} objects" in printed


def test_unreadable_images_are_skipped_and_counted(weights: Path, images: Path, tmp_path: Path, capsys) -> None:
    whole = (images / "a.jpg").read_bytes()
    (images / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (images / "cut.png").write_bytes((images / "a.png").read_bytes()[:-400])
    (images / "empty.jpg").touch()
    (images / "north/text.png").write_text("no image")
    assert run(weights, [images], tmp_path / "runs", "--save-json") == 1
    printed, content = capsys.readouterr().out, read_json(tmp_path / "runs")
    assert len(content["images"]) == 4
    skipped = {Path(entry["image"]).name: entry["reason"] for entry in content["skipped"]}
    assert set(skipped) == {"cut.jpg", "cut.png", "empty.jpg", "text.png"} and skipped["empty.jpg"] == "file is empty"
    assert f"skipped {images / 'cut.jpg'}: " in printed and "Skipped: 4 unreadable" in printed


def test_list_glob_video_and_several_sources(weights: Path, images: Path, tmp_path: Path) -> None:
    video = write_video(tmp_path / "clips/clip.avi")
    listing = tmp_path / "list.txt"
    listing.write_text(f"# comment\n{images / 'a.jpg'}\nimages/north/a.jpg\nimages/missing.jpg\n", encoding="utf-8")
    project = tmp_path / "runs"
    assert run(weights, [listing], project, "--save-json", "--name", "list") == 1
    content = read_json(project, "list")
    assert [image["image"] for image in content["images"]] == ["a.jpg", "north/a.jpg"]
    assert "file is missing" in content["skipped"][0]["reason"]
    assert run(weights, [f"{images}/**/*.jpg"], project, "--save-json", "--name", "glob") == 0
    assert [image["image"] for image in read_json(project, "glob")["images"]] == ["a.jpg", "north/a.jpg"]
    options = ("--save-json", "--save-txt", "--conf", "0.05", "--name", "both")
    assert run(weights, [images / "a.jpg", video, images / "north/a.jpg"], project, *options) == 0
    entries = read_json(project, "both")["images"]
    assert [(e["image"], e.get("frame")) for e in entries] == [
        ("images/a.jpg", None), *(("clips/clip.avi", frame) for frame in range(1, 6)), ("images/north/a.jpg", None)
    ]  # fmt: skip
    drawn = cv2.VideoCapture(str(project / "both/clips/clip.mp4"))
    assert drawn.get(cv2.CAP_PROP_FRAME_COUNT) == 5
    drawn.release()
    assert (project / "both/labels/clips/clip_1.txt").is_file()


@pytest.mark.parametrize(
    "make",
    [
        lambda path: Image.new("L", (48, 32), 100).save(path),
        lambda path: Image.fromarray(np.full((32, 48), 100 * 256, np.uint16)).save(path),
        lambda path: Image.new("RGBA", (48, 32), (100, 100, 100, 7)).save(path),
    ],
    ids=["grey", "16 bit", "RGBA"],
)
def test_unusual_modes_become_8_bit_colour(tmp_path: Path, make) -> None:
    make(tmp_path / "x.png")
    image = read_pixels(tmp_path / "x.png")
    assert image.shape == (32, 48, 3) and image.dtype == np.uint8 and (image == 100).all()


def test_exif_rotation_is_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees
    Image.new("RGB", (48, 32)).save(tmp_path / "x.jpg", exif=exif)
    assert read_pixels(tmp_path / "x.jpg").shape == (48, 32, 3)


def test_a_missing_image_has_a_reason(tmp_path: Path) -> None:
    with pytest.raises(Unreadable, match="file is missing"):
        read_pixels(tmp_path / "none.jpg")


def test_the_run_folder_is_not_a_source(images: Path) -> None:
    write_image(images / "runs/exp/a.jpg", 9)
    assert FileList([str(images)], exclude=images / "runs/exp").total == 4 and FileList([str(images)]).total == 5


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("nowhere", "nothing is there"),
        ("empty", "got none"),
        ("notes.md", "expected an image or video, got '.md'"),
        ("empty.txt", "got none"),
        ("*.gif.zip", "got none"),
    ],
)
def test_wrong_sources_are_one_line_and_exit_2(weights, tmp_path: Path, capsys, source: str, expected: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.md").touch()
    (tmp_path / "empty.txt").touch()
    assert run(weights, [tmp_path / source], tmp_path / "runs") == 2
    error = capsys.readouterr().err
    assert expected in error and "--source" in error and error.count("\n") == 1
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("weights_text", "name", "expected"),
    [
        (None, "none.pt", "nothing is there"),
        ("x", "model.zip", "got '.zip'"),
        ("x", "bad.onnx", "cannot be loaded"),
        ("x", "bad.pt", "bad.pt"),
    ],
)
def test_wrong_weights_exit_2(images: Path, tmp_path: Path, capsys, weights_text, name: str, expected: str) -> None:
    if weights_text:
        (tmp_path / name).write_text(weights_text)
    assert run(tmp_path / name, [images], tmp_path / "runs") == 2
    assert expected in capsys.readouterr().err and not (tmp_path / "runs").exists()


def test_classes_by_name_and_unknown_class(weights: Path, images: Path, tmp_path: Path, capsys) -> None:
    options = ("--save-json", "--conf", "0.01")
    assert run(weights, [images], tmp_path / "runs", *options, "--classes", "pit") == 0
    names = {d["name"] for image in read_json(tmp_path / "runs")["images"] for d in image["detections"]}
    assert names == {"pit"}
    assert run(weights, [images], tmp_path / "runs", "--classes", "scratsh") == 2
    assert "did you mean 'scratch'" in capsys.readouterr().err


def test_pictures_that_may_hold_more_objects_are_counted(weights: Path, images: Path, tmp_path: Path, capsys) -> None:
    assert run(weights, [images], tmp_path / "runs", "--no-draw", "--conf", "0.01", "--max-det", "2") == 0
    assert "Full: 4 images with as many objects as --max-det allows" in capsys.readouterr().out
    assert run(weights, [images], tmp_path / "runs", "--no-draw", "--conf", "0.99") == 0
    assert "Full:" not in capsys.readouterr().out


def test_size_is_rounded_up_and_said(weights: Path, images: Path, tmp_path: Path, capsys) -> None:
    assert run(weights, [images], tmp_path / "runs", "--imgsz", "70", "--no-draw") == 0
    assert "using [96, 96]" in capsys.readouterr().out


def test_batch_size_changes_nothing(weights: Path, images: Path, tmp_path: Path) -> None:
    write_image(images / "b.jpg", 7, height=32, width=96)  # of another shape: must not change its neighbours' padding
    for batch in ("1", "3"):
        options = ("--save-json", "--conf", "0.1", "--batch", batch, "--name", f"b{batch}")
        assert run(weights, [images], tmp_path / "runs", *options) == 0
    one, three = (read_json(tmp_path / "runs", name)["images"] for name in ("b1", "b3"))
    assert [entry["image"] for entry in one] == [entry["image"] for entry in three]
    for left, right in zip(one, three, strict=True):
        for a, b in zip(left["detections"], right["detections"], strict=True):
            assert a["class"] == b["class"]
            assert list(a["box"].values()) == pytest.approx(list(b["box"].values()), abs=0.02)


def test_ctrl_c_leaves_complete_files(weights: Path, images: Path, tmp_path: Path, monkeypatch) -> None:
    take = Run._take

    def interrupted(self: Run, result) -> bool:
        if self.summary.images == 2:
            raise KeyboardInterrupt
        return take(self, result)

    monkeypatch.setattr(Run, "_take", interrupted)
    assert run(weights, [images], tmp_path / "runs", "--save-json", "--save-coco") == 130
    assert len(read_json(tmp_path / "runs")["images"]) == 2
    assert len(json.loads((tmp_path / "runs/exp/coco.json").read_text(encoding="utf-8"))["images"]) == 2


def test_an_unwritable_place_is_a_user_error(weights: Path, images: Path, tmp_path: Path, capsys) -> None:
    (tmp_path / "file").touch()
    assert run(weights, [images], tmp_path / "file") == 2
    assert "cannot be written" in capsys.readouterr().err


def test_streams_and_files_do_not_mix(weights: Path, images: Path, tmp_path: Path) -> None:
    options = DetectOptions(str(weights), [str(images), "rtsp://127.0.0.1/x"], project=str(tmp_path / "runs"))
    with pytest.raises(UserError, match="files only or streams only"):
        run_detect(options)


def test_memory_does_not_grow_with_the_number_of_images(weights: Path, tmp_path: Path, monkeypatch) -> None:
    picture = write_image(tmp_path / "one.png", 0, 32, 32).read_bytes()
    for number in range(400):
        path = tmp_path / f"many/{number // 40}/{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture)
    in_use: dict[int, int] = {}
    take = Run._take

    def measured(self: Run, result) -> bool:
        goes_on = take(self, result)
        if self.summary.images in (50, 400):
            gc.collect()  # what is left is held; what a collection frees does not add up
            in_use[self.summary.images] = tracemalloc.get_traced_memory()[0]
        return goes_on

    monkeypatch.setattr(Run, "_take", measured)
    options = ("--save-txt", "--save-json", "--save-csv", "--save-coco", "--imgsz", "32", "--conf", "0.1")
    tracemalloc.start()
    try:
        assert run(weights, [tmp_path / "many"], tmp_path / "runs", *options) == 0
    finally:
        tracemalloc.stop()
    assert len(read_json(tmp_path / "runs")["images"]) == 400
    # One image is 3,072 bytes, its detections some 1,000: held 350 times they would be seen.
    assert in_use[400] - in_use[50] < 60_000, f"bytes in use after 50 and 400 images: {in_use}"


def test_images_of_one_prepared_size_share_a_batch(weights: Path, images: Path, tmp_path: Path, monkeypatch) -> None:
    write_image(images / "b.jpg", 7, height=2 * SIZE, width=2 * SIZE)  # as large as the others once letterboxed
    write_image(images / "c.jpg", 8, height=SIZE // 2)
    batches = []
    monkeypatch.setattr(Predictor, "run_callbacks", lambda self, event: event.endswith("batch_end") and batches.append(
        [item.relative.name for item in self.batch[2]]))  # fmt: skip
    assert run(weights, [images], tmp_path / "runs", "--no-draw") == 0
    assert batches == [["a.jpg", "a.png", "b.jpg"], ["c.jpg"], ["Riß ☃.bmp", "a.jpg"]]
    for asked, expected in (("1", 6), ("2", 4)):
        batches.clear()
        run(weights, [images], tmp_path / "runs", "--no-draw", "--batch", asked)
        assert len(batches) == expected


def test_a_batch_left_to_us_is_no_more_work_than_one_usual_image() -> None:
    def chosen(side: int, batch: int | None = None, view: bool = False, **backend) -> int:
        facts = SimpleNamespace(**{"format": "pt", "dynamic": False, "batch": 1} | backend)
        return batch_size(DetectOptions("w", [], batch=batch, view=view), facts, [side, side])

    assert [chosen(side) for side in (64, 256, 320, 640, 1280)] == [16, 6, 4, 1, 1]
    assert chosen(64, view=True) == 1 and chosen(64, batch=3) == 3
    assert chosen(64, format="onnx") == 1 and chosen(64, format="onnx", dynamic=True) == 16


def test_a_drawing_that_cannot_be_written_ends_the_run(weights: Path, images: Path, tmp_path: Path, capsys) -> None:
    (tmp_path / "runs/exp").mkdir(parents=True)
    (tmp_path / "runs/exp/north").touch()  # a file where a folder is needed
    assert run(weights, [images], tmp_path / "runs", "--exist-ok", "--save-json") == 2
    assert "cannot be written" in capsys.readouterr().err
    assert len(read_json(tmp_path / "runs")["images"]) >= 3, "the results so far are complete"
    assert not [t.name for t in threading.enumerate() if t.name.startswith(("reader", "writer"))]


def test_an_image_given_twice_is_written_twice_and_whole(weights: Path, images: Path, tmp_path: Path) -> None:
    assert run(weights, [images / "a.png"] * 12, tmp_path / "runs") == 0
    assert read_pixels(tmp_path / "runs/exp/a.png").shape == (SIZE, SIZE, 3)


def test_boxes_are_suppressed_alike_with_and_without_torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    from ultralytics.utils.nms import non_max_suppression

    torch.manual_seed(0)
    preds = torch.rand(1, 7, 100) * torch.tensor([60.0, 60, 25, 25, 1, 1, 1])[None, :, None]
    with_it = non_max_suppression(preds.clone(), 0.3, 0.45, max_time_img=math.inf)[0]
    monkeypatch.delitem(sys.modules, "torchvision")
    without = non_max_suppression(preds.clone(), 0.3, 0.45, max_time_img=math.inf)[0]
    assert 10 < len(without) < 100 and torch.equal(with_it, without)


def test_names_are_those_of_the_model(weights: Path, images: Path, tmp_path: Path) -> None:
    run(weights, [images / "a.jpg"], tmp_path / "runs", "--save-json")
    assert read_json(tmp_path / "runs")["names"] == {str(index): name for index, name in NAMES.items()}

ONE_IMAGE = """
import sys
sys.path.insert(0, "tests/flow")
from pathlib import Path
import detect
from tiny import save_tiny, write_image
folder = Path(sys.argv[1])
source, weights = write_image(folder / "a.jpg", 0), save_tiny(folder / "best.pt")
detect.main(["--weights", f"{weights}", "--source", f"{source}", "--project", f"{folder / 'runs'}", "--device", "cpu"])
print(*sorted({"av", "torchvision", "torch._dynamo", "matplotlib.pyplot", "pandas", "polars"} & set(sys.modules)))
import torch
from ultralytics.utils.nms import TorchNMS
assert TorchNMS.nms is torch.ops.torchvision.nms
import torchvision  # a later import finds its library loaded
assert torchvision.ops.nms(torch.tensor([[0.0, 0, 9, 9], [0, 0, 9, 8]]), torch.tensor([0.9, 0.8]), 0.45).tolist() == [0]
"""


def test_one_image_waits_for_no_package_that_it_does_not_need(tmp_path: Path) -> None:
    command, root = [sys.executable, "-c", ONE_IMAGE, str(tmp_path)], Path(detect.__file__).parent
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=True)
    assert (tmp_path / "runs/exp/a.jpg").is_file() and done.stdout.splitlines()[-1] == ""
