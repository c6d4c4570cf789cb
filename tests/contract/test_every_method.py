"""Every registered distillation method and the frozen teacher; each test is named after a bug seen in published code."""

from __future__ import annotations

import inspect
import sys
from copy import deepcopy
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from small import (
    ROOT,
    assert_mean_of_single_losses,
    batch,
    detector,
    distilling,
    hidden_modules,
    pair,
    same,
    stock,
)  # fmt: skip

from cfg import UserError, read_yaml
from distill.base import METHODS
from distill.imitation import Imitation
from distill.model import TrainingModel

from ultralytics.utils.torch_utils import ModelEMA

CONFIGURATIONS = sorted((ROOT / "cfg/distill").glob("*.yaml"))
PAIRS = [(p.stem, read_yaml(p)) for p in CONFIGURATIONS]
# The attention of the teacher makes a difference only for the methods that look at it.
CASES = [(name, {"method": name} | o, attention) for name, o in PAIRS for attention in ("dual", "none")
         if attention == "dual" or name in ("attention", "auto")]  # fmt: skip
CASES += [(m, {"method": m}, "dual") for m in METHODS if m not in {o.get("method", name) for name, o in PAIRS}]
HEADS = {"anchors": detector, "distributions": stock}


def with_boxes(rows: list[tuple[float, ...]]) -> dict[str, torch.Tensor]:
    """Three noise images with these boxes: image, x, y, w, h of the whole image."""
    boxes = torch.tensor(rows).reshape(-1, 5)
    labels = {"batch_idx": boxes[:, 0], "cls": boxes[:, :1] % 2, "bboxes": boxes[:, 1:]}
    return {"img": batch(3)["img"]} | labels


