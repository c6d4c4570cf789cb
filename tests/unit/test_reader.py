"""One list of images and labels: folders with links, list files, what is left out, and the memory beside the labels."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path

import cv2
import numpy as np
import pytest

from cfg import UserError
from data import reader
from data.check import check_data
from data.dataset import resolve
from data.files import find_images, list_images, walk
from data.images import inspect_image
from data.memory import FILE, Memory
from data.reader import memory_place, read_images


def put(path: Path, value: int = 0, label: str | None = "0 .5 .5 .2 .2\n") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(cv2.imencode(".png", np.full((20, 30), value, np.uint8))[1].tobytes())
    if label is not None:
        text = Path(str(path).replace("images", "labels")).with_suffix(".txt")
        text.parent.mkdir(parents=True, exist_ok=True)
        text.write_text(label)
    return path


def names(files) -> list[str]:
    return [file.name for file in files]


def test_linked_folders_are_followed_each_once(tmp_path: Path) -> None:
    put(tmp_path / "store/a.png", label=None)
    put(tmp_path / "line/z/here.png", label=None)
    (tmp_path / "line/.hidden").mkdir()
    put(tmp_path / "line/.hidden/no.png", label=None)
    (tmp_path / "line/today").symlink_to(tmp_path / "store")
    (tmp_path / "line/again").symlink_to(tmp_path / "store")
    (tmp_path / "line/loop").symlink_to(tmp_path / "line")
    (tmp_path / "line/up").symlink_to(tmp_path)
    (tmp_path / "line/gone").symlink_to(tmp_path / "nowhere")
    (tmp_path / "line/b").symlink_to(tmp_path / "line/z")  # the real folder keeps its name
    found = list(walk(tmp_path / "line"))
    assert found == [tmp_path / "line/z/here.png", tmp_path / "line/again/a.png"]
    assert names(find_images(tmp_path / "line")) == ["a.png", "here.png"]
    assert list(walk(tmp_path / "line", exclude=(tmp_path / "line/z").resolve())) == [tmp_path / "line/again/a.png"]


def test_a_linked_file_keeps_the_name_that_the_user_knows(tmp_path: Path) -> None:
    put(tmp_path / "store/a.png", label=None)
    (tmp_path / "line").mkdir()
    (tmp_path / "line/b.png").symlink_to(tmp_path / "store/a.png")
    assert find_images(tmp_path / "line") == [tmp_path / "line/b.png"]


def test_lists_as_people_write_them(tmp_path: Path, monkeypatch) -> None:
    for name in "abcdef":
        put(tmp_path / f"set/images/{name}.png", label=None)
    lines = ["./images/a.png  ", "images/b.png\t", "", "# images/c.png", str(tmp_path / "set/images/d.png"),
             ".\\images\\e.png", "set/images/f.png", "images/none.png"]  # fmt: skip
    (tmp_path / "set/list.txt").write_text("\ufeff" + "\r\n".join(lines), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    found = list_images(tmp_path / "set/list.txt")
    assert names(found) == ["a.png", "b.png", "d.png", "e.png", "f.png", "none.png"]
    assert [file.exists() for file in found] == [True] * 5 + [False]
    (tmp_path / "set/list.txt").write_bytes(b"\xff\xfe\0")
    with pytest.raises(UserError, match="list.txt: expected a folder or a text file"):
        list_images(tmp_path / "set/list.txt")


def test_what_is_left_out_has_a_reason(tmp_path: Path) -> None:
    put(tmp_path / "images/good.png")
    put(tmp_path / "images/background.png", 1, None)
    put(tmp_path / "images/polygon.png", 2, "0 .1 .1 .5 .1 .5 .5\n1 .5 .5 .2 .2\n1 .5 .5 .2 .2\n")
    put(tmp_path / "images/columns.png", 3, "0 .5 .5\n")
    put(tmp_path / "images/class.png", 4, "2 .5 .5 .2 .2\n")
    put(tmp_path / "images/broken.png", 5).write_bytes(b"\x89PNG\r\n\x1a\n")
    put(tmp_path / "images/text.png", 6).with_name("text.png").write_text("no image")
    put(tmp_path / "images/labels-folder.png", 7, None)
    (tmp_path / "labels/labels-folder.txt").mkdir()
    reading = read_images([tmp_path / "images"], nc=2)
    assert names(s.image for s in reading.samples) == ["background.png", "good.png", "polygon.png"]
    assert reading.background == 1
    reasons = {sample.image.stem: sample.reason for sample in reading.left_out}
    assert set(reasons) == {"broken", "class", "columns", "labels-folder", "text"}
    assert "labels/columns.txt:1: expected 5 columns" in reasons["columns"] and "end chunk" in reasons["broken"]
    polygon = reading.samples[2]
    np.testing.assert_allclose(polygon.rows, [[0, 0.3, 0.3, 0.4, 0.4], [1, 0.5, 0.5, 0.2, 0.2]])  # repetitions count once
    assert polygon.labels.polygons[0].shape == (3, 2) and polygon.labels.polygons[1] is None


def test_check_counts_what_training_uses(tmp_path: Path) -> None:
    for part in ("train", "val"):
        put(tmp_path / f"images/{part}/a.png", 1 if part == "val" else 0)
        put(tmp_path / f"images/{part}/b.jp2", 2).write_bytes(b"")
    (tmp_path / "data.yaml").write_text("train: images/train\nvalidation: images/val\nnames: [scratch]\n")
    report = check_data(tmp_path / "data.yaml")
    assert {f.code for f in report.errors} == {"corrupt-image"} and report.parts["train"]["images"] == 2
    reading = read_images([tmp_path / "images/train"], 1)
    assert len(reading.samples) + len(reading.left_out) == 2 and len(reading.left_out) == 1
    assert not (tmp_path / "labels/val.tandem").exists(), "check leaves nothing behind"


def test_a_download_of_roboflow(tmp_path: Path) -> None:
    for part in ("train", "valid"):
        put(tmp_path / f"{part}/images/{part}.png")
    (tmp_path / "data.yaml").write_text("train: ../train/images\nval: ../valid/images\nnc: 1\nnames: [scratch]\n")
    assert resolve(tmp_path / "data.yaml")["val"] == str(tmp_path / "valid/images")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/data.yaml").write_text("train: ../train/images\nvalid: ../valid/images\nnames: [scratch]\n")
    assert resolve(tmp_path / "sub/data.yaml")["val"] == str(tmp_path / "valid/images"), "where it is true, it holds"


# -- the memory of earlier runs ----------------------------------------------------------------------------------------


@pytest.fixture()
def counted(monkeypatch) -> list[Path]:
    """The images that were decoded."""
    seen: list[Path] = []

    def measure(path: Path):
        seen.append(path)
        return inspect_image(path)

    monkeypatch.setattr(reader, "inspect_image", measure)
    return seen


def test_an_image_is_measured_again_only_when_it_changed(tmp_path: Path, counted: list[Path]) -> None:
    images = [put(tmp_path / f"images/{i}.png", i) for i in range(4)]
    first = read_images([tmp_path / "images"], 1)
    assert (tmp_path / "labels.tandem" / FILE).is_file() and len(counted) == 4
    put(images[2], 99)
    os.utime(images[2], ns=(1, 1))
    again = read_images([tmp_path / "images"], 1)
    assert counted[4:] == [images[2]]
    same = [a.facts == b.facts for a, b in zip(first.samples, again.samples)]
    assert same == [True, True, False, True]


@pytest.mark.parametrize("content", ["", "[]", '{"version": 1}', '{"version": 99, "images": {}}', "[" * 100_000,
                                     '{"version": 1, "images": {"../images/0.png": null}}',
                                     '{"version": 1, "images": {"../images/0.png": [SIZE, DATE, -3, 20, "00", 5]}}',
                                     '{"version": 1, "images": {"../images/0.png": [SIZE, DATE, 30, 20, "zz", ""]}}'])  # fmt: skip
def test_a_memory_that_is_not_ours_counts_for_nothing(tmp_path: Path, content: str) -> None:
    image = put(tmp_path / "images/0.png")
    stat = image.stat()
    place = memory_place(image)
    place.mkdir()
    (place / FILE).write_text(content.replace("SIZE", str(stat.st_size)).replace("DATE", str(stat.st_mtime_ns)))
    assert read_images([tmp_path / "images"], 1).samples[0].facts == inspect_image(image)
    assert json.loads((place / FILE).read_text())["version"] == 1


class Payload:
    def __reduce__(self):
        return os.mkdir, (os.environ["PAYLOAD"],)


def test_a_memory_is_never_run(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("PAYLOAD", str(tmp_path / "ran"))
    image = put(tmp_path / "images/0.png")
    memory_place(image).mkdir()
    (memory_place(image) / FILE).write_bytes(pickle.dumps(Payload()))
    assert len(read_images([tmp_path / "images"], 1).samples) == 1 and not (tmp_path / "ran").exists()


def test_a_folder_that_cannot_be_written_is_left_alone(tmp_path: Path, monkeypatch) -> None:
    image = put(tmp_path / "images/0.png")
    (tmp_path / "labels.tandem").write_text("a file of the user's")
    assert len(read_images([tmp_path / "images"], 1).samples) == 1
    assert (tmp_path / "labels.tandem").read_text() == "a file of the user's"
    memory = Memory(memory_place(image))
    assert memory.recall(image, inspect_image).width == 30
    memory.save()
