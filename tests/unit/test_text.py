"""Text as other tools write it: byte-order marks, UTF-16, Western Windows files, and what is no text."""

import codecs

import pytest
from converting import ROW, coco, convert, labelme, picture, put, voc

from cfg import UserError, read_lines, read_text, read_yaml
from data.split import main as split
from data.split import read_names

NAME = "L\u00f6tstelle gr\u00f6\u00dfe"  # "Lötstelle größe"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32", "cp1252"])
def test_encodings_that_can_be_told(tmp_path, encoding):
    (tmp_path / "a.txt").write_bytes(f"{NAME}\r\npit\r\n".encode(encoding))
    assert read_lines(tmp_path / "a.txt") == [NAME, "pit"]


@pytest.mark.parametrize("big", [False, True])
def test_utf_16_of_either_order(tmp_path, big):
    mark = codecs.BOM_UTF16_BE if big else codecs.BOM_UTF16_LE
    (tmp_path / "a.txt").write_bytes(mark + NAME.encode("utf-16-be" if big else "utf-16-le"))
    assert read_text(tmp_path / "a.txt") == NAME


@pytest.mark.parametrize(("text", "encoding"), [
    ("\u7f3a\u9677", "gbk"), ("\u88c2", "gbk"), ("\u50b7", "shift-jis"), ("\u0e23\u0e2d\u0e22", "cp874"),
    ("\u0442\u0440\u0435\u0449\u0438\u043d\u0430", "cp1251")])
def test_encodings_that_cannot_be_told_are_refused(tmp_path, text, encoding):
    """Which of the many encodings it is nobody can know; a wrong class name would be in every report."""
    (tmp_path / "a.txt").write_bytes(text.encode(encoding))
    with pytest.raises(UserError, match=r"a\.txt: expected UTF-8 text, got the bytes .* at \d; save the file as UTF-8"):
        read_text(tmp_path / "a.txt")


@pytest.mark.parametrize("data", [b"\x89PNG\r\n\x1a\n\0\0", "pit".encode("utf-16-le"), b"\xff\xfep\0i"])
def test_what_is_no_text(tmp_path, data):
    (tmp_path / "a.txt").write_bytes(data)
    with pytest.raises(UserError, match=r"a\.txt: expected UTF-8 text, got"):
        read_text(tmp_path / "a.txt")
    with pytest.raises(UserError, match=r"b\.txt: expected a file that can be read, got No such file"):
        read_text(tmp_path / "b.txt")


def test_joined_files(tmp_path):
    """`copy a.txt+b.txt` on Windows leaves a mark in the middle."""
    (tmp_path / "a.txt").write_bytes(codecs.BOM_UTF8 + b"a\n" + codecs.BOM_UTF8 + b"b \n")
    assert read_lines(tmp_path / "a.txt") == ["a", "b"]


def test_yaml(tmp_path):
    for encoding in ("utf-8-sig", "utf-16"):
        (tmp_path / "data.yaml").write_text(f"names: [{NAME}]\n", encoding=encoding)
        assert read_yaml(tmp_path / "data.yaml") == {"names": [NAME]}
    for text in ("a: 2026-99-99", "[" * 1500):
        (tmp_path / "data.yaml").write_text(text)
        with pytest.raises(UserError, match="not valid YAML"):
            read_yaml(tmp_path / "data.yaml")


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "cp1252"])
@pytest.mark.parametrize("kind", ["voc", "labelme", "coco", "deeppcb"])
def test_all_converters(tmp_path, kind, encoding):
    source, image = tmp_path / "s", f"{NAME}.png"
    if kind == "deeppcb":
        picture(source / f"{NAME}/1_test.png")
        put(source / f"{NAME}_not/1.txt", "10 10 30 20 6\n".encode(encoding))
    else:
        picture(source / image)
        text = {"voc": voc(image, NAME), "labelme": labelme(image, NAME).encode().decode("unicode-escape"),
                "coco": coco([image], [(1, 1)], [{"id": 1, "name": NAME}]).encode().decode("unicode-escape")}[kind]
        put(source / ("a.xml" if kind == "voc" else "a.json"), text.encode(encoding))
    lists = put(tmp_path / "list.txt", ("1" if kind == "deeppcb" else image).encode(encoding))
    done = convert(kind, source, "--splits", f"train={lists}")
    assert [row[1:] for row in next(iter(done.boxes.values()))] == [tuple(ROW)] and done.status == 0
    if kind != "deeppcb":
        assert done.labels == {image: [NAME]}
        assert ("files read as Windows-1252" in done.said) == (encoding == "cp1252")


@pytest.mark.parametrize(("declared", "encoding"), [
    ('<?xml version="1.0" encoding="gbk"?>', "gbk"), ('<?xml version="1.0" encoding="GB2312"?>\n', "gb2312"),
    ('<?xml version="1.0" encoding="Shift_JIS"?>', "shift-jis"), ("<?xml version='1.0' encoding='utf-16'?>", "utf-8"),
    ('<?xml version="1.0" encoding="utf-8"?>', "utf-8-sig"), ('\n <?xml version="1.0"?>', "utf-8"),
    ('<?xml version="1.0" encoding="windows-31j-x"?>', "utf-8"), ('<?xml version="1.0" encoding="utf-16"?>', "utf-16")])
