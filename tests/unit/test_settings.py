"""The command line, recipes and the check of every argument."""

from __future__ import annotations

from pathlib import Path

import pytest

from cfg import UserError, find
from engine.settings import OPTIMIZERS, OWN_DEFAULTS, check, complete, defaults, known_names, read_command_line

BASE = {"model": "s-model.yaml", "data": "neu-det.yaml"}


def read(*tokens: str) -> dict:
    return read_command_line(list(tokens), known_names())


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        (["--lr0", "0.01"], {"lr0": 0.01}),
        (["--lr0=0.01"], {"lr0": 0.01}),
        (["lr0=1e-2"], {"lr0": 0.01}),
        (["--cfg", "s-model.yaml"], {"model": "s-model.yaml"}),
        (["--teacher-init", "False"], {"teacher_init": False}),
        (["--cos-lr", "--epochs", "3"], {"cos_lr": True, "epochs": 3}),
        (["--tensorboard", "epochs=3"], {"tensorboard": True, "epochs": 3}),
        (["--resume"], {"resume": True}),
        (["--resume", "a/last.pt"], {"resume": "a/last.pt"}),
        (["--device", "0,1"], {"device": "0,1"}),
        (["--device", "0"], {"device": 0}),
        (["freeze=[0,2]"], {"freeze": [0, 2]}),
        (["scale=[0.5,1.5]"], {"scale": [0.5, 1.5]}),
        (["--adaptive", "none"], {"adaptive": "none"}),
        (["--adaptive", "None"], {"adaptive": "none"}),
        (["--teacher", "None"], {"teacher": None}),
        (["--name", "2024-01-01"], {"name": "2024-01-01"}),
        (["--name", "007"], {"name": "007"}),
        (["--name", "a=b"], {"name": "a=b"}),
        (["--project", "True"], {"project": "True"}),
        (["time=12:30"], {"time": "12:30"}),
        (["--batch", "-1"], {"batch": -1}),
        (["amp=bf16"], {"amp": "bf16"}),
        (["nms=False", "--val=False"], {"nms": False, "val": False}),
    ],
    ids=" ".join,
)
def test_command_line(tokens, expected):
    assert read(*tokens) == expected
    assert {name: type(value) for name, value in read(*tokens).items()} == {k: type(v) for k, v in expected.items()}


