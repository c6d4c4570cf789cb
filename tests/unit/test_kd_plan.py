"""What a comparison runs: the digests by which finished runs are known again."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1] / "flow"))
from tiny import write_data, write_model
from tiny_foreign import add_to_torchvision, described, trained

from benchmarks.harness.plan import Question, _torchvision_weights, examine, parse_methods


@pytest.fixture
def place(tmp_path) -> Path:
    write_data(tmp_path)
    write_model(tmp_path / "model.yaml")
    return tmp_path


def digests(place: Path, teacher: str, *arguments: str) -> dict[str, str]:
    question = Question(str(place / "model.yaml"), str(place / "data.yaml"), str(place / teacher), None, arguments)
    methods = parse_methods("none,pkd", question)
    examine(question, methods)
    return {method.label: method.digest for method in methods}


@pytest.mark.long
def test_a_torchvision_teachers_weights_are_in_the_digest(place, monkeypatch):
    """The YAML names them: when the file is replaced, what was learned from the old one must be run again."""
    add_to_torchvision(monkeypatch)
    model = trained()
    described(place, state=model.state_dict())
    first, again = digests(place, "t.yaml"), digests(place, "t.yaml")
    model.backbone.fpn.inner_blocks[0][0].bias.data += 1
    described(place, state=model.state_dict())
    second = digests(place, "t.yaml")
    assert first == again and first["none"] == second["none"] and first["pkd"] != second["pkd"]


def test_other_teachers_have_no_file_beside_them(place):
    assert _torchvision_weights(None) == _torchvision_weights("t.pt") == _torchvision_weights("fasterrcnn.yaml") == []
    assert _torchvision_weights(str(place / "model.yaml")) == []


def test_arguments_are_in_the_digest(place):
    question = Question(str(place / "model.yaml"), str(place / "data.yaml"), None, None, ())
    found = []
    for arguments in ((), (), ("--lr0", "0.002")):
        methods = parse_methods("none", question)
        examine(Question(question.cfg, question.data, None, None, arguments), methods)
        found.append(methods[0].digest)
    assert found[0] == found[1] != found[2]


def test_a_corrected_label_is_another_data_set(place):
    first, again = digests(place, "model.yaml"), digests(place, "model.yaml")
    label = next((place / "labels").rglob("*.txt"))
    label.write_text("0 0.5 0.5 0.25 0.25\n")
    assert first == again and first["none"] != digests(place, "model.yaml")["none"]


def test_what_trains_longer_may_have_arguments_of_its_own():
    question = Question("s-model.yaml", "neu-det.yaml", "t.pt", None, ())
    methods = parse_methods("none,attention,longer lr0=0.1,longer:attention", question)
    assert [method.arguments for method in methods if method.longer] == [["lr0=0.1"], []]
