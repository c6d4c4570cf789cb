"""What commands that write data sets leave as it was: originals, the data set that is replaced where that fails, and others' folders."""

from __future__ import annotations

import json
import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from cfg import UserError
from data.expand import expand
from data.files import read_list
from data.layout import staging
from data.reader import read_images
from data.sample import make_sample
from data.tile import tile


def image(path: Path, value: int = 90) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((64, 64, 3), value, np.uint8))
    label = Path(str(path).replace("/images/", "/labels/")).with_suffix(".txt")
    label.parent.mkdir(parents=True, exist_ok=True)
    label.write_text("0 0.5 0.5 0.2 0.2\n")
    return path


def data_set(folder: Path, train: list[str]) -> Path:
    """A set whose training part is a list, in that order."""
    for number, name in enumerate(train):
        image(folder / "images/train" / name, 60 + 20 * number)
    image(folder / "images/val/v.png")
    (folder / "train.txt").write_text("".join(f"./images/train/{name}\n" for name in train))
    (folder / "data.yaml").write_text("train: train.txt\nval: images/val\nnames: [pit]\n")
    return folder / "data.yaml"


@pytest.mark.parametrize("link", [False, True])
@pytest.mark.parametrize("train", [["a.png", "a__flip.png"], ["a__flip.png", "a.png"], ["a__flip.jpg", "a.png"]])
def test_copies_take_the_place_of_no_image(tmp_path: Path, train: list[str], link: bool) -> None:
    data = data_set(tmp_path / "set", train)
    before = {path: path.read_bytes() for path in (tmp_path / "set").rglob("*") if path.is_file()}
    counts = expand(data, tmp_path / "out", link=link)
    assert counts["train"] == 6 == len(list((tmp_path / "out/images/train").iterdir())) == len(list((tmp_path / "out/labels/train").iterdir()))
    assert {path: path.read_bytes() for path in before} == before
    assert expand(tmp_path / "out", tmp_path / "again")["train"] == 18 == len(list((tmp_path / "again/images/train").iterdir()))


def enlarged(data: Path, out: Path) -> None:
    expand(data, out, link=True, overwrite=True)


def cut(data: Path, out: Path) -> None:
    tile(data, out, 32, overwrite=True)


@pytest.mark.parametrize("make", [enlarged, cut])
def test_a_source_elsewhere_than_its_yaml_is_not_replaced(tmp_path: Path, make) -> None:
    data_set(tmp_path / "set", ["a.png"])
    yaml = tmp_path / "yamls/my.yaml"
    yaml.parent.mkdir()
    yaml.write_text(f"train: {tmp_path}/set/images/train\nval: {tmp_path}/set/images/val\nnames: [pit]\n")
    (tmp_path / "linked/images").mkdir(parents=True)
    (tmp_path / "linked/images/a.png").symlink_to(tmp_path / "set/images/train/a.png")
    (tmp_path / "linked/labels").mkdir()
    (tmp_path / "linked/labels/a.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    links = tmp_path / "yamls/links.yaml"
    links.write_text(f"train: {tmp_path}/linked/images\nval: {tmp_path}/linked/images\nnames: [pit]\n")
    for data in (yaml, links):
        with pytest.raises(UserError, match="expected an output folder apart from the source"):
            make(data, tmp_path / "set")
    assert (tmp_path / "set/images/train/a.png").is_file() and (tmp_path / "set/data.yaml").is_file()


def test_what_was_there_stays_where_the_new_one_cannot_take_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data_set(tmp_path / "set", ["a.png"])
    rename = Path.rename

    def refused(self: Path, target: Path):
        if ".partial-" in self.name:
            raise OSError(5, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", refused)
    with pytest.raises(UserError, match="could not be written"), staging(tmp_path / "set", overwrite=True) as folder:
        (folder / "data.yaml").touch()
    assert (tmp_path / "set/images/train/a.png").is_file() and [path.name for path in tmp_path.iterdir()] == ["set"]


def test_a_folder_with_another_programs_sample_json_is_no_sample(tmp_path: Path) -> None:
    data_set(tmp_path / "set", ["a.png"])
    (tmp_path / "set/sample.json").write_text(json.dumps({"note": "mine"}))
    with pytest.raises(UserError, match="was not made by data.sample"):
        make_sample(tmp_path / "set", images=10, size=64)
    assert (tmp_path / "set/images/train/a.png").is_file()


def test_names_in_no_encoding_and_without_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    odd = os.fsencode(tmp_path) + b"/\xe4.png"
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((64, 64, 3), np.uint8))
    with open(odd, "wb") as file:
        file.write((tmp_path / "a.png").read_bytes())
    (tmp_path / "list.txt").write_bytes(os.fsencode(tmp_path / "a.png") + b"\n" + odd + b"\n")
    assert [os.fsencode(line) for line in read_list(tmp_path / "list.txt")] == [os.fsencode(tmp_path / "a.png"), odd]
    (tmp_path / "bare.txt").write_text("a.png\n")
    monkeypatch.chdir(tmp_path)
    assert [sample.image for sample in read_images([Path("bare.txt")], 1).samples] == [tmp_path / "a.png"]
