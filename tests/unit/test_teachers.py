"""Teachers and students of other programs: what is read of them, and what is refused before training."""

from __future__ import annotations

import sys
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from torch import nn

sys.path[:0] = [str(Path(__file__).parents[1] / folder) for folder in ("contract", "flow")]
from small import ROOT, batch, detector  # noqa: E402
from tiny_foreign import NAMES, RTDETR_YAML, add_to_torchvision, described, trained  # noqa: E402
from torchvision.models import detection  # noqa: E402

from cfg import UserError  # noqa: E402
from distill.base import METHODS  # noqa: E402
from distill.model import TrainingModel  # noqa: E402
from distill.networks import FrozenTeacher, spec_of, view_of  # noqa: E402
from engine.checkpoint import load_detector  # noqa: E402
from engine.detectors import build_detector  # noqa: E402
from engine.training.teachers import load_teacher  # noqa: E402
from models.foreign import torchvision_fpn  # noqa: E402
from models.foreign.base import FeaturePyramid  # noqa: E402

from ultralytics import RTDETR, YOLO  # noqa: E402

pytestmark = pytest.mark.long  # networks of their real sizes
GOOD = "weights: w.pt\nnames: [dark, bright]\n"  # of a torchvision teacher's YAML
STOCK = {  # name -> strides, bins of the box distributions
    "yolov8n-p2.yaml": ([4, 8, 16, 32], 16),
    "yolov10n.yaml": ([8, 16, 32], 16),
    "yolo11n.yaml": ([8, 16, 32], 16),
    "yolo26n.yaml": ([8, 16, 32], None),
}


@pytest.fixture
def tiny(monkeypatch, tmp_path):
    """A folder, where torchvision has one more detector, a small one."""
    add_to_torchvision(monkeypatch)
    return tmp_path


