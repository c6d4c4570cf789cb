"""Converters: hand-made sources, box by box, and the two real sets where they are to be had."""

import argparse
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from cfg import UserError
from data.convert import READERS, Annotation, Log, Reader, register
from data.convert.__main__ import main
from data.convert.writer import mend
from data.dataset import resolve, validate
from data.labels import read_labels

REAL = Path(__file__).resolve().parents[2] / "../shared/data"


def image(path: Path, width: int = 100, height: int = 50, value: int = 90) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(path), np.full((height, width, 3), value, np.uint8))
    return path


def voc(path: Path, objects: list[tuple]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(f"<object><name>{n}</name><difficult>{d}</difficult><bndbox><xmin>{x1}</xmin><ymin>{y1}</ymin>"
                   f"<xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>" for n, d, x1, y1, x2, y2 in objects)
    path.write_text(f"<annotation><filename>{path.stem}.png</filename>{text}</annotation>")


@pytest.fixture
def voc_source(tmp_path: Path) -> Path:
    source = tmp_path / "source"
    for name in ("a", "b", "c"):
        image(source / "images" / f"{name}.png")
    pit = ("pit", 0, 10, 10, 30, 20)
    voc(source / "xml" / "a.xml", [pit, pit, ("scratch", 1, 0, 0, 50, 25)])
    voc(source / "xml" / "b.xml", [("scratch", 0, 80, -5, 140, 25)])
    voc(source / "xml" / "c.xml", [])
    (source / "train.txt").write_text("a\nc\n")
    (source / "val.txt").write_text("images/b.png\n")
    return source


def run_voc(source: Path, out: Path, *more: str) -> int:
    return main(["--format", "voc", "--source", str(source), "--out", str(out), "--splits",
                 f"train={source / 'train.txt'}", f"val={source / 'val.txt'}", *more])


def test_voc_boxes_and_splits(voc_source, tmp_path, capsys):
    assert run_voc(voc_source, tmp_path / "out") == 0
    # (10 10 30 20) in 100 x 50: centre 0.2, 0.3, size 0.2, 0.2; its exact copy is dropped; classes sorted: pit, scratch
    assert (tmp_path / "out/labels/train/a.txt").read_text() == ("0 0.200000 0.300000 0.200000 0.200000\n"
                                                                 "1 0.250000 0.250000 0.500000 0.500000\n")
    # (80 -5 140 25) is clipped to (80 0 100 25)
    assert (tmp_path / "out/labels/val/b.txt").read_text() == "1 0.900000 0.250000 0.200000 0.500000\n"
    assert (tmp_path / "out/labels/train/c.txt").read_text() == ""
    said = capsys.readouterr().out
    assert "duplicate boxes dropped: 1" in said and "a.xml: pit 10 10 30 20" in said
    assert "boxes clipped to the image: 1" in said and "b.xml" in said
    summary = validate(tmp_path / "out/data.yaml")
    assert summary.images == {"train": 2, "val": 1} and summary.boxes == {"train": 2, "val": 1}
    assert summary.names == {0: "pit", 1: "scratch"} and summary.background == {"train": 1, "val": 0}


def test_rounding_is_no_clipping(voc_source, tmp_path, capsys):
    voc(voc_source / "xml" / "b.xml", [("scratch", 0, -4.8e-05, 5, 40, 50.004)])
    assert run_voc(voc_source, tmp_path / "out") == 0
    assert (tmp_path / "out/labels/val/b.txt").read_text() == "1 0.200000 0.550000 0.400000 0.900000\n"
    assert "clipped" not in capsys.readouterr().out


def test_voc_options(voc_source, tmp_path):
    run_voc(voc_source, tmp_path / "out", "--difficult", "drop", "--one-based", "--link")
    rows = read_labels(tmp_path / "out/labels/train/a.txt").rows
    np.testing.assert_allclose(rows, [[0, 0.195, 0.29, 0.21, 0.22]])  # (9 9 30 20); the difficult one is gone
    assert (tmp_path / "out/images/train/a.png").is_symlink()


def test_bad_file_is_reported_and_counted(voc_source, tmp_path, capsys):
    (voc_source / "xml/a.xml").write_text("<annotation><object>")
    (voc_source / "images/c.png").write_bytes(b"")
    assert run_voc(voc_source, tmp_path / "out") == 1
    said = capsys.readouterr().out
    assert "files left out: 3" in said and "a.xml" in said and "c.png: file is empty" in said
    assert validate_images(tmp_path / "out") == ["b.png"]


def validate_images(out: Path) -> list[str]:
    return sorted(p.name for p in (out / "images").rglob("*.png"))


def test_names_given(voc_source, tmp_path):
    with pytest.raises(UserError, match=r"a\.xml: .* pit, scrach, got 'scratch'; did you mean 'scrach'"):
        run_voc(voc_source, tmp_path / "out", "--names", "pit,scrach")
    assert not (tmp_path / "out").exists()
    run_voc(voc_source, tmp_path / "out", "--names", "dent,pit", "--ignore-unknown")
    assert [int(r[0]) for r in read_labels(tmp_path / "out/labels/train/a.txt").rows] == [1]


def test_nothing_half_written_and_no_overwrite(voc_source, tmp_path, monkeypatch):
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("keep")
    with pytest.raises(UserError, match="new or empty folder"):
        run_voc(voc_source, out)
    with pytest.raises(UserError, match="replaces only a data set"):
        run_voc(voc_source, out, "--overwrite")
    assert (out / "mine.txt").read_text() == "keep"

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("data.layout.DatasetWriter.finish", full)
    with pytest.raises(UserError, match="No space left"):
        run_voc(voc_source, tmp_path / "new")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out", "source"]


def test_overwrite_replaces(voc_source, tmp_path):
    run_voc(voc_source, tmp_path / "out")
    (tmp_path / "out/images/train/old.png").write_bytes(b"x")
    run_voc(voc_source, tmp_path / "out", "--overwrite")
    assert validate_images(tmp_path / "out") == ["a.png", "b.png", "c.png"]
    with pytest.raises(UserError, match="apart from the source"):
        run_voc(voc_source, tmp_path, "--overwrite")


def test_second_annotation_of_an_image(voc_source, tmp_path, capsys):
    voc(voc_source / "zz" / "a.xml", [("scratch", 0, 1, 1, 9, 9)])
    assert run_voc(voc_source, tmp_path / "out") == 1
    assert "zz/a.xml: annotates" in capsys.readouterr().out
    assert len(read_labels(tmp_path / "out/labels/train/a.txt").rows) == 2


@pytest.mark.parametrize(("text", "match"), [("train=nowhere.txt", "expected a file for 'train'"),
                                             ("part=x", "PART one of train, val, test")])
def test_wrong_splits(voc_source, tmp_path, text, match):
    with pytest.raises(UserError, match=match):
        main(["--format", "voc", "--source", str(voc_source), "--out", str(tmp_path / "o"), "--splits", text])


def test_split_list_mistakes(voc_source, tmp_path, capsys):
    (voc_source / "val.txt").write_text("nobody\n")
    with pytest.raises(UserError, match=r"val\.txt: expected names of images.*'nobody'"):
        run_voc(voc_source, tmp_path / "out")
    (voc_source / "val.txt").write_text("b\na\n")
    with pytest.raises(UserError, match="'a' in train too"):
        run_voc(voc_source, tmp_path / "out")
    (voc_source / "val.txt").write_text("b\nnobody\n")
    assert run_voc(voc_source, tmp_path / "out") == 1
    assert "'nobody' names no usable image" in capsys.readouterr().out


def test_without_splits_everything_is_one_part(voc_source, tmp_path, capsys):
    assert main(["--format", "voc", "--source", str(voc_source), "--out", str(tmp_path / "out")]) == 0
    assert len(list((tmp_path / "out/images/all").iterdir())) == 3
    assert "data.split" in capsys.readouterr().out
    with pytest.raises(UserError, match="data.split"):
        resolve(tmp_path / "out/data.yaml")


def test_mend_swaps_and_drops():
    log = Log()
    boxes = [("pit", (30, 20, 10, 10)), ("pit", (200, 0, 300, 10)), ("pit", (float("nan"), 0, 1, 1))]
    rows, lost = mend(boxes, ["pit"], 100, 50, Path("a.xml"), log)
    np.testing.assert_allclose(rows, [[0, 0.2, 0.3, 0.2, 0.2]])
    assert lost == 2 and set(log.mended) == {"corners put in order"}
    assert set(log.lost) == {"boxes without an area inside the image", "boxes without finite corners"}


def coco(source: Path, **change) -> Path:
    content = {"images": [{"id": 7, "file_name": "a.png"}, {"id": 8, "file_name": "b.png"}],
               "annotations": [{"id": 1, "image_id": 7, "category_id": 5, "bbox": [10, 10, 20, 10]},
                               {"id": 2, "image_id": 7, "category_id": 2, "bbox": [0, 0, 50, 25], "iscrowd": 1}],
               "categories": [{"id": 5, "name": "pit"}, {"id": 2, "name": "scratch"}]} | change
    path = source / "annotations" / "train.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def test_coco(tmp_path, capsys):
    source = tmp_path / "s"
    image(source / "images/a.png"), image(source / "images/b.png")
    path = coco(source)
    with pytest.raises(UserError, match="expected distinct splits, got a.png in train and in val"):
        main(["--format", "coco", "--source", str(source), "--out", str(tmp_path / "out"), "--splits",
              f"train={path}", f"val={path}"])
    assert main(["--format", "coco", "--source", str(source), "--out", str(tmp_path / "out"), "--splits",
                 f"train={path}"]) == 0
    out = tmp_path / "out"
    # categories in order of their ids: scratch 0, pit 1; bbox (10 10 20 10) is (10 10 30 20)
    assert (out / "labels/train/a.txt").read_text() == "1 0.200000 0.300000 0.200000 0.200000\n"
    assert (out / "labels/train/b.txt").read_text() == ""
    assert resolve(out, require=())["names"] == {0: "scratch", 1: "pit"}
    assert "crowd regions dropped" in capsys.readouterr().out


@pytest.mark.parametrize(("change", "match"), [
    ({"annotations": [{"image_id": 7, "category_id": 9, "bbox": [1, 1, 2, 2]}]}, "known category_id"),
    ({"annotations": [{"image_id": 7, "category_id": 5, "bbox": [1, 1, 2]}]}, "bbox"),
    ({"categories": {}}, "lists images, annotations, categories"),
    ({"images": [{"id": 3}]}, "annotations of unknown images")])
def test_coco_malformed(tmp_path, change, match):
    image(tmp_path / "s/a.png")
    coco(tmp_path / "s", **change)
    with pytest.raises(UserError, match=rf"train\.json.*{match}"):
        main(["--format", "coco", "--source", str(tmp_path / "s"), "--out", str(tmp_path / "out")])


def test_deeppcb(tmp_path, capsys):
    source = tmp_path / "s"
    for name in ("1_test", "1_temp", "2_test", "2_temp", "3_test"):
        image(source / f"group0/00/{name}.jpg")
    (source / "group0/00_not").mkdir()
    (source / "group0/00_not/1.txt").write_text("10 10 30 20 6\n0,0,50,25,1\n")
    (source / "group0/00_not/2.txt").write_text("1 2 3 4 7\n")
    (source / "list.txt").write_text("group0/00/1.jpg group0/00_not/1.txt\ngroup0/00/3.jpg group0/00_not/3.txt\n")
    assert main(["--format", "deeppcb", "--source", str(source), "--out", str(tmp_path / "out"), "--background",
                 "--splits", f"train={source / 'list.txt'}"]) == 1
    assert (tmp_path / "out/labels/train/1.txt").read_text().splitlines()[0].startswith("5 0.2")
    assert sorted(p.name for p in (tmp_path / "out/images").rglob("*.jpg")) == ["1.jpg", "3.jpg"]
    said = capsys.readouterr().out
    assert "2.txt: line 1: expected 'x1 y1 x2 y2 type' with type 1 to 6, got '1 2 3 4 7'" in said


def test_labelme(tmp_path, capsys):
    image(tmp_path / "s/a.png"), image(tmp_path / "s/b.png")
    shapes = [{"label": "pit", "shape_type": "rectangle", "points": [[30, 20], [10, 10]]},
              {"label": "pit", "shape_type": "circle", "points": [[50, 25], [53, 29]]},
              {"label": "patch", "points": [[0, 0], [20, 5], [10, 25]]},
              {"label": "pit", "shape_type": "point", "points": [[1, 1]]}]
    (tmp_path / "s/a.json").write_text(json.dumps({"shapes": shapes, "imagePath": "a.png"}))
    (tmp_path / "s/b.json").write_text(json.dumps({"shapes": [{"points": [[0, 0], [1, 1]]}]}))
    assert main(["--format", "labelme", "--source", str(tmp_path / "s"), "--out", str(tmp_path / "out")]) == 1
    rows = read_labels(tmp_path / "out/labels/all/a.txt").rows
    # circle: centre 50, 25, radius 5 -> 45..55, 20..30; patch (index 0, before pit): 0..20, 0..25
    np.testing.assert_allclose(rows, [[1, .2, .3, .2, .2], [1, .5, .5, .1, .2], [0, .1, .25, .2, .5]])
    said = capsys.readouterr().out
    assert "shapes without a label or two points: 2" in said and "b.png: none of its 1 annotations can be used" in said


def test_unknown_format_and_empty_source(tmp_path):
    with pytest.raises(UserError, match="did you mean 'voc'"):
        main(["--format", "vocc", "--source", str(tmp_path), "--out", "x"])
    with pytest.raises(UserError, match="expected voc annotations"):
        main(["--format", "voc", "--source", str(tmp_path), "--out", str(tmp_path / "out")])
    with pytest.raises(UserError, match="expected a folder"):
        main(["--format", "voc", "--source", str(tmp_path / "no"), "--out", str(tmp_path / "out")])


def test_a_new_format_needs_only_a_reader(tmp_path):
    @register("names-only")
    class NamesReader(Reader):
        def read(self):
            for path in self.index.images:
                yield Annotation(path, [("pit", (0, 0, 10, 10))], path.name)

    try:
        image(tmp_path / "s/x/a.png"), image(tmp_path / "s/y/a.png", value=10)
        assert main(["--format", "names-only", "--source", str(tmp_path / "s"), "--out", str(tmp_path / "out")]) == 0
        assert validate_images(tmp_path / "out") == ["x_a.png", "y_a.png"]  # equal names get their folders
    finally:
        READERS.pop("names-only")


def test_reader_options_do_not_leak(tmp_path):
    parser = argparse.ArgumentParser()
    READERS["voc"].add_arguments(parser)
    assert parser.parse_args([]).difficult == "keep"
    with pytest.raises(UserError, match="--difficult: expected an argument of"):
        main(["--format", "coco", "--source", "a", "--out", "b", "--difficult", "drop"])


@pytest.mark.real
def test_real_neu_det(tmp_path):
    source = REAL / "neu-det"
    if not source.is_dir():
        pytest.skip("NEU-DET is not there (../shared/data/neu-det)")
    assert run_voc(source, tmp_path / "out", "--link") == 0
    summary = validate(tmp_path / "out")
    assert summary.images == {"train": 1440, "val": 360}
    total = {summary.names[i]: int(n) for i, n in enumerate(sum(summary.boxes_per_class.values()))}
    # 4,189 boxes less three exact duplicates (crazing_120, inclusion_62, patches_198)
    assert total == {"crazing": 688, "inclusion": 1010, "patches": 880, "pitted_surface": 432, "rolled-in_scale": 628,
                     "scratches": 548}
    assert resolve("neu-det", require=())["names"] == summary.names


@pytest.mark.real
def test_real_deeppcb(tmp_path):
    source = REAL / "deeppcb"
    if not source.is_dir():
        pytest.skip("DeepPCB is not there (../shared/data/deeppcb)")
    assert main(["--format", "deeppcb", "--source", str(source), "--out", str(tmp_path / "out"), "--link", "--splits",
                 f"train={source / 'trainval.txt'}"]) == 0
    names = resolve(tmp_path / "out", require=("train",))["names"]
    files = list((tmp_path / "out/labels/train").iterdir())
    assert len(files) == 1000 and sum(len(read_labels(f).rows) for f in files) == 6873
    assert names == resolve("deeppcb", require=())["names"]
