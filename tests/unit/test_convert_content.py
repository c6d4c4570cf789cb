"""What annotation files say, as other tools write it: boxes that come out, and what is counted and said of the rest."""

import base64
import json

import pytest
from converting import BOX, ROW, coco, convert, labelme, picture, put, voc

from cfg import UserError

PIT = ("pit", *ROW)
ENTRY = {"id": 1, "file_name": "a.png"}
NOTE = {"id": 5, "image_id": 1, "category_id": 1, "bbox": [10, 10, 20, 10]}
POLYGON = [[10, 10, 30, 12, 12, 20]]  # its bounding box is BOX


def without(entry: dict, *keys: str) -> dict:
    return {key: value for key, value in entry.items() if key not in keys}


# images, notes, categories (None: pit with id 1), what a.png gets, status, what is said
COCO = {
    "ids-are-text": ([{"id": "1", "file_name": "a.png"}], [NOTE], None, [PIT], 0, ""),
    "image-id-is-text": ([ENTRY], [NOTE | {"image_id": "1", "category_id": "1"}], None, [PIT], 0, ""),
    "ids-with-zeros": ([ENTRY | {"id": "0001"}], [NOTE | {"image_id": "1"}], None, [PIT], 0, ""),
    "ids-are-floats": ([ENTRY], [NOTE | {"image_id": 1.0, "category_id": 1.0}], None, [PIT], 0, ""),
    "id-is-the-name": ([ENTRY | {"id": "a.png"}], [NOTE | {"image_id": "a.png"}], None, [PIT], 0, ""),
    "notes-without-ids": ([ENTRY], [without(NOTE, "id")], None, [PIT], 0, ""),
    "image-without-id": ([ENTRY, {"file_name": "b.png"}], [NOTE], None, [PIT], 1, "b.png: has no id in notes.json"),
    "image-without-name": ([ENTRY, {"id": 2}], [NOTE], None, [PIT], 1, "an id and a file_name, got {'id': 2}"),
    "image-is-no-object": ([ENTRY, 3, None], [NOTE], None, [PIT], 1, "files left out: 2"),
    "one-id-for-two": ([ENTRY, ENTRY | {"id": 2, "file_name": "b.png"}, {"id": 2, "file_name": "c.png"}],
                       [NOTE, NOTE | {"image_id": 2}], None, [PIT], 1, "shares the id 2 with 1 other images"),
    "listed-twice": ([ENTRY, ENTRY | {"id": 2}], [NOTE, NOTE | {"image_id": 2, "bbox": [0, 0, 50, 25]}], None,
                     [PIT, ("pit", .25, .25, .5, .5)], 0, "images listed twice: boxes joined: 1"),
    "listed-twice-with-one-id": ([ENTRY, ENTRY], [NOTE], None, [PIT], 0, "images listed twice: boxes joined: 1"),
    "one-name": ([ENTRY], [NOTE | {"category_id": 9}], [{"id": 1, "name": "pit"}, {"id": 9, "name": " pit"}], [PIT], 0,
                 "categories of one name joined: 1"),
    "gaps-and-parents": ([ENTRY], [NOTE | {"category_id": 90}],
                                 [{"id": 90, "name": "pit", "supercategory": "defect"}, {"id": 7, "name": "dent"}],
                                 [PIT], 0, "categories without a box: kept as classes: 1"),
    "a-number-as-name": ([ENTRY], [NOTE], [{"id": 1, "name": 7}], [("7", *ROW)], 0, ""),
    "categories-without-name": ([ENTRY], [NOTE], [{"id": 1, "name": "pit"}, {"id": 2}, {"name": "x"}, "pit"], [PIT], 1,
                                "not used: categories without an id or a name: 3"),
    "an-id-of-two-names": ([ENTRY], [NOTE, NOTE | {"category_id": 2}],
                           [{"id": 1, "name": "pit"}, {"id": 2, "name": "a"}, {"id": 2, "name": "b"}], [PIT], 1,
                           "not used: category ids with two names: 1"),
    "unknown-category": ([ENTRY], [NOTE, NOTE | {"category_id": 4}, without(NOTE, "category_id")], None, [PIT], 1,
                         "not used: annotations of unknown categories: 2"),
    "unknown-image": ([ENTRY], [NOTE, NOTE | {"image_id": 4}, without(NOTE, "image_id"), 3, None], None, [PIT], 1,
                      "not used: annotations of unknown images: 4"),
    "without-box": ([ENTRY], [NOTE, without(NOTE, "bbox"), NOTE | {"bbox": None}, NOTE | {"bbox": []},
                              NOTE | {"bbox": [1, 2, 3]}, NOTE | {"bbox": ["a", 1, 2, 3]}, NOTE | {"bbox": {"x": 1}},
                              NOTE | {"bbox": "1234"}, NOTE | {"bbox": [10 ** 400, 1, 2, 3]}], None, [PIT], 1,
                    "not used: annotations without a bbox: 8"),
    "numbers-as-text": ([ENTRY], [NOTE | {"bbox": ["10", "10", "20", "10"]}], None, [PIT], 0, ""),
    "polygon-only": ([ENTRY], [without(NOTE, "bbox") | {"segmentation": POLYGON}], None, [PIT], 0,
                     "boxes taken from polygons: 1"),
    "polygon-without-brackets": ([ENTRY], [NOTE | {"bbox": None, "segmentation": POLYGON[0]}], None, [PIT], 0, ""),
    "polygon-and-empty-bbox": ([ENTRY], [NOTE | {"bbox": [0, 0, 0, 0], "segmentation": POLYGON}], None, [PIT], 0,
                               "boxes taken from polygons: 1"),
    "mask-without-bbox": ([ENTRY], [NOTE, NOTE | {"bbox": None, "segmentation": {"counts": "x", "size": [1, 1]}},
                                    NOTE | {"bbox": None, "segmentation": [[]]}], None, [PIT], 1,
                          "not used: annotations without a bbox: 2"),
    "empty-box": ([ENTRY], [NOTE, NOTE | {"bbox": [10, 10, 0, 5]}, NOTE | {"bbox": [200, 10, 5, 5]},
                            NOTE | {"bbox": [10, 10, 1e-5, 5]}], None, [PIT], 1,
                  "not used: boxes without an area inside the image: 3"),
    "not-a-number": ([ENTRY], [NOTE, NOTE | {"bbox": [float("nan"), 1, 2, 3]}], None, [PIT], 1,
                     "not used: boxes without finite corners: 1"),
    "crowd": ([ENTRY], [NOTE, NOTE | {"iscrowd": 1}, NOTE | {"iscrowd": "0"}], None, [PIT], 0,
              "crowd regions dropped: 1"),
}


