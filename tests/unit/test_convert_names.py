"""Which image an annotation gets: the one that it names, or none."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from converting import coco, convert, labelme, picture, put, voc

from cfg import UserError, printable

# format; images; annotation file -> image name as written; annotation file -> the image that is right; status. Only the
# annotations that must be used are in the third; a COCO "file" is an entry of the one JSON file.
CASES = {
    # the name decides, with suffix and folder
    "voc-mask-of-the-same-stem": ("voc", ["JPEGImages/p.jpg", "GroundTruth/p.png"], {"Annotations/p.xml": "p.jpg"},
                                  {"Annotations/p.xml": "JPEGImages/p.jpg"}, 0),
    "voc-mask-of-the-same-name": ("voc", ["pics/p.png", "SegmentationClass/p.png"], {"xml/p.xml": "p.png"},
                                  {"xml/p.xml": "pics/p.png"}, 0),
    "voc-only-the-mask": ("voc", ["JPEGImages/o.png", "masks/p.png"], {"xml/p.xml": "p.png", "xml/o.xml": "o.png"},
                          {"xml/o.xml": "JPEGImages/o.png"}, 1),
    "voc-only-the-mask-in-another-format": ("voc", ["o.png", "GT/p.png"], {"p.xml": "p.jpg", "o.xml": "o.png"},
                                            {"o.xml": "o.png"}, 1),
    "voc-a-mask-that-is-named": ("voc", ["pics/p.png", "masks/p.png"], {"xml/p.xml": "masks/p.png"},
                                 {"xml/p.xml": "masks/p.png"}, 0),
    "labelme-same-stem": ("labelme", ["p.png", "p.bmp"], {"p.json": "p.png"}, {"p.json": "p.png"}, 0),
    "labelme-relative": ("labelme", ["images/a/p.png", "p.png"], {"json/a/p.json": "..\\..\\images\\a\\p.png"},
                         {"json/a/p.json": "images/a/p.png"}, 0),
    "labelme-beside": ("labelme", ["a/p.png", "images/p.png"], {"a/p.json": "p.png"}, {"a/p.json": "a/p.png"}, 0),
    "voc-shorter-stem": ("voc", ["images/scan.png", "images/o.png"],
                         {"xml/scan.2.xml": "scan.2.png", "xml/o.xml": "o.png"}, {"xml/o.xml": "images/o.png"}, 1),
    "voc-dots-in-stems": ("voc", ["scan.png", "scan.2.png"], {"scan.2.xml": "scan.2", "scan.xml": "scan"},
                          {"scan.2.xml": "scan.2.png", "scan.xml": "scan.png"}, 0),
    "voc-suffix-left-out": ("voc", ["p.png"], {"p.xml": "p"}, {"p.xml": "p.png"}, 0),
    "voc-suffix-left-out-twice": ("voc", ["p.png", "p.bmp", "o.png"], {"p.xml": "p", "o.xml": "o.png"},
                                  {"o.xml": "o.png"}, 1),
    "voc-two-suffixes": ("voc", ["p.png"], {"p.png.xml": "p.png"}, {"p.png.xml": "p.png"}, 0),
    "voc-name-is-missing": ("voc", ["p.png"], {"p.xml": ""}, {"p.xml": "p.png"}, 0),
    "voc-name-is-missing-two-suffixes": ("voc", ["p.png", "p.jpg"], {"p.png.xml": ""}, {"p.png.xml": "p.png"}, 0),
    # folders
    "coco-namesake-in-another-folder": ("coco", ["images/b/p.png"], {"1": "a/p.png", "2": "b/p.png"},
                                        {"2": "images/b/p.png"}, 1),
    "coco-namesakes": ("coco", ["a/p.png", "b/p.png"], {"1": "b/p.png", "2": "a/p.png"},
                       {"1": "b/p.png", "2": "a/p.png"}, 0),
    "coco-no-folder-for-namesakes": ("coco", ["a/p.png", "b/p.png", "o.png"], {"1": "p.png", "2": "o.png"},
                                     {"2": "o.png"}, 1),
    "coco-the-folder-is-there-without-it": ("coco", ["images/a/o.png", "images/b/p.png"],
                                            {"1": "a/p.png", "2": "a/o.png"}, {"2": "images/a/o.png"}, 1),
    "coco-a-folder-that-is-gone": ("coco", ["images/p.png"], {"1": "train2017/p.png"}, {"1": "images/p.png"}, 0),
    "coco-two-folders-that-are-gone": ("coco", ["images/p.png", "o.png"],
                                       {"1": "a/p.png", "2": "b/p.png", "3": "o.png"}, {"3": "o.png"}, 1),
    "voc-numbered-in-folders": ("voc", ["img/a/1.png", "img/b/1.png"], {"xml/a/1.xml": "1.png", "xml/b/1.xml": "1.png"},
                                {"xml/a/1.xml": "img/a/1.png", "xml/b/1.xml": "img/b/1.png"}, 0),
    "voc-folders-the-other-way": ("voc", ["a/img/1.png", "b/img/1.png"],
                                  {"a/xml/1.xml": "1.png", "b/xml/1.xml": "1.png"},
                                  {"a/xml/1.xml": "a/img/1.png", "b/xml/1.xml": "b/img/1.png"}, 0),
    "voc-one-number-is-missing": ("voc", ["img/a/2.png", "img/a/3.png", "img/b/1.png"],
                                  {f"xml/a/{i}.xml": f"{i}.png" for i in (1, 2, 3)},
                                  {"xml/a/2.xml": "img/a/2.png", "xml/a/3.xml": "img/a/3.png"}, 1),
    "labelme-one-number-is-missing-beside": ("labelme", ["a/2.png", "a/3.png", "b/1.png"],
                                             {f"a/{i}.json": f"{i}.png" for i in (1, 2, 3)},
                                             {"a/2.json": "a/2.png", "a/3.json": "a/3.png"}, 1),
    "voc-a-preview-beside": ("voc", ["pics/p.png", "xml/preview.png"], {"xml/p.xml": "p.png"},
                             {"xml/p.xml": "pics/p.png"}, 0),
    "voc-two-folders-of-all": ("voc", ["img/a/1.png", "raw/a/1.png", "img/b/2.png"],
                               {"xml/a/1.xml": "1.png", "xml/b/2.xml": "2.png"}, {"xml/b/2.xml": "img/b/2.png"}, 1),
    # spelling
    "coco-windows": ("coco", ["images/b/p.png"], {"1": "b\\p.png"}, {"1": "images/b/p.png"}, 0),
    "coco-dot": ("coco", ["images/p.png"], {"1": "./images/p.png"}, {"1": "images/p.png"}, 0),
    "coco-another-machine": ("coco", ["images/a/p.png", "images/b/p.png"], {"1": "C:\\Users\\me\\set\\a\\p.png"},
                             {"1": "images/a/p.png"}, 0),
    "coco-url": ("coco", ["images/p 1.png"], {"1": "https://host.example/set/p%201.png?token=a/b"},
                 {"1": "images/p 1.png"}, 0),
    "coco-escaped": ("coco", ["images/p 1.png"], {"1": "p%201.png"}, {"1": "images/p 1.png"}, 0),
    "coco-a-percent-sign": ("coco", ["p%201.png", "p 1.png"], {"1": "p%201.png"}, {"1": "p%201.png"}, 0),
    "coco-roboflow": ("coco", ["train/p_jpg.rf.0a1b2c.jpg", "train/p_jpg.rf.3d4e5f.jpg", "p.jpg"],
                      {"1": "p_jpg.rf.3d4e5f.jpg"}, {"1": "train/p_jpg.rf.3d4e5f.jpg"}, 0),
    "coco-roboflow-without-the-copy": ("coco", ["p.jpg", "p_jpg.rf.3d4e5f.jpg"],
                                       {"1": "p_jpg.rf.0a1b2c.jpg", "2": "p_jpg.rf.3d4e5f.jpg"},
                                       {"2": "p_jpg.rf.3d4e5f.jpg"}, 1),
    "coco-composed-letters": ("coco", ["Lo\u0308tstelle.png"], {"1": "L\u00f6tstelle.png"},
                              {"1": "Lo\u0308tstelle.png"}, 0),
    "voc-case": ("voc", ["p.jpg"], {"p.xml": "P.JPG"}, {"p.xml": "p.jpg"}, 0),
    "voc-case-twice": ("voc", ["p.jpg", "P.jpg", "o.jpg"], {"p.xml": "p.JPG", "o.xml": "o.jpg"}, {"o.xml": "o.jpg"}, 1),
    "voc-case-exactly": ("voc", ["p.jpg", "P.jpg"], {"a.xml": "P.jpg"}, {"a.xml": "P.jpg"}, 0),
    "voc-encoded-again": ("voc", ["p.jpg"], {"p.xml": "p.bmp"}, {"p.xml": "p.jpg"}, 0),
    "voc-encoded-twice": ("voc", ["p.jpg", "p.png", "o.png"], {"p.xml": "p.bmp", "o.xml": "o.png"},
                          {"o.xml": "o.png"}, 1),
    "voc-case-of-folders": ("voc", ["a/p.png", "b/p.png"], {"1.xml": "A\\p.png", "2.xml": "B/P.PNG"},
                            {"1.xml": "a/p.png", "2.xml": "b/p.png"}, 0),
    "voc-the-annotation-is-named": ("voc", ["p.png"], {"p.XML": "p.XML"}, {"p.XML": "p.png"}, 0),
    "voc-two-suffixes-each": ("voc", ["p.jpg", "p.jpg.png"], {"p.xml": "p.jpg", "p.jpg.xml": "p.jpg.png"},
                              {"p.xml": "p.jpg", "p.jpg.xml": "p.jpg.png"}, 0),
    "labelme-no-name": ("labelme", ["p.png"], {"p.json": "."}, {"p.json": "p.png"}, 0),
    "coco-no-url": ("coco", ["p.png"], {"1": "p.png", "2": "http://[x/o.png"}, {"1": "p.png"}, 1),
    "coco-no-path": ("coco", ["p.png"], {"1": "p.png", "2": "../../../etc/passwd", "3": "a\0b.png", "4": "x" * 300,
                                         "5": "\ud800.png"}, {"1": "p.png"}, 1),
    "coco-a-file-on-windows": ("coco", ["images\\p.png"], {"1": "images\\p.png"}, {"1": "images\\p.png"}, 0),
    "coco-letters-of-another-encoding": ("coco", ["L\udcf6t.png"], {"1": "L\u00f6t.png"}, {"1": "L\udcf6t.png"}, 0),
    "voc-not-read": ("voc", ["p.gif", "p.png", "o.png"], {"p.xml": "p.gif", "o.xml": "o.png"}, {"o.xml": "o.png"}, 1),
    # stale names
    "voc-renamed": ("voc", ["p1.jpg", "p2.jpg"], {"p1.xml": "IMG_7.jpg", "p2.xml": "IMG_8.jpg"},
                    {"p1.xml": "p1.jpg", "p2.xml": "p2.jpg"}, 0),
    "labelme-renamed": ("labelme", ["p1.jpg"], {"p1.json": "IMG_7.jpg"}, {"p1.json": "p1.jpg"}, 0),
    "voc-copied": ("voc", ["p0.jpg", "p1.jpg"], {"p0.xml": "p0.jpg", "p1.xml": "p0.jpg"},
                   {"p0.xml": "p0.jpg", "p1.xml": "p1.jpg"}, 0),
    "voc-renumbered": ("voc", ["1.jpg", "2.jpg", "3.jpg"], {"1.xml": "2.jpg", "2.xml": "3.jpg", "3.xml": "1.jpg"},
                       {"1.xml": "1.jpg", "2.xml": "2.jpg", "3.xml": "3.jpg"}, 0),
    "voc-template": ("voc", ["t.jpg", "p1.jpg", "p2.jpg"], {"p1.xml": "t.jpg", "p2.xml": "t.jpg"},
                     {"p1.xml": "p1.jpg", "p2.xml": "p2.jpg"}, 0),
    "voc-copied-without-its-image": ("voc", ["p0.jpg"], {"p0.xml": "p0.jpg", "p1.xml": "p0.jpg"},
                                     {"p0.xml": "p0.jpg"}, 1),
    "voc-another-name-of-its-own": ("voc", ["p0.jpg", "a1.jpg"], {"a1.xml": "p0.jpg"}, {"a1.xml": "p0.jpg"}, 0),
    "voc-file-of-any-name": ("voc", ["p0.jpg"], {"label-0001.xml": "p0.jpg"}, {"label-0001.xml": "p0.jpg"}, 0),
}


def make(tmp_path: Path, kind: str, images: list[str], named: dict[str, str]) -> Path:
    """Make a source in which every annotation has a class of its own: its file's name."""
    source = tmp_path / "s"
    for image in images:
        put(source / image, "GIF89a") if image.endswith(".gif") else picture(source / image)  # what cannot be read
    if kind == "coco":
        notes = [(i, i) for i, _ in enumerate(named, 1)]
        put(source / "notes.json", coco(list(named.values()), notes, [{"id": int(i), "name": i} for i in named]))
    for file, name in named.items() if kind != "coco" else ():
        put(source / file, (voc if kind == "voc" else labelme)(name, label=file))
    return source


