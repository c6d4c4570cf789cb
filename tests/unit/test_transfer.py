"""Starting weights: what fits by name and shape, and class outputs by the classes' names."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import models  # noqa: F401  (before ultralytics)
from cfg import UserError
from engine.checkpoint import read_state, save_student
from engine.detectors import build_detector
from engine.settings import Settings
from engine.training.build import build_networks
from engine.training.classes import start_from
from engine.training.teachers import load_teacher
from engine.transfer import transfer
from models.class_rows import class_rows
from models.detector import Detector

from ultralytics.nn.tasks import DetectionModel

TINY = {
    "nc": 2,
    "backbone": [[-1, 1, "Conv", [8, 3, 2]], [-1, 1, "Conv", [8, 3, 2]], [-1, 1, "Conv", [8, 3, 2]]],
    "head": [[[2], 1, "Detect", ["nc"]]],
}
REAL_V5N = Path(__file__).resolve().parents[3] / "shared/weights/yolov5n_coco_state_dict_fp16.pt"


def stock(seed: int = 0, **rows) -> DetectionModel:
    torch.manual_seed(seed)
    return DetectionModel({**TINY, **rows}, verbose=False).eval()


def test_transfer_matches_name_and_shape():
    source, target = stock(1), stock(2)
    state = source.state_dict() | {"model.0.conv.weight": torch.zeros(1), "unknown": torch.zeros(2)}
    untouched = target.state_dict()["model.0.conv.weight"].clone()
    done = transfer(target, state)
    assert done.skipped == ["model.0.conv.weight", "unknown"]
    assert (done.matched, done.total) == (len(state) - 2, len(state))
    assert torch.equal(target.state_dict()["model.0.conv.weight"], untouched)
    assert torch.equal(target.state_dict()["model.1.conv.weight"], source.state_dict()["model.1.conv.weight"])


def test_a_backbones_own_weights_go_to_the_first_row(tmp_path: Path) -> None:
    from torchvision.models import get_model

    theirs = get_model("shufflenet_v2_x0_5", weights=None)
    torch.save(theirs.state_dict(), tmp_path / "imagenet.pth")
    rows = {"nc": 2, "backbone": [[-1, 1, "Backbone", ["shufflenet_v2_x0_5", [8, 16, 32]]]]}
    rows["head"] = [*([0, 1, "Level", [i]] for i in range(3)), [[1, 2, 3], 1, "GFLDetect", ["nc", "hkh", 16]]]
    model = Detector(rows)
    done = transfer(model, read_state(tmp_path / "imagenet.pth"))
    backbone = model.model[0].state_dict()
    assert done.matched == len(backbone) and all(name.startswith("model.0.") for name in done.skipped)
    given = theirs.state_dict()
    assert all(torch.equal(tensor, given[name]) for name, tensor in backbone.items())


def test_yolov5_anchors_become_pixels():
    model = nn.Module()
    model.register_buffer("anchor_wh", torch.zeros(2, 1, 2))
    done = transfer(model, {"x.anchors": torch.ones(2, 1, 2)})
    assert done.matched == 0
    head = nn.Module()
    head.head = model
    done = transfer(head, {"head.anchors": torch.tensor([[[1.25, 2.0]], [[1.0, 3.0]]])})
    assert done.matched == 1 and model.anchor_wh.tolist() == [[[10.0, 16.0]], [[16.0, 48.0]]]


@pytest.mark.real
def test_all_tensors_of_the_real_yolov5n_match():
    if not REAL_V5N.is_file():
        pytest.skip("../shared/weights is not here")
    detector_module = pytest.importorskip("models.detector")
    model = detector_module.Detector("yolov5n.yaml", nc=80)
    done = transfer(model, read_state(REAL_V5N))
    assert (done.matched, done.total, done.skipped) == (349, 349, [])
    assert model.head.anchor_wh[0, 0].tolist() == [10.0, 13.0]


# -- by class

BACKBONE = "backbone: [[-1, 1, Conv, [8, 3, 2]], [-1, 1, Conv, [8, 3, 2]], [-1, 1, Conv, [16, 3, 2]]]\n"
HEADS = {
    "coupled": "anchors: [[10, 12, 16, 14]]\n" + BACKBONE + "head: [[[2], 1, AnchorDetect, [nc, anchors, coupled]]]\n",
    "decoupled": "anchors: [[10, 12, 16, 14]]\n" + BACKBONE + "head: [[[2], 1, AnchorDetect, [nc, anchors, decoupled]]]\n",
    "gfl": BACKBONE + "head: [[[2], 1, GFLDetect, [nc, gfl, 16, 1]]]\n",
    "stock": BACKBONE + "head: [[[2], 1, Detect, [nc]]]\n",
    "end2end": "end2end: True\nreg_max: 1\n" + BACKBONE + "head: [[[2], 1, Detect, [nc]]]\n",
    "v10": BACKBONE + "head: [[[2], 1, v10Detect, [nc]]]\n",
}
every_head = pytest.mark.parametrize("head", HEADS)


def numbered(*names: str) -> dict[int, str]:
    return dict(enumerate(names))


class Place:
    """A model YAML of one kind of head, weights made from it, and the settings of a run that takes them."""

    def __init__(self, folder: Path, head: str) -> None:
        self.folder, self.model = folder, folder / "model.yaml"
        self.model.write_text("nc: 80\n" + HEADS[head])

    def weights(self, *names: str) -> nn.Module:
        """A detector with its own row for each class, saved as w.pt."""
        torch.manual_seed(1)
        detector = build_detector(self.model, len(names), numbered(*names))
        for name in class_rows(detector):
            detector.state_dict()[name].uniform_(-0.5, 0.5)
        save_student(self.folder / "w.pt", detector.eval(), {})
        return detector

    def student(self, *names: str) -> nn.Module:
        torch.manual_seed(2)
        return build_detector(self.model, len(names), numbered(*names))

    def settings(self, **changes):
        weights = {"weights": str(self.folder / "w.pt")}
        return Settings.of({"model": str(self.model), "data": "d.yaml"} | weights | changes)

    def start(self, *names: str, **changes) -> tuple[nn.Module, list[str]]:
        student = self.student(*names)
        return student, start_from(student, str(self.folder / "w.pt"), self.settings(**changes).network, numbered(*names))


@pytest.fixture
def place(tmp_path, head) -> Place:
    return Place(tmp_path, head)


@torch.no_grad()
def found(model: nn.Module) -> torch.Tensor:
    """Boxes and class scores (1, 4 + nc, A) in evaluation; of an end-to-end head by both its branches, one after the other."""
    head = model.eval().model[-1]
    torch.manual_seed(0)
    image = torch.rand(1, 3, 64, 64)
    if not hasattr(head, "one2one_cv3"):
        return model(image)[0]
    head.end2end = False
    branches = [model(image)[0]]
    head.cv3, head.one2one_cv3 = head.one2one_cv3, head.cv3
    branches.append(model(image)[0])
    head.cv3, head.one2one_cv3 = head.one2one_cv3, head.cv3
    return torch.cat(branches, 2)


def same_scores(student: nn.Module, weights: nn.Module, source: list[int]) -> None:
    got, expected = found(student), found(weights)
    assert not torch.allclose(expected[:, 4], expected[:, 5], rtol=1e-2, atol=0), "the classes cannot be told apart"
    torch.testing.assert_close(got, expected[:, [0, 1, 2, 3, *(4 + s for s in source)]], rtol=1e-4, atol=1e-9)


@every_head
def test_another_order_is_refused_or_copied_by_name(place: Place) -> None:
    weights = place.weights("scratch", "pit", "patch")
    message = r"w\.pt: expected the classes of the data set, got the same in another order \(class 0 is 'pit' in the data, "
    with pytest.raises(UserError, match=message + r"'scratch' in the model, and 2 more\); use --map-classes"):
        place.start("pit", "patch", "scratch")
    student, notes = place.start("pit", "patch", "scratch", map_classes=True)
    same_scores(student, weights, [1, 2, 0])
    assert notes[0].startswith(f"start: {len(weights.state_dict())} of ") and "taken by name" in notes[1]


@every_head
def test_the_outputs_of_other_classes_are_left_out_and_it_is_said(place: Place) -> None:
    weights = place.weights("scratch", "car", "patch")
    untouched = place.student("scratch", "pit", "patch").state_dict()
    student, notes = place.start("scratch", "pit", "patch")
    for name, of_class in class_rows(student).items():
        mine, theirs = student.state_dict()[name], weights.state_dict()[name]
        kept = of_class == 1
        assert torch.equal(mine[kept], untouched[name][kept]) and torch.equal(mine[~kept], theirs[~kept])
    assert "taken for 2 of 3 classes; left out for pit" in notes[1] and "--map-classes" not in notes[1]


@every_head
def test_a_class_more_starts_from_the_others_where_that_is_asked_for(place: Place) -> None:
    weights = place.weights("scratch", "pit")
    student, notes = place.start("dent", "pit", "scratch")
    assert "none taken, it has 2 classes and the data 3; --map-classes takes those of the same name" in notes[1]
    student, notes = place.start("dent", "pit", "scratch", map_classes=True)
    got, expected = found(student), found(weights)
    torch.testing.assert_close(got[:, [0, 1, 2, 3, 5, 6]], expected[:, [0, 1, 2, 3, 5, 4]], rtol=1e-4, atol=1e-9)
    assert "taken for 2 of 3 classes; left out for dent" in notes[1]


@every_head
def test_placeholders_are_taken_by_number_and_it_is_said(place: Place) -> None:
    weights = place.weights("0", "1", "2")
    student, notes = place.start("pit", "patch", "scratch")
    same_scores(student, weights, [0, 1, 2])
    assert "cannot be compared" in notes[1] and "by their numbers" in notes[1]
    torch.save(weights.state_dict(), place.folder / "w.pt")
    assert "are not known" in place.start("pit", "patch", "scratch")[1][1]


@pytest.mark.long
@every_head
def test_a_teacher_is_put_in_the_datas_order(place: Place) -> None:
    weights = place.weights("scratch", "pit", "patch")
    names = numbered("pit", "patch", "scratch")
    teacher = load_teacher(place.folder / "w.pt", 3, names, map_classes=True)
    assert teacher.spec.names == names and "by name" in teacher.notes[0]
    same_scores(teacher.model, weights, [1, 2, 0])
    changes = {"weights": None, "teacher": str(place.folder / "w.pt")}
    with pytest.raises(UserError, match="got another order .*use --map-classes to pair them by name"):
        build_networks(place.settings(**changes), 3, names)
    networks = build_networks(place.settings(**changes, map_classes=True), 3, names)
    same_scores(networks.student, weights, [1, 2, 0])  # the student starts from it


@pytest.mark.parametrize("head", ["coupled"])
def test_weights_of_eighty_classes_start_a_student_of_two(place: Place) -> None:
    weights = place.weights(*(f"thing {i}" for i in range(80)))
    student, notes = place.start("scratch", "pit")
    total = len(weights.state_dict())
    assert notes[0].startswith(f"start: {total - 2} of {total} tensors") and notes[1].endswith("80 classes and the data 2")
    assert torch.equal(student.state_dict()["model.0.conv.weight"], weights.state_dict()["model.0.conv.weight"])


@pytest.mark.parametrize("head", ["gfl"])
def test_another_head_has_no_classes_to_take(place: Place, tmp_path: Path) -> None:
    """Then their order is of no matter."""
    place.weights("scratch", "pit", "patch")
    place.model.write_text("nc: 80\n" + HEADS["coupled"])
    student, notes = place.start("pit", "patch", "scratch")
    assert len(notes) == 1 and isinstance(student, Detector)