@pytest.mark.parametrize("case", COCO)
def test_coco(tmp_path, case):
    images, notes, categories, expected, status, said = COCO[case]
    for name in "abc":
        picture(tmp_path / f"s/{name}.png")
    put(tmp_path / "s/notes.json", coco(images, notes, categories))
    done = convert("coco", tmp_path / "s")
    assert done.boxes["a.png"] == expected and done.status == status
    assert said in done.said


def test_coco_images_are_left_out_rather_than_called_defect_free(tmp_path):
    """An image of which no annotation can be used has defects, and nobody knows where."""
    for name in "abcd":
        picture(tmp_path / f"s/{name}.png")
    put(tmp_path / "s/notes.json", coco(
        ["a.png", "b.png", "c.png", "d.png"],
        [(1, 1), (2, 9), NOTE | {"image_id": 3, "iscrowd": 1}, NOTE | {"image_id": 3, "bbox": [1, 1, 0, 0]}]))
    done = convert("coco", tmp_path / "s", "--background")
    assert done.labels == {"a.png": ["pit"], "d.png": []} and done.status == 1
    assert "b.png: none of its 1 annotations" in done.said and "c.png: none of its 2 annotations" in done.said


@pytest.mark.parametrize(("content", "match"), [
    ([NOTE], "got a list"), ("x", "got a str"), ({"shapes": []}, "got the keys shapes"),
    ({"images": [ENTRY], "annotations": [{"image_id": 1, "caption": "a pit"}], "categories": []}, "got none that can"),
    ({"images": [ENTRY], "annotations": [without(NOTE, "bbox")], "categories": [{"id": 1, "name": "pit"}]},
     "annotations without a bbox")])
def test_coco_files_that_are_none(tmp_path, content, match):
    picture(tmp_path / "s/a.png")
    put(tmp_path / "s/notes.json", json.dumps(content))
    with pytest.raises(UserError, match=rf"notes\.json: expected .*{match}"):
        convert("coco", tmp_path / "s")