def test_every_argument_both_ways():
    names = sorted(set(defaults()) - {"cfg"})
    ways = {name: [read(f"--{name}", "3"), read(f"{name}=3"), read(f"--{name.replace('_', '-')}=3")] for name in names}
    assert len(ways) > 100
    assert not {name: found for name, found in ways.items() if found != [found[0]] * 3}


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (["--lrr0", "0.1"], "unknown argument 'lrr0'; did you mean 'lr0'"),
        (["epochz=3"], "unknown argument 'epochz'; did you mean 'epochs'"),
        (["stray"], "unexpected 'stray'"),
        (["--epochs", "3", "4"], "unexpected '4'"),
        (["--teacher"], "--teacher: expected a value"),
        (["--data", "--epochs", "3"], "--data: expected a value"),
        (["val="], "--val: expected a value"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_command_line_mistakes(tokens, message):
    with pytest.raises(UserError, match=message):
        read(*tokens)


def test_later_wins_and_paths_are_absolute(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my.yaml").write_text("epochs: 7\nlr0: 0.5\nadaptive: none\n")
    settings = complete(BASE | {"recipe": "my.yaml", "lr0": 0.25, "teacher": "t.pt"})
    assert (settings["epochs"], settings["lr0"], settings["adaptive"]) == (7, 0.25, "none")
    assert settings["project"] == str(tmp_path / "runs/train") and settings["name"] == "exp"
    assert settings["teacher"] == "t.pt"  # not there: the reader of weights says so
    (tmp_path / "t.pt").touch()
    assert complete(BASE | {"teacher": "t.pt"})["teacher"] == str(tmp_path / "t.pt")
    assert complete(BASE | {"pretrained": "t.pt"})["weights"] == str(tmp_path / "t.pt")
    assert complete(BASE)["model"] == "s-model.yaml"


def test_recipes_are_valid():
    folder = Path(__file__).resolve().parents[2] / "cfg/train"
    for path in folder.glob("*.yaml"):
        assert complete(BASE | {"recipe": path.stem})["epochs"] > 0


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"model": None}, "model: none given"),
        ({"data": None}, "data: none given"),
        ({"recipe": "fast"}, "'fast' not found"),
        ({"no_such": 1}, "unknown argument 'no_such'"),
        ({"epochs": "many"}, "'epochs=many' is of invalid type"),
        ({"lr0": 2}, "'lr0=2' is an invalid value"),
        ({"plots": "yes"}, "plots=yes"),
        ({"teacher": 5}, "teacher: expected a name or path, got 5"),
        ({"tensorboard": 1}, "tensorboard: expected True or False, got 1"),
        ({"adaptive": None}, "adaptive: expected a name or path, got None"),
        ({"adaptive": "papr"}, "adaptive: expected one of .*; did you mean 'paper'"),
        ({"distill_model": "t.pt"}, "distill_model: .*--teacher FILE"),
        ({"quantize": "int8"}, "quantize: "),
        ({"compile": "default"}, "compile: "),
        ({"mode": "val"}, "mode: "),
        ({"optimizer": "lion"}, "optimizer: expected one of auto, SGD"),
        ({"batch": 0}, "batch: "),
        ({"imgsz": 0}, "imgsz: "),
        ({"imgsz": [64, 96]}, "imgsz: "),
        ({"freeze": "head"}, "freeze: "),
    ],
    ids=str,
)
def test_mistakes(given, message):
    with pytest.raises(UserError, match=message) as error:
        complete(BASE | given)
    assert "\n" not in str(error.value)


def test_a_recipe_with_an_unknown_name(tmp_path):
    (tmp_path / "my.yaml").write_text("epochz: 7\n")
    with pytest.raises(UserError, match=r"my\.yaml: unknown argument 'epochz'; did you mean 'epochs'"):
        complete(BASE | {"recipe": str(tmp_path / "my.yaml")})


def test_optimizers_are_those_of_the_host():
    import inspect

    import models.environment  # noqa: F401

    from ultralytics.engine.trainer import BaseTrainer

    source = inspect.getsource(BaseTrainer.build_optimizer)
    assert all(f'"{name}"' in source for name in OPTIMIZERS)
    for name in OPTIMIZERS:
        check(BASE | OWN_DEFAULTS | {"optimizer": name.lower()})


def test_a_start_from_the_teacher_is_select_true_or_false() -> None:
    assert read("--teacher-init") == {"teacher_init": True} and read("--teacher-init", "select") == {"teacher_init": "select"}
    for value in ("select", True, False):
        assert complete(BASE | {"teacher_init": value})["teacher_init"] is value
    assert complete(BASE)["teacher_init"] == "select"
    with pytest.raises(UserError, match="teacher_init: expected select, True or False, got 'selct'; did you mean 'select'"):
        complete(BASE | {"teacher_init": "selct"})


def test_the_recipes_of_fixed_coefficients_leave_them_as_they_are() -> None:
    assert [complete(BASE | {"recipe": name})["kd_share"] for name in ("sdd", "hsd")] == [0.3, None]


@pytest.mark.parametrize("given", [{"batch": float("inf")}, {"batch": float("nan")}, {"workers": -1}])
def test_numbers_that_are_out_of_range(given):
    with pytest.raises(UserError, match=f"{next(iter(given))}: expected"):
        complete({"model": "s-model.yaml", "data": "neu-det.yaml"} | given)


def test_a_folder_without_a_name_is_no_configuration(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in (".", "/"):
        with pytest.raises(UserError, match="not found: expected a YAML file"):
            find("data", name)
