"""Every registered head and its detection loss; each test is named after a bug seen in published code."""

from __future__ import annotations

import sys
from copy import deepcopy
from pathlib import Path

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
from small import SIZE, assert_mean_of_single_losses, batch, description, detector, hidden_modules, same

from models.class_rows import class_rows, reorder_classes
from models.detector import Detector, raw_output
from models.heads import HEADS

# Rows of a head beside its usual one, which is [nc], or [nc, anchors] where the head has anchors.
VARIANTS = {
    "AnchorDetect": [
        ["nc", "anchors", "coupled"],
        ["nc", "anchors", "decoupled", "none", 8, 1],
        ["nc", "anchors", "decoupled", "dual", 8, 2],
        ["nc", "anchors", "decoupled", "cbam", 16, 1],
        ["nc", 3],
    ],
}
ROWS = [(name, args) for name in HEADS for args in VARIANTS.get(name, [["nc"]])]
IDS = [f"{name}-{'-'.join(map(str, args[2:])) or 'plain'}" for name, args in ROWS]
every_head = pytest.mark.parametrize("row", ROWS, ids=IDS)


def built(row: tuple[str, list]) -> Detector:
    try:
        return detector(head=[row[0], row[1]])
    except Exception as error:
        raise AssertionError(f"head '{row[0]}' cannot be built with {row[1]} ({error}): add rows to VARIANTS") from error


def losses(model: Detector, whole: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Named terms with BatchNorm in evaluation mode, where images do not influence each other."""
    return model.head.loss()(raw_output(model.eval()(whole["img"])), whole)


@every_head
def test_a_loss_that_returned_only_the_first_image(row: tuple[str, list]) -> None:
    model, whole = built(row), batch(3)
    together = assert_mean_of_single_losses(lambda images: losses(model, images), whole, rtol=1e-4, atol=1e-7)
    for i in range(3):
        changed = deepcopy(whole)
        changed["img"][i] = 1 - changed["img"][i]
        assert sum(losses(model, changed).values()) != sum(together.values()), f"image {i} does not count"


@every_head
def test_a_head_that_overwrites_its_input_list(row: tuple[str, list]) -> None:
    head = built(row).head
    features = [torch.randn(1, 8, 16, 16), torch.randn(1, 16, 8, 8)]
    before, given = deepcopy(features), list(features)
    for mode in (True, False):
        head.train(mode)(given)
        assert all(a is b for a, b in zip(given, features, strict=True)) and same(features, before)


@every_head
def test_a_parameter_of_the_model_that_never_gets_a_gradient(row: tuple[str, list]) -> None:
    model, whole = built(row), batch(3, boxes_of=[3, 4, 5])
    total, _ = model.eval().loss(whole, model(whole["img"]))  # in training mode a bias before BatchNorm has none
    total.sum().backward()
    dead = [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert not dead


@every_head
def test_a_module_of_the_model_that_hides_in_a_plain_list(row: tuple[str, list]) -> None:
    assert hidden_modules(built(row)) == []


@every_head
def test_a_loss_that_changes_its_batch_or_fails_without_boxes(row: tuple[str, list]) -> None:
    model = built(row)
    for counts in ([2, 0, 1], [0, 0, 0]):
        whole = batch(3, boxes_of=counts)
        before = deepcopy(whole)
        total, items = model.train().loss(whole)
        assert same(whole, before)
        assert torch.isfinite(total).all() and tuple(items) == tuple(model.head.loss_terms)
        total.sum().backward()


def test_building_others_first_changes_a_head() -> None:
    """Each is built after those before it in the list, and after those behind it."""

    def state(row: tuple[str, list]) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        return dict(Detector(description(head=[*row])).state_dict())

    forwards, backwards = [state(row) for row in ROWS], [state(row) for row in ROWS[::-1]]
    assert all(same(one, other) for one, other in zip(forwards, backwards[::-1], strict=True))


@every_head
def test_evaluation_and_export_say_the_same(row: tuple[str, list]) -> None:
    model = built(row).eval()
    images = torch.rand(2, 3, SIZE, SIZE)
    with torch.no_grad():
        y, raw = model(images)
        model.head.export = True
        exported = model(images)
    assert torch.is_tensor(exported) and torch.equal(exported, y)
    assert y.shape[:2] == (2, 4 + model.nc)
    assert [tuple(f.shape[-2:]) for f in raw["feats"]] == [(16, 16), (8, 8)]
    assert not model.head.__class__.export, "export was set for the class, and so for every other head"


@every_head
def test_class_outputs_that_were_taken_for_another_class(row: tuple[str, list]) -> None:
    model, image = built(row).eval(), batch(1)["img"]
    with torch.no_grad():
        for name in class_rows(model):
            model.state_dict()[name].normal_()
        before = model(image)[0]
        reorder_classes(model, [1, 0], {0: "second", 1: "first"})
        after = model(image)[0]
    assert model.names == {0: "second", 1: "first"}
    assert not torch.allclose(before[:, 4], before[:, 5], rtol=1e-2, atol=0)
    torch.testing.assert_close(after, before[:, [0, 1, 2, 3, 5, 4]], rtol=1e-4, atol=1e-9)