@pytest.mark.parametrize("case", CASES)
def test_the_picture_that_is_named(tmp_path, case):
    kind, images, named, expected, status = CASES[case]
    done = convert(kind, make(tmp_path, kind, images, named))
    assert done.labels == {image: [file] for file, image in expected.items()}
    assert done.status == status
    for file in named.keys() - expected.keys():  # what is left out is named
        assert (printable(named[file].replace("//", "/")) if kind == "coco" else file) in done.said


@pytest.mark.parametrize("case", CASES)
def test_no_picture_of_a_defect_becomes_defect_free(tmp_path, case):
    """With --background, an image that an annotation names or may name is never one without defects."""
    kind, images, named, expected, _ = CASES[case]
    done = convert(kind, make(tmp_path, kind, images, named), "--background")
    free = {image for image, labels in done.labels.items() if not labels}
    assert {image: labels for image, labels in done.labels.items() if labels} == {
        image: [file] for file, image in expected.items()}
    names = [re.split(r"[/\\]", named[file])[-1].lower() for file in named.keys() - expected.keys()]
    left_out = [os.path.splitext(name)[0] for name in names]
    assert not [image for image in free if Path(image).stem.lower() in left_out]
    assert not [image for image in free if "mask" in image.lower() or image.startswith(("GroundTruth", "GT", "Segm"))]


