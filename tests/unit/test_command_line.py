"""What is wrong with a command line, in one line: empty values, from a shell variable that is not set, and what argparse refuses."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

import tandem
from cfg import UserError, guard
from cfg.command_line import refuse_empty

COMMANDS = {
    "detect": ["--weights", "best.pt", "--source", "images", "--decision", ""],
    "val": ["--weights", "best.pt", "--data", "data.yaml", "--decision="],
    "export": ["--weights", "best.pt", "--out", ""],
    "serve": ["--weights", "best.onnx", "--token="],
    "train": ["--cfg", "s-model.yaml", "--data", "sample.yaml", "--resume", ""],
    "data.split": ["--source", "mine", "--overwrite", "--out", ""],
    "data.convert.__main__": ["--format", "voc", "--source", "mine", "--overwrite", "--out", ""],
    "data.review.__main__": ["--weights", "best.pt", "--data", ""],
    "data.sample": ["--overwrite", "--out="],
    "data.tile": ["--data", "", "--out", "tiles"],
    "data.expand": ["--data", "data.yaml", "--out", ""],
    "data.check": ["--data", ""],
    "data.results": [""],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_an_empty_value_is_refused_in_one_line(command, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [command, *COMMANDS[command]])
    assert guard(importlib.import_module(command).main) == 2
    told = capsys.readouterr().err
    assert "got an empty text" in told and len(told.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_every_script_is_here():
    here = Path(__file__).parents[2]
    scripts = [*here.glob("*.py"), *(here / "data").rglob("*.py")]
    read = {".".join(path.relative_to(here).with_suffix("").parts) for path in scripts if "read_arguments(" in path.read_text(encoding="utf-8")}
    parse = {path.name for path in scripts if ".parse_args(" in path.read_text(encoding="utf-8")}
    assert read | {"train"} == set(COMMANDS) and parse == {"tandem.py"}  # which parses words of its own


def test_a_python_call_is_refused_too():
    with pytest.raises(UserError, match="decision: expected a value"):
        tandem.load("best.pt", decision="")


@pytest.mark.parametrize("words", [[], ["--device", ""], ["--device="], ["--name", "a=", "b"], ["name=x", "--json", "-"]])
def test_other_values_are_not(words):
    refuse_empty(words)


@pytest.mark.parametrize(("command", "words", "message"), [
    ("detect", ["--weights", "x", "--source", "y", "--save-cvs"], "--save-cvs: expected an argument of detect.py, got an unknown one; did you mean "
                                                                  "'--save-csv'?"),
    ("val", ["--weights", "x", "--data", "y", "--max-escape", "1.5"], "--max-escape: expected a number from 0 to 1, got '1.5'"),
    ("export", [], "the following arguments are required: --weights; export.py --help lists the arguments"),
    ("data.split", ["--source", "a", "--out", "b", "more"], "more: expected an argument of python -m data.split, got an unknown one; python -m "
                                                            "data.split --help lists the arguments"),
])  # fmt: skip
def test_what_argparse_refuses_is_one_line_without_the_usage(command, words, message, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [f"{command}.py", *words])
    assert guard(importlib.import_module(command).main) == 2
    assert capsys.readouterr().err == f"error: {message}\n"