def test_xml_keeps_the_encoding_that_it_declares(tmp_path, declared, encoding):
    picture(tmp_path / "s/a.png")
    put(tmp_path / "s/a.xml", (declared + voc("a.png", "\u6b20")).encode(encoding))
    assert convert("voc", tmp_path / "s").labels == {"a.png": ["\u6b20"]}


@pytest.mark.parametrize("data", [b"<annotation>\xc4\xe3\xba\xc3</annotation>", b"\0\0", b"",
                                  b"<annotation>&undefined;</annotation>", b"<a>" * 10 ** 5])
def test_xml_that_is_none(tmp_path, data):
    picture(tmp_path / "s/a.png"), picture(tmp_path / "s/b.png")
    put(tmp_path / "s/a.xml", voc("a.png")), put(tmp_path / "s/b.xml", data)
    done = convert("voc", tmp_path / "s")
    assert done.labels == {"a.png": ["pit"]} and done.status == 1
    assert "b.xml: expected XML, got a file that is not" in done.said


def test_xml_does_not_fetch_or_grow(tmp_path):
    """Entities of a data set lead to no other file and no gigabytes."""
    picture(tmp_path / "s/a.png"), picture(tmp_path / "s/b.png"), put(tmp_path / "secret", "secret")
    bomb = "".join(f'<!ENTITY e{i} "{f"&e{i - 1};" * 10}">' for i in range(1, 12))
    put(tmp_path / "s/a.xml", voc("a.png"))
    put(tmp_path / "s/b.xml", f'<!DOCTYPE x [<!ENTITY e0 "xxxxxxxxxx">{bomb}]>' + voc("b.png", "&e11;"))
    put(tmp_path / "s/c.xml", f'<!DOCTYPE x [<!ENTITY f SYSTEM "file://{tmp_path}/secret">]>' + voc("b.png", "&f;"))
    done = convert("voc", tmp_path / "s")
    assert done.labels == {"a.png": ["pit"]} and done.status == 1
    assert "secret" not in done.said.replace(str(tmp_path), "")


@pytest.fixture
def source(tmp_path):
    for i in range(4):
        picture(tmp_path / f"s/images/{i}.png"), put(tmp_path / f"s/labels/{i}.txt", "1 0.5 0.5 0.5 0.5\n")
    return tmp_path / "s"


@pytest.mark.parametrize("file", ["classes.txt", "labels/classes.txt"])
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "cp1252"])
def test_class_lists(source, tmp_path, file, encoding):
    put(source / file, f"{NAME}\r\npit \r\n\r\n".encode(encoding))
    assert split(["--source", str(source), "--out", str(tmp_path / "o"), "--ratios", "1:1"]) == 0
    assert read_names(tmp_path / "o", None) == [NAME, "pit"]


@pytest.mark.parametrize(("text", "match"), [("pit\n\nscratch\n", "line 2 empty"), ("\npit", "line 1 empty"),
                                             ("pit\nscratch\npit\n", "expected distinct class names, got 'pit' twice")])
def test_class_lists_that_shift_or_repeat(source, tmp_path, text, match):
    """An empty line would move every class behind it; a repeated name would give a data.yaml that nobody reads."""
    put(source / "classes.txt", text)
    with pytest.raises(UserError, match=rf"classes\.txt: .*{match}"):
        split(["--source", str(source), "--out", str(tmp_path / "o")])
    with pytest.raises(UserError, match="--names: expected distinct class names, got 'a' twice"):
        split(["--source", str(source), "--out", str(tmp_path / "o"), "--names", "a,b,a"])


def test_split_into_its_own_source(source):
    """Earlier output below the source is no source: the same images every time."""
    flat = source / "images"
    (source / "labels").rename(source / "old-labels")
    for i in range(4):
        (source / f"old-labels/{i}.txt").rename(flat / f"{i}.txt")
    flat = flat.rename(source.parent / "flat")
    for _ in range(2):
        assert split(["--source", str(flat), "--out", str(flat / "out"), "--ratios", "1:1", "--names", "a,b",
                      "--overwrite"]) == 0
        assert len(list((flat / "out/images").rglob("*.png"))) == 4


NINE = [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)]
MERGED = [f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}]}}" for i in range(1, 12)]


@pytest.mark.parametrize("as_text", [True, False])
@pytest.mark.parametrize("lines", [["a0: &a0 [x]", *NINE], ["a0: &a0 {x: 1}", *MERGED], ["a: &a [*a]"]], ids=["lists", "merges", "itself"])
def test_aliases_that_stand_for_too_much_are_refused(tmp_path, lines, as_text):
    (tmp_path / "data.yaml").write_text("\n".join(lines))
    with pytest.raises(UserError, match="with its aliases replaced"):
        read_yaml(tmp_path / "data.yaml", as_text)


def test_other_aliases_are_read(tmp_path):
    (tmp_path / "data.yaml").write_text("a: &a {x: [1, 2]}\nb: *a\nc: {<<: *a, y: 3}\n")
    assert read_yaml(tmp_path / "data.yaml") == {"a": {"x": [1, 2]}, "b": {"x": [1, 2]}, "c": {"x": [1, 2], "y": 3}}


@pytest.mark.parametrize("text", ["names: [a]\ntrain: x\nnames: [b]\n", "train: x\nnames:\n  0: a\n  0: b\n"])
def test_a_key_that_is_there_twice_is_refused(tmp_path, text):
    (tmp_path / "data.yaml").write_text(text)
    with pytest.raises(UserError, match=r"the key '(names|0)' is there twice, in lines \d and \d"):
        read_yaml(tmp_path / "data.yaml")