def test_what_was_guessed_is_said(tmp_path):
    for case, text in {"voc-case": "images found in another case: 1",
                       "voc-encoded-again": "images found with another suffix: 1",
                       "coco-a-folder-that-is-gone": "images found in another folder: 1",
                       "voc-renamed": "names that no image bears: the annotation file's own name taken: 2",
                       "voc-renumbered": "stale names: the annotation file's own name taken: 3",
                       "voc-another-name-of-its-own": "differ from the annotation file's own: the name inside taken: 1",
                       "coco-the-folder-is-there-without-it": "not found in a, and ",
                       "voc-not-read": "p.gif is hidden, of no format that is read"}.items():
        kind, images, named, _, _ = CASES[case]
        assert text in convert(kind, make(tmp_path / case, kind, images, named)).said, case


def test_absolute_names(tmp_path, monkeypatch):
    inside, outside = picture(tmp_path / "s/images/p.png"), picture(tmp_path / "elsewhere/o.png")
    picture(tmp_path / "s/images/o.png")  # a namesake of the one that is named
    put(tmp_path / "s/a.json", coco([str(inside), str(outside)], [(1, 1), (2, 1)]))
    monkeypatch.chdir(tmp_path)
    for source in (tmp_path / "s", Path("s"), Path("elsewhere/../s")):
        done = convert("coco", source, out=tmp_path / "out")
        assert done.labels == {"images/p.png": ["pit"]} and done.status == 1
        assert f"{outside} lies outside" in done.said


