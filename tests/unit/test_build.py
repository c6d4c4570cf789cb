"""Networks of a run by name, teachers, distillers; anchors fitted to labels; the processor's switches."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from cfg import UserError
from distill.build import build_distiller
from engine import host
from engine.checkpoint import save_student
from engine.settings import Settings
from engine.training.build import build_detector, build_networks, fit_to_labels, load_teacher
from models.detector import Detector

YAML = """nc: 5
anchors: [[10, 12, 16, 14], [24, 30, 40, 36]]
backbone: [[-1, 1, Conv, [8, 3, 2]], [-1, 1, Conv, [8, 3, 2]], [-1, 1, Conv, [16, 3, 2]], [-1, 1, Conv, [16, 3, 2]]]
head: [[[2, 3], 1, AnchorDetect, [nc, anchors, coupled]]]
"""
NAMES = {0: "dark", 1: "bright"}


@pytest.fixture
def model(tmp_path):
    path = tmp_path / "model.yaml"
    path.write_text(YAML)
    return path


def settings(model, **changes):
    return Settings.of({"model": str(model), "data": "d.yaml"} | changes)


def test_ours_and_theirs(model):
    ours = build_detector(model, 2, NAMES)
    assert isinstance(ours, Detector) and ours.names == NAMES and ours.model[-1].nc == 2
    for name, parameters in (("yolo11n.yaml", 2_590_230), ("yolov8n-p2", 2_926_824)):
        stock = build_detector(name, 2, NAMES)
        assert not isinstance(stock, Detector) and stock.names == NAMES and stock.model[-1].nc == 2
        assert sum(p.numel() for p in stock.parameters()) == pytest.approx(parameters, rel=0.02)
    # Our anchor-based one, not ultralytics' of that name.
    assert isinstance(build_detector("yolov5n.yaml", 2, NAMES), Detector)


@pytest.mark.parametrize(
    ("name", "message"),
    [("best.pt", "--cfg best.pt: expected a model YAML"),
     ("yolo11n-seg.yaml", "expected a detector, its last row is 'Segment'"),
     ("yolo99n.yaml", "'yolo99n.yaml' not found")],
)  # fmt: skip
def test_not_a_detector(name, message):
    with pytest.raises(UserError, match=message):
        build_detector(name)


def test_weights_are_copied_and_counted(model, tmp_path):
    donor = build_detector(model, 2, NAMES)
    save_student(tmp_path / "w.pt", donor, {})
    networks = build_networks(settings(model, weights=str(tmp_path / "w.pt")), 2, NAMES)
    total = len(donor.state_dict())
    source = f"the weights {tmp_path / 'w.pt'}"
    assert networks.notes == [f"start: {total} of {total} tensors of {source} fit the student by name and shape"]
    assert all(torch.equal(v, donor.state_dict()[k]) for k, v in networks.student.state_dict().items())
    fewer = build_networks(settings(model, weights=str(tmp_path / "w.pt")), 3, {**NAMES, 2: "c"})
    # The head's outputs differ.
    assert fewer.notes[0].startswith(f"start: {total - 4} of {total} ")


def test_a_backbone_is_held_back_only_where_it_starts_from_weights(model, tmp_path):
    save_student(tmp_path / "w.pt", build_detector(model, 2, NAMES), {})
    random = build_networks(settings(model, distill="sdd"), 2, NAMES)
    assert random.distiller.freeze_until == 0
    assert "backbone: learns from the first step; freeze_until 0.111 is for students that start from --weights" in random.notes
    started = build_networks(settings(model, distill="sdd", weights=str(tmp_path / "w.pt")), 2, NAMES)
    assert started.distiller.freeze_until == pytest.approx(1 / 9, abs=1e-4)
    assert not any(note.startswith("backbone") for note in started.notes)


def test_a_resumed_student_keeps_its_weights(model, tmp_path):
    save_student(tmp_path / "t.pt", build_detector(model, 2, NAMES), {})
    student = build_detector(model, 2, NAMES)
    before = {k: v.clone() for k, v in student.state_dict().items()}
    networks = build_networks(settings(model, teacher=str(tmp_path / "t.pt"), weights="gone.pt"), 2, NAMES, student)
    assert networks.student is student and student.training
    assert all(torch.equal(v, before[k]) for k, v in student.state_dict().items())
    assert len(networks.notes) == 1 and networks.notes[0].startswith("distillation: ON")
    with pytest.raises(UserError, match="class names of the checkpoint, got others .3 classes in the data, 2 in the model"):
        build_networks(settings(model), 3, {**NAMES, 2: "c"}, student)


@pytest.mark.parametrize("freeze", [5, 9, [0, 1, 2, 3, 4], [7]])
def test_something_must_learn(model, freeze):
    with pytest.raises(UserError, match="freeze: expected fewer than the model's 5 layers"):
        build_networks(settings(model, freeze=freeze), 2, NAMES)
    build_networks(settings(model, freeze=4), 2, NAMES)


def test_teacher_is_frozen(model, tmp_path):
    save_student(tmp_path / "t.pt", build_detector(model, 2, NAMES), {})
    teacher = load_teacher(tmp_path / "t.pt", 2, NAMES)
    assert not teacher.model.training and not any(p.requires_grad for p in teacher.model.parameters())
    assert teacher.spec.strides == [8, 16]


def test_an_untrained_teacher_is_the_same_each_time_and_named_so(model):
    teachers = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        teachers.append(load_teacher(model, 2, NAMES))
        assert torch.equal(torch.get_rng_state(), before)  # the student's start does not depend on the control
    first, second = (t.model.state_dict() for t in teachers)
    assert all(torch.equal(first[k], second[k]) for k in first)
    assert teachers[0].spec.nc == 2 and not teachers[0].model.training
    notes = build_networks(settings(model, teacher=str(model)), 2, NAMES).notes
    assert any("UNTRAINED: a control, it teaches nothing" in note for note in notes)
    assert [note.partition(";")[0] for note in notes if "start:" in note] == ["start: random weights"]


@pytest.mark.parametrize("imgsz", [40, 96, 640])
def test_a_teacher_of_fine_strides_sees_every_size_as_it_is(model, imgsz):
    networks = build_networks(settings(model, teacher=str(model), imgsz=imgsz), 2, NAMES)
    assert not any("sees images" in note for note in networks.notes)


@pytest.mark.parametrize(("imgsz", "seen"), [(96, "96 px as 128 px"), (180, "192 px as 256 px"), (128, None)])
def test_sizes_that_a_coarse_teacher_cannot_see_are_said(model, imgsz, seen):
    networks = build_networks(settings(model, teacher="t-demo.yaml", imgsz=imgsz), 2, NAMES)
    notes = [note for note in networks.notes if "sees images" in note]
    assert len(notes) == bool(seen) and (not seen or f"the teacher sees images of {seen}" in notes[0])


def test_distiller_options(model, tmp_path):
    save_student(tmp_path / "t.pt", build_detector(model, 2, NAMES), {})
    student, teacher = build_detector(model, 2, NAMES), load_teacher(tmp_path / "t.pt", 2, NAMES)
    (tmp_path / "mine.yaml").write_text("method: attention\ntemperature: 5\n")
    assert build_distiller(str(tmp_path / "mine.yaml"), student, teacher, "m").temperature == 5
    (tmp_path / "mine.yaml").write_text("method: atention\n")
    with pytest.raises(UserError, match="'atention'; did you mean 'attention'"):
        build_distiller(str(tmp_path / "mine.yaml"), student, teacher, "m")


def test_anchors_are_fitted_to_the_labels(model):
    student = build_detector(model, 2, NAMES)
    # 100 x 50 pixels images shown at 200: a box of a quarter of each side is 50 x 25 pixels, which the anchors cover.
    covered = [{"shape": (50, 100), "bboxes": np.array([[0.5, 0.5, 0.25, 0.25]])}]
    before = student.model[-1].anchor_wh.clone()
    assert fit_to_labels(student, covered, 200).startswith("anchors: best possible recall 1.000, ")
    assert torch.equal(student.model[-1].anchor_wh, before)
    long = [{"shape": (50, 100), "bboxes": np.array([[0.5, 0.5, 1.0, 0.02]] * 5)}]  # 200 x 2: no anchor is near
    note = fit_to_labels(student, long, 200)
    assert "best possible recall 0.000" in note and "refitted by k-means: 1.000" in note
    fitted = student.model[-1].anchor_wh
    assert not torch.equal(fitted, before)
    assert student.yaml["anchors"] == [[round(float(v), 2) for v in level.flatten()] for level in fitted]
    assert fit_to_labels(student, [{"shape": (50, 100), "bboxes": np.zeros((0, 4))}], 200) == ""


@pytest.mark.parametrize(("environment", "threads"), [("1", 1), ("3", 3), ("2,4", 2)])
def test_threads_are_those_of_the_environment(monkeypatch, environment, threads):
    from ultralytics.utils.torch_utils import select_device

    set_to: list[int] = []
    monkeypatch.setattr(host.host_torch, "NUM_THREADS", host.host_torch.NUM_THREADS)  # put back after the test
    monkeypatch.setenv("OMP_NUM_THREADS", environment)
    monkeypatch.setattr(torch, "set_num_threads", set_to.append)
    host.use_all_cores()
    select_device("cpu", verbose=False)  # ultralytics sets its own number here
    assert set_to == [threads, threads]


def test_the_threads_that_torch_has_are_left(monkeypatch):
    from engine.weights import pick_device

    monkeypatch.setattr(host.host_torch, "NUM_THREADS", 7)  # as ultralytics has it on eight cores
    before = torch.get_num_threads()
    for pick in (pick_device, lambda device: host.host_torch.select_device(device, verbose=False)):
        pick("cpu")
        assert torch.get_num_threads() == before