def test_coco_file_among_others(tmp_path):
    picture(tmp_path / "s/a.png")
    put(tmp_path / "s/package.json", "{}"), put(tmp_path / "s/list.json", "[1]"), put(tmp_path / "s/b.json", "{")
    put(tmp_path / "s/._notes.json", b"\0\5\x16\7"), put(tmp_path / "s/deep.json", "[" * 10 ** 5)
    put(tmp_path / "s/notes.json", coco(["a.png"], [(1, 1)]))
    assert convert("coco", tmp_path / "s").boxes == {"a.png": [PIT]}
    put(tmp_path / "s/more.json", coco(["a.png"], [(1, 1)]))
    with pytest.raises(UserError, match="expected one COCO JSON file, got 2: more.json, notes.json"):
        convert("coco", tmp_path / "s")
    with pytest.raises(UserError, match=r"deep\.json: expected .* nested too deeply"):
        convert("coco", tmp_path / "s", "--annotations", str(tmp_path / "s/deep.json"))


def test_coco_files_that_number_their_categories_differently(tmp_path):
    """Ids count within a file; the name is what both files share."""
    picture(tmp_path / "s/a.png"), picture(tmp_path / "s/b.png")
    dent, pit, other = ({"id": i, "name": name} for i, name in ((1, "dent"), (2, "pit"), (3, "x")))
    train = put(tmp_path / "s/train.json", coco(["a.png"], [(1, 2)], [dent, pit]))
    val = put(tmp_path / "s/val.json", coco(["b.png"], [(1, 1), (1, 3)], [pit | {"id": 1}, other]))
    done = convert("coco", tmp_path / "s", "--splits", f"train={train}", f"val={val}")
    assert done.labels == {"a.png": ["pit"], "b.png": ["pit", "x"]}


def box_of(*children: str) -> str:
    return f"<object><name>pit</name>{''.join(children)}</object>"


def bndbox(*corners) -> str:
    values = "".join(f"<{k}>{v}</{k}>" for k, v in zip(("xmin", "ymin", "xmax", "ymax"), corners))
    return f"<bndbox>{values}</bndbox>"


OTHER = ("pit", .25, .25, .5, .5)  # of the box (0 0 50 25)
# what stands behind the first object (pit, BOX); what a.png gets beside that; status; what is said
VOC = {
    "parts": (box_of(bndbox(0, 0, 50, 25), "<part><name>head</name>", bndbox(1, 1, 2, 2), "</part>",
                     "<part><object><name>head</name>", bndbox(1, 1, 2, 2), "</object></part>"), [OTHER], 0, ""),
    "wrapped": (f"<objects>{box_of(bndbox(0, 0, 50, 25))}</objects>", [OTHER], 0, ""),
    "two-boxes": (box_of(bndbox(0, 0, 50, 25), bndbox(0, 0, 100, 50)), [OTHER, ("pit", .5, .5, 1, 1)], 0, ""),
    "no-box": (box_of("<bndbox/>") + box_of() + box_of(bndbox(1, 2, "x", 4)) + box_of(bndbox(1, 2, 3)), [], 1,
               "not used: objects whose bndbox is no four numbers: 3"),
    "no-name": (f"<object>{bndbox(0, 0, 50, 25)}</object>", [], 1, "not used: objects without a name: 1"),
    "swapped": (box_of(bndbox(50, 25, 0, 0)), [OTHER], 0, "corners put in order: 1"),
    "floats-and-blanks": (box_of(bndbox("0.0", " 0\n", "5e1", "25.000")), [OTHER], 0, ""),
    "not-finite": (box_of(bndbox("nan", 0, 5, 5)) + box_of(bndbox(0, 0, "1e999", 5)), [], 1,
                   "not used: boxes without finite corners: 2"),
    "upright-rotated": (box_of("<robndbox><cx>25</cx><cy>12.5</cy><w>50</w><h>25</h><angle>0.0</angle></robndbox>"),
                        [OTHER], 0, "rotated boxes: the box around them taken: 1"),
    "rotated": (box_of("<robndbox><cx>25</cx><cy>12.5</cy><w>25</w><h>50</h><angle>1.5707963267948966</angle>"
                       "</robndbox>"), [OTHER], 0, "rotated boxes"),
    "polygon": (box_of("<polygon><x1>0</x1><y1>5</y1><x2>50</x2><y2>0</y2><x3>9</x3><y3>25</y3></polygon>"), [OTHER],
                0, "polygons: the box around them taken: 1"),
    "labelme-web-polygon": (box_of("<polygon><username>x</username><pt><x>0</x><y>25</y></pt><pt><x>50</x><y>0</y></pt>"
                                   "</polygon>"), [OTHER], 0, "polygons"),
    "rotated-without-numbers": (box_of("<robndbox><cx>25</cx></robndbox>"), [], 1,
                                "not used: objects without a box: 1"),
}


