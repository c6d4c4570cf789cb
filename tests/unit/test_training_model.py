"""What a run optimises: terms and their weights, the frozen teacher's view, and losses that are no numbers."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1] / "contract"))
from small import SIZE, batch, description, detector, distilling, same

from cfg import UserError
from distill.base import Distiller, Level, Spec, Step, Term, View, check_classes, level_names, pair_levels
from distill.model import NonFiniteLoss, TrainingModel
from distill.networks import FrozenTeacher, attention_of, spec_of
from models.detector import Detector

from ultralytics.nn.tasks import DetectionModel

DETECTION = ["box_loss", "obj_loss", "cls_loss"]
DISTILLATION = ["fg_loss", "bg_loss", "att_loss", "global_loss"]
WEIGHTS = ["w_box", "w_focal", "w_feature", "w_attention", "w_global"]
SHARES = [f"{kind}_{name}" for kind in ("share", "cos") for name in ("fg", "bg", "att", "global", "all")]
STOCK: dict[str, Any] = {
    "nc": 2,
    "backbone": [[-1, 1, "Conv", [8, 3, 2]], [-1, 1, "Conv", [16, 3, 2]], [-1, 1, "Conv", [32, 3, 2]]],
    "head": [[[1, 2], 1, "Detect", ["nc"]]],
}


def stock(end2end: bool = False) -> DetectionModel:
    """A stock ultralytics detector with strides 4 and 8."""
    torch.manual_seed(0)
    model = DetectionModel(deepcopy(STOCK) | ({"end2end": True} if end2end else {}), nc=2, verbose=False)
    settings = {"box": 7.5, "cls": 0.5, "dfl": 1.5, "overlap_mask": False, "epochs": 2}
    model.args = type("Arguments", (), settings)()
    return model


def test_without_a_distiller_the_loss_is_the_students_own() -> None:
    student, whole = detector(), batch(3)
    expected, items = deepcopy(student).loss(whole)
    total, found = TrainingModel(student)(whole)
    assert torch.equal(total, expected) and same(found, items) and list(found) == DETECTION


def test_every_call_has_the_same_names() -> None:
    model = distilling("attention")
    for counts in ([1, 2], [0, 0]):
        for training in (True, False):
            total, items = model.train(training)(batch(2, boxes_of=counts))
            assert list(items) == DETECTION + DISTILLATION + WEIGHTS + SHARES
            assert total.ndim == 0 and all(v.ndim == 0 and not v.requires_grad for v in items.values())


def test_the_total_is_eq_17_times_images() -> None:
    model = distilling("attention", {"gains": {"global": 3.0}})
    model = TrainingModel(model.student, model.distiller, model.teacher, balance={"share": None}).eval()
    factors = {"box": 1.0, "focal": 0.5, "feature": 2.0, "attention": 1.25, "global": 0.25}
    assert model.weights.names == list(factors)
    model.weights.weights.copy_(torch.tensor(list(factors.values())))
    total, items = model.loss(batch(3))
    assert {k: v.item() for k, v in items.items() if k.startswith("w_")} == {f"w_{k}": v for k, v in factors.items()}
    expected = 1.0 * items["box_loss"] + 0.5 * (items["obj_loss"] + items["cls_loss"])  # one delta for both QFL terms
    expected += 2.0 * (items["fg_loss"] + items["bg_loss"]) + 1.25 * items["att_loss"] + 0.25 * items["global_loss"]
    assert total.item() == pytest.approx(3 * expected.item(), rel=1e-5)


def test_weights_adapt_to_epoch_means_grouped_as_in_eq_17() -> None:
    model = distilling("attention")
    model = TrainingModel(model.student, model.distiller, model.teacher, "stable")
    means = dict.fromkeys(DETECTION + DISTILLATION + WEIGHTS + SHARES, 1.0)
    model.end_epoch(means)
    assert torch.allclose(model.weights.weights, torch.ones(5))  # the first epoch is the measure
    model.end_epoch(means | {"fg_loss": 1.0, "bg_loss": 2.0})  # feature: 3 after 2, the others as before
    shares = [math.exp(v) for v in (1, 1, 1.5, 1, 1)]
    expected = [5 * s / sum(shares) for s in shares]
    assert model.weights.weights.tolist() == pytest.approx(expected, rel=1e-4)
    TrainingModel(detector()).end_epoch(means)  # nothing to adapt without a distiller


def test_the_batch_size_divides_out() -> None:
    model, whole = distilling("attention").eval(), batch(2)
    twice = {k: torch.cat((v, v)) for k, v in whole.items()}
    twice["batch_idx"] = torch.cat((whole["batch_idx"], whole["batch_idx"] + 2))
    once, items = model.loss(whole)
    both, items_of_both = model.loss(twice)
    assert both.item() == pytest.approx(2 * once.item(), rel=1e-4)
    for name, value in items.items():
        assert items_of_both[name].item() == pytest.approx(value.item(), rel=1e-4), name


def spoil_adapter(adapter: Any) -> None:
    adapter.solved.fill_(True)
    adapter.mix.weight.data.fill_(math.inf)


@pytest.mark.parametrize("term, spoil", [
    ("box_loss", lambda m: m.student.head.m[0].box_out.bias.data.fill_(math.nan)),
    ("fg_loss", lambda m: spoil_adapter(m.distiller.adapters["p2"])),
])  # fmt: skip
def test_a_loss_that_is_no_number_names_its_term(term: str, spoil: Callable[[TrainingModel], Any]) -> None:
    model = distilling("attention")
    spoil(model)
    with pytest.raises(NonFiniteLoss, match=f"the loss term '{term}' is not finite") as error:
        model(batch(2))
    assert error.value.term == term
    alone = TrainingModel(detector())
    nn.init.constant_(alone.student.head.m[1].class_out.bias, math.nan)
    with pytest.raises(NonFiniteLoss, match="obj_loss|cls_loss"):
        alone(batch(2))


# -- the frozen teacher -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("height, width", [(64, 64), (40, 64), (20, 36), (8, 8)])
def test_a_size_that_is_no_multiple_of_the_teachers_stride_is_padded(height: int, width: int) -> None:
    torch.manual_seed(0)
    rows = description()
    rows["backbone"] += [[-1, 1, "Conv", [16, 3, 2]], [-1, 1, "Conv", [16, 3, 2]]]  # strides 16 and 32
    rows["head"] = [[[2, 4], 1, "AnchorDetect", ["nc", 2]]]
    teacher = FrozenTeacher(Detector(rows), "teacher")
    images = torch.rand(2, 3, height, width)
    view = teacher.see(images)
    assert list(view.feats) == ["p3", "p5"]
    for name, stride in (("p3", 8), ("p5", 32)):
        assert view.feats[name].shape[-2:] == (-(-height // stride), -(-width // stride))
    if (height, width) == (64, 64):
        assert torch.equal(view.feats["p3"], teacher.model(images)[1]["feats"][0])
    rows, columns = torch.arange(64).clamp(max=height - 1), torch.arange(64).clamp(max=width - 1)
    padded = images[..., rows[:, None], columns]  # the last row and column again and again
    expected = teacher.see(padded).feats["p3"]
    if height > 32 and width > 32:
        assert torch.equal(view.feats["p3"], expected[..., : -(-height // 8), : -(-width // 8)])


def test_a_teacher_shows_what_its_dual_attention_was_given() -> None:
    teacher = FrozenTeacher(detector(16, "dual"), "teacher")
    teacher.fold()
    view = teacher.see(torch.rand(2, 3, 64, 64))
    assert list(view.unattended) == list(view.attention) == ["p2", "p3"]
    for name, before in view.unattended.items():
        assert torch.allclose(before + view.attention[name].attend(before), view.feats[name], atol=1e-5)
        assert not torch.allclose(before, view.feats[name], atol=1e-2)
    padded = teacher.see(torch.rand(2, 3, 40, 56))
    assert all(x.shape == padded.feats[name].shape for name, x in padded.unattended.items())
    assert FrozenTeacher(detector(16, "none"), "teacher").see(torch.rand(1, 3, 64, 64)).unattended == {}


def test_a_student_of_smaller_strides_trains_at_its_own_sizes() -> None:
    student = detector(8, "none", seed=1)  # strides 4 and 8: 40 is no multiple of the teacher's 16
    rows = description()
    rows["backbone"] += [[-1, 1, "Conv", [16, 3, 2]]]
    rows["head"] = [[[1, 2, 3], 1, "AnchorDetect", ["nc", 2]]]
    teacher = FrozenTeacher(Detector(rows), "teacher")
    from distill.methods.attention import AttentionDistiller

    model = TrainingModel(student, AttentionDistiller(spec_of(student, "student"), teacher.spec), teacher)
    whole = batch(2) | {"img": torch.rand(2, 3, 40, 56)}
    total, _ = model(whole)
    total.backward()
    assert torch.isfinite(total)


def test_a_stock_detector_can_be_teacher_or_student() -> None:
    from distill.methods.attention import AttentionDistiller

    teacher, student = FrozenTeacher(stock(), "teacher"), detector()
    model = TrainingModel(student, AttentionDistiller(spec_of(student, "student"), teacher.spec), teacher)
    assert list(model(batch(2))[1]) == DETECTION + DISTILLATION + WEIGHTS + SHARES
    student, teacher = stock(), FrozenTeacher(detector(16), "teacher")
    distiller = AttentionDistiller(spec_of(student, "student"), teacher.spec)
    model = TrainingModel(student, distiller, teacher, balance={"share": None})
    total, items = model.eval().loss(batch(2))
    assert list(items)[:3] == ["box_loss", "cls_loss", "dfl_loss"]
    assert model.weights.names == ["box", "focal", "dfl", "feature", "attention", "global"]
    expected = sum(v for k, v in items.items() if k.endswith("_loss"))
    assert total.item() == pytest.approx(2 * expected.item(), rel=1e-5)


def test_a_teacher_moves_with_the_model_and_its_copies_share_it() -> None:
    model = distilling("attention")
    model.to(torch.float64)
    assert next(model.teacher.model.parameters()).dtype == torch.float64
    assert deepcopy(model).teacher is model.teacher


# -- facts of a network -------------------------------------------------------------------------------------------------


def test_facts_of_a_detector() -> None:
    spec = spec_of(detector(8, "dual"), "student")
    assert spec.levels == {"p2": Level(8, 4), "p3": Level(16, 8)} and spec.strides == [4, 8]
    assert spec.bins is None and spec.nc == 2
    assert list(attention_of(detector(8, "dual"))) == [0, 1] and attention_of(detector(8, "none")) == {}
    assert spec_of(stock(), "stock").bins == 16 and attention_of(stock()) == {}
    model = detector().train()
    before = deepcopy(dict(model.state_dict()))
    spec_of(model, "student")
    assert model.training and same(before, dict(model.state_dict()))


def test_level_names() -> None:
    assert level_names([4, 8, 16, 32, 64, 128]) == ["p2", "p3", "p4", "p5", "p6", "p7"]
    assert level_names([8, 16, 8, 8]) == ["p3", "p4", "p3b", "p3c"]
    names = level_names([8, 16, 32] * 4)
    assert len(set(names)) == 12


def test_pairs_by_stride() -> None:
    def spec(label: str, *strides: int) -> Spec:
        return Spec(label, dict(zip(level_names(list(strides)), (Level(1, s) for s in strides))), 1, {0: "a"})

    assert pair_levels(spec("s", 8, 16), spec("t", 4, 16, 8)) == ["p3", "p4"]
    with pytest.raises(UserError, match=r"s has strides \[8\], t \[4, 16\]"):
        pair_levels(spec("s", 8), spec("t", 4, 16))
    check_classes(spec("s", 8), spec("t", 8))


def test_a_step_says_what_it_has_not() -> None:
    view = View(spec_of(detector(), "student s.yaml"), {}, {})
    with pytest.raises(UserError, match="needs a teacher; give one with --teacher"):
        Step(batch(1), view, 0.0).teacher  # noqa: B018
    with pytest.raises(UserError, match="does not share its assignment"):
        Step(batch(1), view, 0.0).assignment  # noqa: B018
    for reading in (lambda step: step.head([]), lambda step: step.task_loss(view)):
        with pytest.raises(UserError, match="has no labels, so the student's head is not run"):
            reading(Step(batch(1), view, 0.0))
    with pytest.raises(UserError, match="student s.yaml: its head has no box distributions"):
        view.box_bins()
    assert Step(batch(3), view, 0.0).size == 3


def test_the_teacher_looks_once_and_only_when_asked() -> None:
    looks = []
    step = Step(batch(1), View(spec_of(detector(), "s"), {}, {}), 0.0, see_teacher=lambda: looks.append(1))
    assert not looks
    step.teacher, step.teacher  # noqa: B018
    assert looks == [1]


def test_bfloat16_on_the_cpu_is_for_training_and_leaves_losses_in_float32() -> None:
    model, whole = distilling("attention"), batch(2)
    model.bfloat16_cpu = True
    preds = model.train()(whole["img"])
    assert preds["preds"][0].dtype == torch.bfloat16
    total, items = model(whole)
    assert total.dtype == torch.float32 and all(v.dtype == torch.float32 for v in items.values())
    assert model.eval()(whole["img"])[0].dtype == torch.float32
    assert whole["img"].shape[-1] == SIZE


@pytest.mark.parametrize("end2end", [False, True], ids=["one head", "end to end"])
def test_losses_of_ultralytics_are_computed_in_float32_too(end2end: bool) -> None:
    """In bfloat16 the class loss of a young detector is exactly 0: a difference of two numbers that round alike."""
    found = {}
    for bfloat16 in (False, True):
        student = stock(end2end)
        student.model[-1].bias_init()  # scores start near 0.0004
        model = TrainingModel(student).train()
        model.bfloat16_cpu = bfloat16
        total, found[bfloat16] = model(batch(2))
        assert total.dtype == torch.float32
        total.sum().backward()
    assert all(found[False][name] > 0 for name in found[False])
    for name, value in found[True].items():
        assert value.item() == pytest.approx(found[False][name].item(), rel=5e-3), name


# -- what a method may use besides features ------------------------------------------------------------------------------


class Curious(Distiller):
    """A method that uses everything a step offers, and keeps what it saw."""

    terms = (Term("curious_loss", "curious"),)

    def losses(self, step: Step) -> dict[str, torch.Tensor]:
        self.seen = step
        self.view = step.head(list(step.student.feats.values()))
        self.scored = step.task_loss(self.view)
        return {"curious_loss": torch.stack(list(self.scored.values())).sum()}


def curious() -> tuple[TrainingModel, Curious]:
    student = detector()
    teacher = FrozenTeacher(detector(seed=1), "teacher")
    method = Curious(spec_of(student, "student"), teacher.spec)
    return TrainingModel(student, method, teacher, "none").train(), method


def test_the_students_head_on_its_own_features_gives_its_own_loss_and_keeps_its_statistics() -> None:
    model, method = curious()
    reference = deepcopy(model.student).train()
    preds = reference(batch(3)["img"])
    _, items = model.loss(batch(3))
    for name, scored in method.scored.items():
        assert scored.item() == pytest.approx(items[name].item(), rel=1e-5)
    for (name, ours), theirs in zip(model.student.head.named_buffers(), reference.head.buffers(), strict=True):
        assert torch.equal(ours, theirs), f"{name}: the second pass through the head left its mark"
    assert len(preds["feats"]) == len(method.view.feats)


def test_the_second_pass_has_gradients() -> None:
    model, method = curious()
    model.loss(batch(3))
    gradients = torch.autograd.grad(method.scored["box_loss"], list(model.student.head.parameters()), allow_unused=True)
    assert any(g is not None and g.abs().sum() > 0 for g in gradients)


def test_the_assignment_is_the_detection_losss_own() -> None:
    model, method = curious()
    model.loss(batch(3))
    raw = method.seen.student.raw
    expected = model.criterion.terms.assign(raw, batch(3))
    for ours, theirs in zip(method.seen.assignment, expected, strict=True):
        assert torch.equal(ours.image, theirs.image) and torch.equal(ours.box_xywh, theirs.box_xywh)
    assert method.seen.assignment is method.seen.assignment, "computed once"
