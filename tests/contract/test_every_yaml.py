"""Every YAML in cfg/ can be used as it is; a new file is covered without an edit here."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from small import ROOT, distilling, hidden_modules

from cfg import find, read_yaml
from data import resolve
from distill.base import METHODS
from engine.settings import complete, known_names
from engine.training.build import build_detector


def yamls(kind: str) -> list[str]:
    folder = ROOT / "cfg" / kind
    return [p.relative_to(folder).as_posix() for p in sorted(folder.rglob("*.yaml"))]


def test_there_are_yamls_of_every_kind() -> None:
    assert all(yamls(kind) for kind in ("models", "distill", "data", "train"))
    assert {f"ablations/table{n}" for n in (3, 4, 5, 6)} <= {name.partition("-")[0] for name in yamls("models")}


def test_every_name_is_given_once() -> None:
    for kind in ("models", "distill", "data", "train", "ablations"):
        names = [Path(name).name for name in yamls(kind)]
        assert len(set(names)) == len(names), f"cfg/{kind}: two files of one name; --cfg NAME would be ambiguous"


@pytest.mark.long
@pytest.mark.parametrize("name", yamls("models"))
def test_a_model_yaml_that_drifted(name: str) -> None:
    torch.manual_seed(0)
    model = build_detector(Path(name).name, nc=2)
    assert model.nc == 2 and model.head.nl == len(model.stride) == len(getattr(model.head, "anchor_wh", model.stride))
    assert hidden_modules(model) == []
    read = {layer.i - 1 for layer in model.model if layer.f == -1 or (isinstance(layer.f, list) and -1 in layer.f)}
    unread = set(range(len(model.model) - 1)) - read - set(model.save)
    assert not unread, f"nothing reads the output of rows {unread}"
    side = int(model.stride.max())
    y, raw = model.eval()(torch.rand(1, 3, side, side))
    assert [side // f.shape[-1] for f in raw["feats"]] == [int(s) for s in model.stride]
    predictions = raw["preds"] if "preds" in raw else [raw["boxes"], raw["scores"]]
    per_cell = model.head.na if "preds" in raw else 1
    assert y.shape == (1, 6, per_cell * sum(f[0, 0].numel() for f in raw["feats"])) and torch.isfinite(y).all()
    torch.stack([p.square().sum() for p in predictions]).sum().backward()
    dead = [n for n, p in model.named_parameters() if p.grad is None]
    assert not dead, "rows that lead nowhere"


@pytest.mark.parametrize("name", yamls("distill"))
def test_a_distillation_yaml_that_drifted(name: str) -> None:
    options = read_yaml(find("distill", name))
    method = options.pop("method", Path(name).stem)
    assert type(distilling(method, options).distiller) is METHODS.get(method)


@pytest.mark.parametrize("name", yamls("train"))
def test_a_recipe_that_drifted(name: str) -> None:
    recipe = read_yaml(find("train", name))
    assert set(recipe) <= known_names()
    settings = complete({"recipe": name, "model": "s-model.yaml", "data": "sample.yaml"})
    assert recipe.items() <= settings.items()


@pytest.mark.parametrize("name", yamls("data"))
def test_a_data_yaml_that_drifted(name: str) -> None:
    content = read_yaml(find("data", name))
    assert {"path", "train", "val", "names"} <= set(content)
    assert resolve(name, require=())["nc"] == len(content["names"]) == len(set(content["names"])) > 0