@pytest.mark.parametrize("case", VOC)
def test_voc(tmp_path, case):
    more, expected, status, said = VOC[case]
    picture(tmp_path / "s/a.png")
    put(tmp_path / "s/a.xml", voc("a.png", more=more))
    done = convert("voc", tmp_path / "s")
    assert done.boxes == {"a.png": [PIT, *expected]} and done.status == status
    assert said in done.said


def test_voc_namespace_and_place(tmp_path):
    """A namespace changes no tag; `folder` and `path` decide between namesakes."""
    for name in ("a/p.png", "b/p.png", "c/p.png"):
        picture(tmp_path / "s" / name)
    put(tmp_path / "s/1.xml", voc("p.png", "one", head="<folder>b</folder>").replace("ation>", 'ation xmlns="u">', 1))
    put(tmp_path / "s/2.xml", voc("p.png", "two", head="<path>D:\\old\\c\\p.png</path>"))
    put(tmp_path / "s/3.xml", voc("", "three", head="<path>D:\\old\\a\\p.png</path>"))
    put(tmp_path / "s/4.xml", "<html/>")
    done = convert("voc", tmp_path / "s")
    assert done.labels == {"b/p.png": ["one"], "c/p.png": ["two"], "a/p.png": ["three"]} and done.status == 1
    assert "4.xml: expected the root element 'annotation', got 'html'" in done.said


def shape(points: list, kind: str | None, label: str = "pit", group: int | None = None) -> dict:
    return {"label": label, "points": points, "shape_type": kind, "group_id": group}


LABELME = {
    "line": ([shape([[10, 10], [30, 20]], "line")], [PIT], 0, ""),
    "level-line": ([shape([[10, 10], [30, 10]], "line")], [], 1, "boxes without an area inside the image: 1"),
    "linestrip": ([shape([[10, 12], [30, 10], [20, 20]], "linestrip")], [PIT], 0, ""),
    "polygon": ([shape([[10, 10], [30, 12], [12, 20]], "polygon")], [PIT], 0, ""),
    "kind-left-out": ([shape([[10, 10], [30, 12], [12, 20]], None)], [PIT], 0, ""),
    "circle": ([shape([[50, 25], [53, 29]], "circle")], [("pit", .5, .5, .1, .2)], 0, ""),
    "mask": ([shape([[10, 10], [29, 19]], "mask") | {"mask": "iVBOR"}], [PIT], 0, ""),
    "point": ([shape([[1, 1]], "point"), shape([[1, 1], [2, 2]], "points")], [], 1, "a label or two points: 2"),
    "short": ([shape([[1, 1]], "rectangle"), shape([[1, 1]], "circle"), shape([], "line")], [], 1, "two points: 3"),
    "malformed": ([1, {}, {"label": "x"}, shape([1, 2], "line"), shape([[1, 2], [3, None]], "line"),
                   shape("xy", "line"), shape([[0, 0], [5, 5]], "rectangle", " "),
                   shape([[0, 0], [5, 5]], "rectangle", None)], [], 1, "shapes without a label or two points: 8"),
    "ignored": ([shape([[0, 0], [5, 5]], "rectangle", "__ignore__")], [], 0, "regions called __ignore__ dropped: 1"),
    "groups": ([shape([[10, 10], [15, 20], [12, 12]], "polygon", group=1),
                shape([[25, 12], [30, 15], [28, 13]], "polygon", group=1),
                shape([[0, 0], [50, 25], [9, 9]], "polygon", group=2)], [PIT, OTHER], 0,
               "polygons of one group joined: 1"),
    "boxes-of-a-group": ([shape([[10, 10], [30, 20]], "rectangle", group=0),
                          shape([[0, 0], [50, 25]], "rectangle", group=0)], [PIT, OTHER], 0, ""),
}


@pytest.mark.parametrize("case", LABELME)
def test_labelme(tmp_path, case):
    shapes, expected, status, said = LABELME[case]
    picture(tmp_path / "s/a.png")
    first = shape([[0, 0], [100, 50]], "rectangle", "all")
    put(tmp_path / "s/a.json", labelme("a.png", shapes=[first, *shapes]))
    done = convert("labelme", tmp_path / "s")
    assert done.boxes == {"a.png": [("all", .5, .5, 1, 1), *expected]} and done.status == status
    assert said in done.said


