"""Class names: what is the same, what is said where they differ, how a data YAML's are read and shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from cfg import UserError, read_yaml
from cfg.class_names import (
    LONGEST,
    OTHER,
    REORDERED,
    SAME,
    UNKNOWN,
    check_classes,
    compare,
    is_placeholder,
    nearest_name,
    shown,
)  # fmt: skip
from data import resolve
from data.class_names import class_names
from engine.plots import drawable


def numbered(names):
    return dict(enumerate(names))


@pytest.mark.parametrize(
    ("weights", "data", "relation", "by_name", "in_place"),
    [
        (["a", "b"], ["a", "b"], SAME, (0, 1), (0, 1)),
        (["a", "b"], ["b", "a"], REORDERED, (1, 0), (None, None)),
        (["a", "b", "c"], ["c", "b", "a"], REORDERED, (2, 1, 0), (None, 1, None)),
        (["a", "b"], ["a", "c"], OTHER, (0, None), (0, None)),
        (["a", "b"], ["A", "b"], OTHER, (None, 1), (None, 1)),
        (["a", "b"], ["a", "b "], OTHER, (0, None), (0, None)),
        (["a", "b"], ["b"], OTHER, (1,), (None,)),
        (["b"], ["a", "b"], OTHER, (None, 0), (None, None)),
        (["a", "a"], ["a", "b"], OTHER, (None, None), (None, None)),  # which of the two is meant?
        (["0", "1"], ["a", "b"], UNKNOWN, (0, 1), (0, 1)),
        (["class0", "class1"], ["a", "b"], UNKNOWN, (0, 1), (0, 1)),
        (["a", "b"], ["class_0", "class_1"], UNKNOWN, (0, 1), (0, 1)),
        (["item"], ["crack"], UNKNOWN, (0,), (0,)),
        (["0", "1"], ["1", "0"], REORDERED, (1, 0), (None, None)),  # digits are names too
        (["1", "2"], ["a", "b"], OTHER, (None, None), (None, None)),
        (["0", "1", "2"], ["a", "b"], OTHER, (None, None), (None, None)),
    ],
)
def test_relations(weights, data, relation, by_name, in_place):
    found = compare(numbered(weights), numbered(data))
    assert (found.relation, found.by_name, found.in_place, found.known) == (relation, by_name, in_place, len(weights))
    assert bool(found.difference) == (relation != SAME) and found.agrees == (relation in (SAME, UNKNOWN))


def test_the_order_is_that_of_the_numbers_not_of_the_file():
    assert compare({1: "b", 0: "a"}, {0: "a", 1: "b"}).relation == SAME


@pytest.mark.parametrize(
    ("weights", "data", "said"),
    [
        (["a", "b"], ["b", "a"], r"got the same in another order \(class 0 is 'b' in the data, 'a' in the model, and 1 more\)"),
        (["a", "b"], ["a", "c"], r"got others \(class 1 is 'c' in the data, 'b' in the model\)"),
        (["a", "Pit"], ["a", "pit "], r"'pit ' in the data, 'Pit' in the model.*case, blanks.*did you mean 'Pit'\?"),
        (["oil_spot"], ["Oil spot"], r"did you mean 'oil_spot'\?"),
        (["caf\u00e9"], ["cafe\u0301"], r"'cafe\\u0301' in the data, 'caf\\xe9' in the model"),  # they look the same
        (["a", "b"], ["a", "b", "c"], r"3 classes in the data, 2 in the model; only the data has 'c'\)"),
        (["x" * 99 + "a" + "x" * 99], ["x" * 99 + "b" + "x" * 99], r"xbx.* in the data, 'x+ax+' in the model"),
    ],
)
def test_what_is_said(weights, data, said):
    with pytest.raises(UserError, match=r"^d\.yaml: expected the class names of w\.pt, " + f".*{said}") as error:
        check_classes("w.pt", numbered(weights), "d.yaml", numbered(data), "do this")
    assert str(error.value).endswith("; do this") and "\n" not in str(error.value)


def test_what_cannot_be_compared_is_a_note():
    note = check_classes("w.pt", numbered(["0", "1"]), "d.yaml", numbered(["a", "b"]), "")
    assert note.startswith("class names of w.pt cannot be compared (class 0 is 'a' in the data, '0' in the model")
    assert check_classes("w.pt", {0: "a"}, "d.yaml", {0: "a"}, "") == ""


def test_placeholders():
    assert is_placeholder({0: "0", 1: "1"}) and is_placeholder({0: "class_0"}) and is_placeholder({0: "item"})
    assert not any(map(is_placeholder, ({0: "1", 1: "0"}, {0: "0", 1: "b"}, {0: "item", 1: "b"})))


def test_near_names():
    assert nearest_name("PIT", ["pat", "pit"]) == "; did you mean 'pit'?"
    assert nearest_name("scratsh", ["pit", "scratch"]) == "; did you mean 'scratch'?"
    assert nearest_name("划痕 ", ["划痕"]) == "; did you mean '划痕'?"
    assert nearest_name("weld", ["划痕"]) == ""


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("scratch", "scratch"), ("$a^_\\%", "$a^_\\%"), ("a\nb", "a\\nb"), ("a\x00b\x1b[1m", "a\\x00b\\x1b[1m"),
        ("", "(no name)"), (" ", "(no name)"), ("划痕", "划痕"), ("😀", "😀"), ("\u202eabc", "\\u202eabc"),
        ("क\u200dष", "क\u200dष"),
    ],
)  # fmt: skip
def test_shown_on_one_line(name, text):
    assert shown(name) == text == shown(shown(name))


def test_long_names_are_cut_in_the_middle():
    assert len(shown("a" * 300)) == LONGEST and shown("a" * 150 + "b" * 150) == "a" * 19 + "..." + "b" * 18


def test_a_legend_leaves_no_name_out():
    assert drawable({0: "_x", 1: "", 2: "y"}) == {0: " _x", 1: "(no name)", 2: "y"}


# -- of a data YAML


def names_of(tmp_path: Path, text: str) -> dict[int, str]:
    file = tmp_path / "data.yaml"
    file.write_text(text, encoding="utf-8")
    return class_names(file, read_yaml(file))


def test_names_are_the_text_that_stands_there(tmp_path):
    got = names_of(tmp_path, 'names: [yes, no, 1.0, 1e3, 0x10, 007, ~, "", 2026-01-01, 12:30, on, "\\ud83d\\ude00", a$b]\n')
    wanted = ["yes", "no", "1.0", "1e3", "0x10", "007", "~", "", "2026-01-01", "12:30", "on", "😀", "a$b"]
    assert list(got.values()) == wanted and list(got) == list(range(len(wanted)))
    assert names_of(tmp_path, "names:\n  1: yes\n  0: no\n") == {0: "no", 1: "yes"}
    assert names_of(tmp_path, "names:\n  '0': a\n  '1': 2\n") == {0: "a", 1: "2"}
    got = names_of(tmp_path, "names: {no: a, yes: b}\n")
    assert got == {0: "a", 1: "b"} and [type(key) for key in got] == [int, int]
    assert names_of(tmp_path, "names:\n- 1\n- null\n") == {0: "1", 1: "null"}
    assert names_of(tmp_path, "nc: 2\n") == {0: "class_0", 1: "class_1"}
    assert names_of(tmp_path, "x: &x {names: [1, true]}\n<<: *x\n") == {0: "1", 1: "True"}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("names: [[a], b]\n", r"expected each of 'names' to be a text, got \['a'\]"),
        ("names: [a, {b: c}]\n", r"expected each of 'names' to be a text"),
        ('names: ["\\ud83d"]\n', r"got '\\ud83d', half a character"),
        ("names: [1, '1']\n", "expected distinct 'names'"),
        ("names: {1: a, 2: b}\n", "expected 'names' to have the keys 0 to 1"),
        ("names: a, b\n", "expected 'names' to list the classes, got 'a, b'"),
        ("names: []\n", "expected 'names' to list the classes"),
        ("names: [a]\nnc: 2\n", "expected 'nc' to be the number of 'names'"),
    ],
)
def test_names_that_are_none(tmp_path, text, said):
    with pytest.raises(UserError, match=said):
        names_of(tmp_path, text)


def test_the_resolved_yaml_says_the_same_to_any_reader(tmp_path):
    """It is written to the run folder, where ultralytics reads it."""
    import yaml

    for part in ("train", "val"):
        (tmp_path / part).mkdir()
    file = tmp_path / "data.yaml"
    file.write_text('train: train\nval: val\nnames: [yes, 1.0, ~, "a\\nb", "\\u202eb", 😀, "", "\\x1b["]\n', encoding="utf-8")
    content = resolve(file)
    copy = tmp_path / "copy.yaml"
    copy.write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), encoding="utf-8")
    assert resolve(copy)["names"] == content["names"] == yaml.safe_load(copy.read_text(encoding="utf-8"))["names"]