CROWD = [(1, (i % 20 + 0.5) / 20, (i // 20 + 0.5) / 15, 0.05, 0.08) for i in range(300)]
BATCHES = {
    "a box as large as the image, 300 boxes, and boxes smaller than a cell": with_boxes(
        [(0, 0.5, 0.5, 1.0, 1.0), *CROWD, *((2, 0.1 * i + 0.05, 0.5, 1e-3, 1e-3) for i in range(10))]
    ),
    "no boxes": batch(3, boxes_of=[0, 0, 0]),
    "images without boxes": batch(3, boxes_of=[0, 1, 0]),
}
every_case = pytest.mark.parametrize("case", CASES, ids=[f"{name}-{attention}" for name, _, attention in CASES])

LABEL_FREE = [case for case in CASES if METHODS.get(case[1]["method"]).label_free and not case[1].get("predictions")]


def built(case: tuple[str, dict[str, Any], str]) -> TrainingModel:
    _, options, attention = case
    options = dict(options)
    return distilling(options.pop("method"), options, attention)


def distilled(model: TrainingModel, whole: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The terms that the method answers for: ultralytics' own losses are no mean over images."""
    items = model.loss(whole)[1]
    return {term.name: items[term.name] for term in model.terms if not term.own}


def step(model: TrainingModel, whole: dict[str, torch.Tensor]) -> None:
    """One optimiser step on everything a run optimises."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    total, _ = model.train()(whole)
    total.sum().backward()
    optimizer.step()


@every_case
def test_a_distillation_loss_of_the_first_image_only(case: tuple) -> None:
    model, whole = built(case).eval(), batch(2)
    together = assert_mean_of_single_losses(lambda images: model.loss(images)[1], whole, rtol=1e-3, atol=1e-6)
    own = [term.name for term in model.terms if term.own]
    for i in range(2):
        changed = deepcopy(whole)
        changed["img"][i] = 1 - changed["img"][i]
        items = model.loss(changed)[1]
        if own:  # what a young dynamic teacher makes depends on little but boxes
            changed["bboxes"][whole["batch_idx"] == i, 0] *= 0.5
            items |= {name: value for name, value in model.loss(changed)[1].items() if name in own}
        for name in (term.name for term in model.terms):
            assert items[name] != together[name], f"{name}: image {i} does not count"


@every_case
def test_a_distiller_that_changes_its_inputs_or_the_students_statistics(case: tuple) -> None:
    model, whole = built(case), batch(3)
    alone, before = deepcopy(model.student), deepcopy(whole)
    alone.train().loss(whole)
    preds = model.train().student(whole["img"])
    kept = deepcopy({k: [x.detach() for x in v] for k, v in preds.items()})
    model.loss(whole, preds)
    assert same(whole, before)
    assert same({k: [x.detach() for x in v] for k, v in preds.items()}, kept)
    assert same(dict(alone.named_buffers()), dict(model.student.named_buffers())), "the student saw the images twice"


@every_case
def test_an_adaptor_that_was_never_trained_nor_saved(case: tuple) -> None:
    model = built(case)
    assert hidden_modules(model.distiller) == []
    saved, parameters = model.state_dict(), dict(model.distiller.named_parameters())
    assert all(f"distiller.{name}" in saved for name in parameters)
    optimizer, dead = torch.optim.SGD([*parameters.values()] or [torch.zeros(1, requires_grad=True)], lr=0.1), [*parameters]
    for _ in range(2):  # a layer that starts at zero lets nothing through to those before it in the first step
        if dead:
            optimizer.zero_grad()
            model.loss(batch(3))[0].sum().backward()
            optimizer.step()
            dead = [name for name in dead if parameters[name].grad is None or not parameters[name].grad.abs().sum() > 0]
    assert not dead, f"no gradient reaches {dead}"


@every_case
def test_batches_whose_terms_come_and_go_or_are_infinite(case: tuple) -> None:
    model, names = built(case).train(), []
    for kind, whole in BATCHES.items():
        model.zero_grad()
        total, items = model.loss(deepcopy(whole))
        total.sum().backward()
        infinite = [name for name, value in items.items() if not torch.isfinite(value)]
        infinite += [n for n, p in model.named_parameters() if p.grad is not None and not torch.isfinite(p.grad).all()]
        assert not infinite, f"{kind}: {infinite}"
        names.append(tuple(items))
    assert len(set(names)) == 1


@pytest.mark.parametrize("heads", product(HEADS, HEADS), ids="-".join)
@pytest.mark.parametrize("name", list(METHODS))
def test_a_pair_that_was_accepted_and_fails_in_training(name: str, heads: tuple[str, str]) -> None:
    student, teacher = (HEADS[head](width, seed=width) for head, width in zip(heads, (8, 16)))
    try:
        model = pair(METHODS.get(name), student, teacher, {}).eval()
    except UserError as error:
        assert heads[0] != heads[1] or heads[0] == "anchors", "refuses two detectors of ultralytics"
        assert name in str(error) and "small" in str(error) and "use" in str(error), "method, pair, what then?"
        return
    whole = batch(2)
    if heads != ("anchors", "anchors"):  # of these, the mean is held by test_a_distillation_loss_of_the_first_image_only
        assert_mean_of_single_losses(lambda images: distilled(model, images), whole, rtol=1e-3, atol=1e-6)
    total, items = model.train().loss(whole)
    total.sum().backward()
    assert {term.name for term in model.terms} <= set(items) and all(torch.isfinite(v) for v in items.values())


@every_case
def test_a_frozen_teacher_that_is_trained_saved_averaged_or_optimised(case: tuple) -> None:
    model = built(case)
    if model.teacher is None:
        pytest.skip("this method has no frozen teacher")
    before = deepcopy(dict(model.teacher.model.state_dict()))
    theirs = {id(p) for p in (*model.teacher.model.parameters(), *model.teacher.model.buffers())}
    ema = ModelEMA(model)
    for held in (model, ema.ema):
        assert not theirs & {id(p) for p in (*held.parameters(), *held.buffers())}
        assert not any("teacher" in name for name in held.state_dict())
    assert ema.ema.teacher is model.teacher, "the average of the weights carries a copy of the teacher"
    step(model, batch(3))
    ema.update(model)
    assert set(ema.ema.state_dict()) == set(model.state_dict())
    model.train()
    shared = {id(m) for m in model.student.modules()}  # ultralytics' layers all use one activation object
    training = [m for m in model.teacher.model.modules() if m.training]
    assert all(id(m) in shared and isinstance(m, torch.nn.SiLU) for m in training)
    assert all(not p.requires_grad and p.grad is None for p in model.teacher.model.parameters())
    assert same(dict(model.teacher.model.state_dict()), before)


@every_case
def test_a_loss_that_says_something_else_in_bfloat16(case: tuple) -> None:
    model, found = built(case).train(), []
    for model.bfloat16_cpu in (False, True):
        torch.manual_seed(0)  # masks drawn at random
        found.append(model.loss(batch(2))[1])
    for name in (name for name in found[0] if name.endswith("_loss")):
        assert found[1][name].item() == pytest.approx(found[0][name].item(), rel=0.1, abs=1e-5), name


def test_images_without_boxes_are_distilled_too() -> None:
    model, whole = built(CASES[0]).eval(), batch(2, boxes_of=[2, 0])
    changed = deepcopy(whole)
    changed["img"][1] = 1 - changed["img"][1]
    assert model.loss(whole)[1]["bg_loss"] != model.loss(changed)[1]["bg_loss"]


@pytest.mark.parametrize("name", list(METHODS))
def test_every_method_has_a_configuration_with_known_options(name: str) -> None:
    used = [(path, o) for path, (_, o) in zip(CONFIGURATIONS, PAIRS) if o.get("method", path.stem) == name]
    assert used, f"method '{name}': add cfg/distill/{name}.yaml"
    known = list(inspect.signature(METHODS.get(name).__init__).parameters)[3:] + ["method"]
    assert all(set(options) <= set(known) for _, options in used)


@pytest.mark.parametrize("case", LABEL_FREE, ids=[f"{name}-{attention}" for name, _, attention in LABEL_FREE])
def test_a_label_free_method_that_reads_labels_or_trains_the_head(case: tuple) -> None:
    model, whole = built(case).eval(), batch(2)
    with_labels = model.loss(whole)[1]
    pictures = Imitation(model.student, model.distiller, model.teacher).eval()
    alone = pictures.loss({"img": whole["img"]})[1]
    assert set(alone) == {term.name for term in model.terms}
    assert all(torch.allclose(value, with_labels[name], rtol=1e-4) for name, value in alone.items())
    head = deepcopy(model.student.model[-1].state_dict())
    step(pictures, {"img": whole["img"]})
    assert same(head, model.student.model[-1].state_dict())
    body = [p.grad for name, p in model.student.named_parameters() if not name.startswith(f"model.{model.student.model[-1].i}.")]
    assert any(grad is not None and grad.abs().sum() > 0 for grad in body)