def test_a_linked_folder_is_the_same_picture(tmp_path):
    image = picture(tmp_path / "store/p.png")
    (tmp_path / "s").mkdir()
    (tmp_path / "s/a").symlink_to(tmp_path / "store")
    (tmp_path / "s/b").symlink_to(tmp_path / "store")
    put(tmp_path / "s/a.json", coco(["p.png", str(image)], [(1, 1)]))
    done = convert("coco", tmp_path / "s")
    assert len(done.labels) == 1 and "pit" in str(done.labels)


def test_earlier_output_is_no_source(tmp_path):
    """`--out` inside `--source`, beside another data set that was made there: the same result every time."""
    source = make(tmp_path, "voc", ["images/p.jpg", "images/free.jpg"], {"xml/p.xml": "p.jpg"})
    results = [convert("voc", source, "--background", out=source / name) for name in ("0-old", "0-yolo", "0-yolo")]
    assert all(done.labels == {"images/p.jpg": ["xml/p.xml"], "images/free.jpg": []} for done in results)
    assert all(done.status == 0 and done.said.splitlines()[:3] == results[0].said.splitlines()[:3] for done in results)


def test_an_annotation_that_cannot_be_read_frees_no_image(tmp_path):
    source = make(tmp_path, "voc", ["p.jpg", "o.jpg", "free.jpg"], {"p.xml": "p.jpg"})
    put(source / "o.xml", "<annotation><object>")
    done = convert("voc", source, "--background")
    assert done.labels == {"p.jpg": ["p.xml"], "free.jpg": []} and done.status == 1
    assert "images whose annotation was left out: not taken as defect-free: 1" in done.said