def test_labelme_picture_inside_the_json(tmp_path):
    """It is used, linked sources or not, where the file is not there; never instead of it; no image is said."""
    data = base64.b64encode(picture(tmp_path / "x.png").read_bytes()).decode()
    picture(tmp_path / "s/b.png")
    put(tmp_path / "s/a.json", labelme("gone.jpg", imageData=data))
    put(tmp_path / "s/b.json", labelme("b.png", imageData=data))
    put(tmp_path / "s/c.json", labelme("..\\..\\x.png", imageData=f"data:image/png;base64,{data}"))
    for number, wrong in enumerate(("eHh4", "no base 64", "")):
        put(tmp_path / f"s/d{number}.json", labelme("d.png", imageData=wrong))
    done = convert("labelme", tmp_path / "s", "--link")
    assert done.boxes == {"out/a.png": [PIT], "b.png": [PIT], "out/c.png": [PIT]} and done.status == 1
    out = tmp_path / "out/images/all"
    assert (out / "a.png").read_bytes() == (tmp_path / "x.png").read_bytes() and not (out / "a.png").is_symlink()
    assert sorted(p.name for p in out.iterdir()) == ["a.png", "b.png", "c.png"] and (out / "b.png").is_symlink()
    assert done.said.count("its imageData is no image") == 2 and "d2.json: its image was not found" in done.said


@pytest.mark.parametrize("lines", ["10 10 30 20 6", "10,10,30,20,6\r\n", "10, 10, 30, 20, 6", "10\t10\t30\t20\t6",
                                   "\ufeff10 10 30 20 6", "10.0;10;30;20;6;", "\n\n10 10 30 20 6\n"])
def test_deeppcb(tmp_path, lines):
    picture(tmp_path / "s/group0/00/1_test.jpg"), picture(tmp_path / "s/group0/00/2_test.jpg")
    picture(tmp_path / "s/group0/01/1_test.jpg"), picture(tmp_path / "s/group0/00/1_temp.jpg")
    put(tmp_path / "s/group0/00_not/1.txt", lines)
    put(tmp_path / "s/group0/02_not/2.txt", "1 2 3 4 5")  # its folder is gone, and 00/2_test.jpg is not its image
    put(tmp_path / "s/group0/00_not/2.txt", "0 0 50 25 1\n1 2 3 4\n1 2 3 4 1.5\n1 2 3 4 pit")
    done = convert("deeppcb", tmp_path / "s")
    assert done.boxes == {"group0/00/1_test.jpg": [("pin-hole", *ROW)], "group0/00/2_test.jpg": [("open", *OTHER[1:])]}
    assert "not used: lines that are no box: 3" in done.said and "02_not/2.txt: its image was not found" in done.said


ODD = ["yes", "1.0", "2026-01-01", "~", "null", "a: b", "#x", "'q'", '"', "{a}", "[b]", "\u00e9", "\U0001f600", "a\\b",
       "-", "?", "=", "<<", "\x07", "x" * 300, "%", "&a", "*a", "!!int 3", "\u200b", "0", "names:"]


def test_every_class_name_is_read_back(tmp_path):
    """What is written to data.yaml is what every other command reads, whatever the name looks like in YAML."""
    picture(tmp_path / "s/a.png"), picture(tmp_path / "s/b.png")
    put(tmp_path / "s/a.json", labelme("a.png", shapes=[shape([[10, 10], [30, 20]], None, name) for name in ODD]))
    halves = [shape([[10, 10], [30, 20]], None, name) for name in ("\ud83d\ude00", "\ud800", None, "")]
    put(tmp_path / "s/b.json", labelme("b.png", shapes=halves))
    done = convert("labelme", tmp_path / "s")
    assert done.labels == {"a.png": ODD, "b.png": ["\U0001f600"]}
    assert "shapes without a label or two points: 3" in done.said


def test_names_given_twice(tmp_path):
    picture(tmp_path / "s/a.png"), put(tmp_path / "s/a.xml", voc("a.png"))
    with pytest.raises(UserError, match="expected distinct names, got 'pit' twice"):
        convert("voc", tmp_path / "s", "--names", "pit,x,pit")
    assert BOX == (10, 10, 30, 20)