# -- ultralytics' detectors --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", STOCK)
def test_stock_detectors_are_teachers_and_students(name: str) -> None:
    strides, bins = STOCK[name]
    torch.manual_seed(0)
    stock = build_detector(name, 2, NAMES)
    spec = spec_of(stock, name)
    assert (spec.strides, spec.bins, spec.nc, spec.names, spec.headless) == (strides, bins, 2, NAMES, "")
    assert stock.training, "looking at a network changed its mode"
    view = view_of(stock, spec, stock(torch.rand(2, 3, 64, 96)))
    for level, stride in zip(spec.levels.values(), strides):
        assert view.feats[f"p{stride.bit_length() - 1}"].shape == (2, level.channels, 64 // stride, 96 // stride)
    _learns(TrainingModel(stock, _attention(stock, small := FrozenTeacher(detector(8), "small")), small), stock)
    teacher = FrozenTeacher(stock, name)
    student = detector(8, "none", seed=1)
    _learns(TrainingModel(student, _attention(student, teacher), teacher), student)
    assert not any(p.requires_grad for p in teacher.model.parameters())
    for height, width in ((64, 64), (96, 40), (70, 129)):
        feats = teacher.see(torch.rand(1, 3, height, width)).feats
        for stride, level in zip(strides, spec.levels):
            assert feats[level].shape[-2:] == (-(-height // stride), -(-width // stride))


@pytest.mark.parametrize("name", ["s-model.yaml", "yolov8n.yaml", "yolov10n.yaml"])
def test_folding_a_teacher_leaves_fewer_layers_and_the_same_features(name: str) -> None:
    torch.manual_seed(0)
    network = build_detector(name, 2, NAMES)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):  # as after training: a fresh one does next to nothing
            module.running_mean.uniform_(-0.1, 0.1)
            module.running_var.uniform_(0.5, 2.0)
    teacher, images = FrozenTeacher(network, name), torch.rand(1, 3, 64, 64)
    before, norms = teacher.see(images).feats, count_norms(network)
    teacher.fold()
    for level, feats in teacher.see(images).feats.items():
        assert torch.allclose(feats, before[level], rtol=1e-3, atol=1e-4 * float(before[level].std()))
    assert count_norms(network) < norms / 4 and not any(p.requires_grad for p in network.parameters())


def count_norms(network: nn.Module) -> int:
    return sum(isinstance(module, torch.nn.BatchNorm2d) for module in network.modules())


DEEP = """nc: 2
backbone:
  [[-1, 1, Conv, [8, 3, 2]], [-1, 1, Conv, [8, 3, 2]], [-1, 1, Conv, [8, 3, 2]], [-1, 1, Conv, [8, 3, 2]],
   [-1, 1, Conv, [8, 3, 2]]]
head: [[-1, 1, nn.Upsample, [None, 2, nearest]], [[-1, 3], 1, Concat, [1]], [[2, 6], 1, Detect, [nc]]]
"""


def test_layers_coarser_than_the_heads_levels_get_a_size_that_fits(tmp_path: Path) -> None:
    """48 px is a multiple of the levels' strides 8 and 16, but not of the 32 that is upsampled to join them."""
    (tmp_path / "deep.yaml").write_text(DEEP)
    torch.manual_seed(0)
    teacher = FrozenTeacher(build_detector(tmp_path / "deep.yaml", 2, NAMES), "deep")
    images = torch.rand(2, 3, 48, 48)
    index = torch.arange(64).clamp(max=47)
    repeated = images[..., index[:, None], index]
    for name, side in (("p3", 6), ("p4", 3)):
        seen, padded = teacher.see(images).feats[name], teacher.see(repeated).feats[name]
        assert seen.shape[-2:] == (side, side) and torch.equal(seen, padded[..., :side, :side])


def _attention(student: nn.Module, teacher: FrozenTeacher) -> nn.Module:
    return METHODS.get("attention")(spec_of(student, "student"), teacher.spec)


def _learns(model: TrainingModel, student: nn.Module) -> None:
    """One step: the distillation terms alone reach the student's first layer, and the whole loss is finite."""
    whole = batch(2) | {"img": torch.rand(2, 3, 64, 64)}
    student.args = _arguments()
    total, items = model.train().loss(whole)
    total.sum().backward()
    assert all(torch.isfinite(v) for v in items.values())
    model.zero_grad(set_to_none=True)
    terms = model.distil(whole, whole["img"], model.student(whole["img"]), {})
    torch.stack(list(terms.values())).sum().backward()
    first = next(student.model[0].parameters())
    assert first.grad is not None and first.grad.abs().sum() > 0
    model.zero_grad(set_to_none=True)


def _arguments() -> object:
    from types import SimpleNamespace

    from ultralytics.utils import DEFAULT_CFG_DICT

    return SimpleNamespace(**DEFAULT_CFG_DICT)


@pytest.mark.parametrize("name", ["yolo11n.yaml", "yolo26n.yaml"])
def test_pickles_of_ultralytics_give_the_saved_features(name: str, tmp_path: Path) -> None:
    host = YOLO(name)
    host.save(str(tmp_path / "host.pt"))
    teacher = load_teacher(tmp_path / "host.pt", 80, host.model.names)
    assert teacher.trained and teacher.spec.nc == 80 and teacher.spec.names == host.model.names
    image = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        whole = host.model.half().float().eval()(image)[1]  # they are saved so
    expected = whole.get("one2many", whole)["feats"]
    for mine, theirs in zip(teacher.see(image).feats.values(), expected):
        assert torch.equal(mine, theirs.float())


# -- RT-DETR -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rtdetr(tmp_path_factory) -> tuple[Path, nn.Module]:
    """A folder with a tiny RT-DETR as YAML and as ultralytics' pickle, and the pickled model."""
    folder = tmp_path_factory.mktemp("rtdetr")
    (folder / "tiny.yaml").write_text(RTDETR_YAML)
    host = RTDETR(str(folder / "tiny.yaml"))
    host.model.names = NAMES
    host.save(str(folder / "tiny.pt"))
    return folder, host.model.half().float().eval()  # as it was saved


def test_rtdetr_shows_what_its_decoder_reads(rtdetr) -> None:
    folder, model = rtdetr
    teacher = load_teacher(folder / "tiny.pt", 2, NAMES)
    assert teacher.trained and teacher.spec.strides == [8, 16] and teacher.spec.names == NAMES
    assert teacher.spec.bins is None and teacher.spec.anchors is None
    images, seen = torch.rand(2, 3, 64, 96), []
    model.model[-1].register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    with torch.no_grad():
        model(images)
    view = teacher.see(images)
    assert list(view.feats) == ["p3", "p4"]
    for mine, read in zip(view.feats.values(), seen[0], strict=True):
        assert torch.allclose(mine, read, rtol=1e-4, atol=1e-5)  # torch's attention takes another path when frozen
    teacher.drop_head()  # has none
    assert [tuple(x.shape) for x in teacher.see(images[..., :40, :72]).feats.values()] == [(2, 16, 5, 9), (2, 16, 3, 5)]


def test_an_untrained_rtdetr_is_the_same_each_time(rtdetr) -> None:
    folder, _ = rtdetr
    one = load_teacher(folder / "tiny.yaml", 2, NAMES)
    torch.manual_seed(7)
    before = torch.random.get_rng_state()
    other = load_teacher(folder / "tiny.yaml", 2, NAMES)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert not one.trained and one.spec.label.startswith("untrained teacher") and one.spec.names == NAMES
    assert all(torch.equal(a, b) for a, b in zip(one.model.state_dict().values(), other.model.state_dict().values()))


def test_rtdetr_trains_a_student(rtdetr) -> None:
    teacher, student = load_teacher(rtdetr[0] / "tiny.pt", 2, NAMES), build_detector("yolov8n.yaml", 2, NAMES)
    _learns(TrainingModel(student, _attention(student, teacher), teacher), student)


def test_rtdetr_is_a_teacher_and_nothing_else(rtdetr) -> None:
    folder, _ = rtdetr
    with pytest.raises(UserError, match=r"tiny\.pt: .*RTDETRDetectionModel; it can only be a teacher: train\.py"):
        load_detector(folder / "tiny.pt")
    with pytest.raises(UserError, match=r"row is 'RTDETRDecoder'; RT-DETR can be a teacher \(--teacher\), not"):
        build_detector(folder / "tiny.yaml", 2, NAMES)


def test_methods_that_read_predictions_refuse_a_network_without(rtdetr) -> None:
    teacher = load_teacher(rtdetr[0] / "tiny.pt", 2, NAMES)
    student = spec_of(build_detector("yolov8n.yaml", 2, NAMES), "student yolov8n.yaml")
    reading = [name for name in METHODS if METHODS.get(name).reads_head and METHODS.get(name).uses_teacher]
    assert reading
    for name in reading:
        expected = rf"{name} .*tiny\.pt .*RT-DETR's head predicts boxes for queries.*\(.*attention.*\)"
        with pytest.raises(UserError, match=expected) as error:
            METHODS.get(name)(student, teacher.spec)
        works = str(error.value).rpartition("(")[2]
        assert not any(other in works.rstrip(")").split(", ") for other in reading)


# -- torchvision -------------------------------------------------------------------------------------------------------


TEACHERS = {"fasterrcnn.yaml": [4, 8, 16, 32, 64]}  # of a YAML in cfg/teachers; the others begin at stride 8


@pytest.mark.parametrize("name", [p.name for p in sorted((ROOT / "cfg/teachers").glob("*.yaml"))])
def test_torchvisions_pyramids(name: str) -> None:
    strides = TEACHERS.get(name, [8, 16, 32, 64, 128])
    teacher = load_teacher(name, 2, NAMES)
    assert not teacher.trained and teacher.spec.strides == strides and teacher.spec.names == NAMES
    assert [level.channels for level in teacher.spec.levels.values()] == [256] * 5
    feats = teacher.see(torch.rand(1, 3, 72, 100)).feats
    assert [tuple(x.shape[-2:]) for x in feats.values()] == [(-(-72 // s), -(-100 // s)) for s in strides]
    assert all(torch.isfinite(x).all() for x in feats.values())


def test_every_builder_named_is_torchvisions() -> None:
    known = torchvision_fpn.builders()
    assert {"fasterrcnn_resnet50_fpn", "retinanet_resnet50_fpn_v2", "fcos_resnet50_fpn"} <= set(known)
    assert not any(name.startswith("ssd") for name in known) and all(hasattr(detection, name) for name in known)


@pytest.mark.parametrize("wrap", ["plain", "reference", "parallel", "pickle", "frozen"])
def test_the_features_are_those_of_torchvision(tiny, wrap: str) -> None:
    """The state dict in each form in which people save it; the reference is torchvision's own pipeline, unresized."""
    model = trained()
    state = model.state_dict()
    saved = {
        "plain": state,
        "reference": {"model": state, "epoch": 3, "optimizer": {}},
        "parallel": OrderedDict((f"module.{k}", v) for k, v in state.items()),
        "pickle": None,  # the detector as an object of torchvision's classes
        "frozen": {k: v for k, v in state.items() if "num_batches" not in k},  # as with FrozenBatchNorm2d
    }[wrap]
    if wrap == "pickle":
        saved = model
    teacher = load_teacher(described(tiny, state=saved), 2, NAMES)
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        model.transform.min_size, model.transform.max_size = (64,), 64
        normalised = model.transform(list(images))[0].tensors
        assert normalised.shape == images.shape
        expected = model.eval().backbone(normalised)
    view = teacher.see(images)
    assert teacher.trained and list(view.feats) == ["p2", "p3", "p4"] and teacher.spec.names == NAMES
    for mine, theirs in zip(view.feats.values(), expected.values(), strict=True):
        assert torch.allclose(mine, theirs, rtol=1e-5, atol=1e-6)
    assert not any("head" in name or "rpn" in name for name, _ in teacher.model.named_parameters())


def test_normalisation_follows_the_options(tiny) -> None:
    options = "options: {image_mean: [0.1, 0.2, 0.3], image_std: [0.5, 0.25, 0.125]}\n"
    pyramid = load_teacher(described(tiny, options), 2, NAMES).model
    seen = []
    pyramid.backbone.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    pyramid(torch.full((1, 3, 64, 64), 0.6))
    assert seen[0][0, :, 5, 5].tolist() == pytest.approx([1.0, 1.6, 2.4], rel=1e-5)


def test_the_constant_of_the_batch_norms(tiny) -> None:
    state = trained().state_dict()
    for text, expected in (("", 1e-5), ("batch_norm_eps: 0\n", 0.0)):
        pyramid = load_teacher(described(tiny, GOOD + text, state), 2, NAMES).model
        assert pyramid.backbone.body["first"][1].eps == pytest.approx(expected, abs=1e-30)
        assert all(level.isfinite().all() for level in pyramid.pyramid(torch.rand(1, 3, 64, 64)))


def test_a_torchvision_teacher_trains_a_student_and_stays_as_it_is(tiny) -> None:
    teacher = load_teacher(described(tiny, state=trained().state_dict()), 2, NAMES)
    before = {k: v.clone() for k, v in teacher.model.state_dict().items()}
    student = detector(8, "none", seed=1)
    model = TrainingModel(student, _attention(student, teacher), teacher)
    _learns(model, student)
    assert model.distiller.pairs == ["p2", "p3"]
    assert all(torch.equal(v, before[k]) for k, v in teacher.model.state_dict().items())
    assert not any(m.training for m in teacher.model.modules())


def test_an_untrained_one_gets_the_runs_classes(tiny) -> None:
    one = load_teacher(described(tiny, ""), 2, NAMES)
    torch.manual_seed(7)
    other = load_teacher(described(tiny, ""), 2, NAMES)
    assert not one.trained and one.spec.names == NAMES
    assert all(torch.equal(a, b) for a, b in zip(one.model.state_dict().values(), other.model.state_dict().values()))


WRONG = [
    ("weight: w.pt\n", r"unknown key 'weight'; did you mean 'weights'\?"),
    ("weights: gone.pth\nnames: [dark, bright]\n", r"weights: .*gone\.pth not found; .*relative to this YAML"),
    ("weights: w.pt\n", r"names: expected the classes the teacher was trained on"),
    ("weights: w.pt\nnames: dark\n", r"names: expected the classes"),
    ("weights: w.pt\nnames: [background, dark, bright]\n", r"names: expected the classes without the background"),
    ("weights: w.pt\nnames: [dark, bright, grey]\n", r"w\.pt was trained with 3 classes, .*'names' gives 4"),
    (GOOD + "options: 3\n", r"options: expected 'name: value' lines, got 3"),
    (GOOD + "options: {weights_backbone: DEFAULT}\n", r"options: weights_backbone would be downloaded"),
    (GOOD + "options: {pretrained: true}\n", r"options: pretrained would be downloaded"),
    (GOOD + "options: {num_classes: 7}\n", r"expected num_classes 3 \(2 names and the background\) or 2, got 7"),
    (GOOD + "options: {colour: red}\n", r"options: fasterrcnn_tiny has no option 'colour'"),
    (GOOD + "options: {rpn_head: 1}\n", r"options: fasterrcnn_tiny has no option 'rpn_head'"),
    (GOOD + "options: {image_mean: [a]}\n", r"options: expected image_mean to be three numbers"),
    (GOOD + "batch_norm_eps: no\n", r"batch_norm_eps: expected a number from 0 to below 1, got False"),
]


@pytest.mark.parametrize(("text", "message"), WRONG, ids=[text.splitlines()[-1] for text, _ in WRONG])
def test_wrong_yamls(tiny, text: str, message: str) -> None:
    path = described(tiny, text, trained().state_dict())
    with pytest.raises(UserError, match=rf"t\.yaml: .*{message}"):
        load_teacher(path, 2, NAMES)


def test_an_unknown_builder_is_told_the_nearest(tiny) -> None:
    path = tiny / "t.yaml"
    for name, hint in (("fasterrcnn_resnet5_fpn", "; did you mean 'fasterrcnn_resnet50_fpn'"), ("ssd300_vgg16", "")):
        path.write_text(f"torchvision: {name}\n")
        with pytest.raises(UserError, match=rf"t\.yaml: torchvision: expected one of .*, got '{name}'{hint}"):
            load_teacher(path, 2, NAMES)


def test_tensors_that_do_not_fit_are_counted(tiny) -> None:
    state = trained().state_dict()
    needed = sum(name.startswith("backbone.") and "num_batches" not in name for name in state)
    cases = [
        ({k: v for k, v in state.items() if ".fpn." not in k}, f"{needed - 8} of the {needed} .* fit, 8 do not"),
        (state | {"backbone.body.third.weight": torch.zeros(1)}, rf"{needed} of the {needed} .* fit, 1 do not"),
        (state | {"backbone.body.first.0.weight": torch.zeros(8, 3, 5, 5)}, rf"{needed - 1} of .*body\.first\.0"),
        ({"a.weight": torch.zeros(1)}, f" 0 of the {needed} tensors"),
    ]
    for wrong, message in cases:
        with pytest.raises(UserError, match=message):
            load_teacher(described(tiny, state=wrong), 2, NAMES)
    other_head = state | {"rpn.head.cls_logits.weight": torch.zeros(9, 12, 1, 1)}  # trained with other anchors
    load_teacher(described(tiny, state=other_head), 2, NAMES)


def test_the_order_of_classes_is_of_no_matter_to_features(tiny) -> None:
    file = described(tiny, "weights: w.pt\nnames: [bright, dark]\n", trained().state_dict())
    assert load_teacher(file, 2, NAMES).spec.names == {0: "bright", 1: "dark"}  # refused by the distiller, as others are
    teacher = load_teacher(file, 2, NAMES, map_classes=True)
    assert teacher.spec.names == NAMES and "by name" in teacher.notes[0]


def test_other_classes_and_strides_are_refused(tiny) -> None:
    teacher = load_teacher(described(tiny, "weights: w.pt\nnames: [pale, bright]\n", trained().state_dict()), 2, NAMES)
    with pytest.raises(UserError, match=r"got others \(class 0 is 'dark' in the data, 'pale' in the model\)"):
        _attention(build_detector("yolov8n.yaml", 2, NAMES), teacher)
    near = load_teacher(described(tiny, ""), 2, NAMES)
    coarse = spec_of(build_detector("yolov3-tiny.yaml", 2, NAMES), "student")  # strides 16 and 32: p4 is common
    assert METHODS.get("attention")(coarse, near.spec).pairs == ["p4"]


def test_levels_without_a_name_are_refused() -> None:
    class Odd(FeaturePyramid):
        headless = "it has none"

        def __init__(self, step: int) -> None:
            super().__init__(NAMES)
            self.layer = nn.Conv2d(3, 4, 3, step, 1)
            self.measure()

        def pyramid(self, images: torch.Tensor) -> list[torch.Tensor]:
            return [self.layer(images)]

    assert Odd(8).stride.tolist() == [8.0]
    for step in (6, 48):
        with pytest.raises(UserError, match="expected levels at strides that are powers of two"):
            Odd(step)