def test_links_that_form_loops_and_what_is_no_file(tmp_path):
    source = make(tmp_path, "voc", ["images/p.jpg"], {"xml/p.xml": "p.jpg"})
    for folder in ("images", "xml"):
        (source / folder / "loop").symlink_to("..")
    (source / "xml/gone.xml").symlink_to("nowhere")
    os.mkfifo(source / "xml/pipe.xml")
    done = convert("voc", source, "--background")
    assert done.labels == {"images/p.jpg": ["xml/p.xml"]} and done.status == 1
    assert done.said.count("expected a file, got a pipe or a link to nothing") == 2


@pytest.mark.long
def test_what_a_terminal_cannot_show(tmp_path):
    """Names with characters of no encoding, or line ends, are printed on one line, and end no command."""
    source = make(tmp_path, "coco", ["p.png"], {"1": "p.png", "2": "\ud800.png", "3": "a\nb.png"})
    done = subprocess.run([sys.executable, "-m", "data.convert", "--format", "coco", "--source", source, "--out",
                           tmp_path / "out"], capture_output=True, text=True, cwd=Path(__file__).parents[2],
                          env=os.environ | {"PYTHONIOENCODING": "utf-8"})
    assert done.returncode == 1 and "\\ud800.png: its name cannot be read" in done.stdout, done.stderr
    assert "  a\\nb.png: its image was not found\n" in done.stdout


@pytest.mark.parametrize(("lines", "expected", "status"), [
    ("a/p.png\nb/q.png", {"a/p.png", "b/q.png"}, 0), ("p.png 1\nq.png -1", {"a/p.png", "b/q.png"}, 0),
    ("/old/set/a/p.png\nC:\\old\\b\\q.png", {"a/p.png", "b/q.png"}, 0), ("P.PNG\nq", {"a/p.png", "b/q.png"}, 0),
    ("a/p.xml\nb/p.png", {"a/p.png"}, 1), ("c/p.png\nd/p.png\nb/q.png", {"b/q.png"}, 1),
    ("s 1/r.png\np", {"s 1/r.png", "a/p.png"}, 0), ("x.bmp\nx.png\np", {"x.bmp", "x.png", "a/p.png"}, 0)])
def test_split_lists(tmp_path, lines, expected, status):
    """What a list names is found as what an annotation names: never a namesake in another folder."""
    source = make(tmp_path, "voc", ["a/p.png", "b/q.png", "s 1/r.png", "x.png", "x.bmp"],
                  {f"{i}.xml": name for i, name in enumerate(["p.png", "q.png", "r.png", "x.png", "x.bmp"])})
    done = convert("voc", source, "--splits", f"train={put(tmp_path / 'list.txt', lines)}")
    assert set(done.labels) == expected and done.status == status
    (tmp_path / "list.txt").write_text("x\n")
    with pytest.raises(UserError, match="expected a distinct name, got 'x', which 2 images have"):
        convert("voc", source, "--splits", f"train={tmp_path / 'list.txt'}")
