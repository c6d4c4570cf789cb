"""results.csv, the progress table's head and the plot of the weights."""

from __future__ import annotations

import pytest

from distill.base import Level, Spec
from engine.training.report import (
    NO_TEACHER,
    TensorBoard,
    append_results,
    column,
    curve,
    header,
    heading,
    plot_results,
    plot_weights,
    read_results,
    trim_results,
)
from engine.training.summary import BY_KD, table


def test_columns_of_the_weights():
    assert column("train/w_box") == "weight/box"
    assert column("train/share_all") == "share/all" and column("train/cos_fg") == "cosine/fg"
    assert [column(f"val/{name}") for name in ("w_box", "share_all", "cos_fg")] == [None] * 3
    assert column("val/box_loss") == "val/box_loss"


@pytest.mark.parametrize(
    ("name", "shown"),
    [("box_loss", "box"), ("global_loss", "global"), ("w_box", "w:box"), ("cos_all", "c:all"), ("w_attention", "w:attenti."),
     ("a_rather_long_loss", "a_rather_.")],
)
def test_heads_leave_a_space(name, shown):
    assert heading(name) == shown and len(shown) <= 10


def test_header_says_whether_distillation_is_on():
    spec = Spec("student", {"p3": Level(8, 8)}, 2, {0: "a", 1: "b"})
    what, note = header("m.yaml", spec, [], "float32")
    assert what.startswith("model: m.yaml, 2 classes, strides [8]; forward pass in float32, ") and note == NO_TEACHER
    start = "start: 3 of 5 tensors of the weights w.pt fit the student by name and shape"
    assert header("m.yaml", spec, [start], "float32")[1:3] == [NO_TEACHER, start]
    assert header("m.yaml", spec, ["distillation: ON", start], "float32")[1:3] == ["distillation: ON", start]


def test_rows_after_the_checkpoint_are_dropped(tmp_path):
    path = tmp_path / "results.csv"
    path.write_text("epoch,time,a\n1,0.1,5\n2,0.2,6\n3,0.3,7\n4,0")  # the last row half-written
    trim_results(path, 2)
    assert path.read_text() == "epoch,time,a\n1,0.1,5\n2,0.2,6\n"
    assert read_results(path) == (["epoch", "time", "a"], [["1", "0.1", "5"], ["2", "0.2", "6"]])
    assert [p.name for p in tmp_path.iterdir()] == ["results.csv"]


def test_no_rows_and_no_file(tmp_path):
    trim_results(tmp_path / "results.csv", 2)
    assert not list(tmp_path.iterdir())
    (tmp_path / "results.csv").write_text("")
    assert read_results(tmp_path / "results.csv") == ([], [])
    plot_weights(tmp_path / "results.csv", tmp_path / "weights.png")
    assert not (tmp_path / "weights.png").exists()


@pytest.mark.long
def test_plot_of_the_weights(tmp_path):
    path = tmp_path / "results.csv"
    path.write_text("epoch,weight/box,weight/focal\n1,1,1\n2,0.5,1.5\n")
    plot_weights(path, tmp_path / "weights.png")
    assert (tmp_path / "weights.png").stat().st_size > 5000


@pytest.mark.long
def test_an_epoch_without_validation_has_empty_fields_and_no_point(tmp_path, monkeypatch):
    path = tmp_path / "results.csv"
    for epoch, score in enumerate((None, 0.123456789, None, 0.5), start=1):
        append_results(path, epoch, 2.0 * epoch, {"train/box_loss": 1 / epoch, "metrics/mAP50(B)": score, "val/box_loss": score})
    rows = path.read_text().splitlines()
    assert rows[0] == "epoch,time,train/box_loss,metrics/mAP50(B),val/box_loss"
    assert rows[1] == "1,2,1,," and rows[2] == "2,4,0.5,0.123457,0.123457"
    assert curve(*read_results(path), "metrics/mAP50(B)") == ([2.0, 4.0], [0.123457, 0.5])
    from matplotlib.axes import Axes

    drawn, plot = [], Axes.plot
    monkeypatch.setattr(Axes, "plot", lambda self, x, y, **more: (drawn.append((more["label"], y)), plot(self, x, y, **more))[1])
    plot_results(path, tmp_path / "results.png")
    assert (tmp_path / "results.png").stat().st_size > 5000
    assert dict(drawn) == {"train": [1, 0.5, 0.333333, 0.25], "val": [0.123457, 0.5], "metrics": [0.123457, 0.5]}


def test_table_of_teacher_and_student():
    names, sizes = {"teacher": "t.pt", "student": "s-model.yaml"}, {"teacher": 20_000_000, "student": 5_000_000}
    scores = {"teacher": {"metrics/mAP50(B)": 0.8, "metrics/mAP50-95(B)": 0.5}, "student": {"metrics/mAP50(B)": 0.75, "metrics/mAP50-95(B)": 0.52}}
    lines = table(names, scores, sizes)
    assert [line.split() for line in lines[:4]] == [
        ["mAP50", "mAP50-95", "parameters"], ["teacher", "t.pt", "0.8000", "0.5000", "20.00", "M"],
        ["student", "s-model.yaml", "0.7500", "0.5200", "5.00", "M"],
        ["student", "to", "teacher", "-5.0", "points", "+2.0", "points", "x", "0.25"]]  # fmt: skip
    assert lines[4].startswith("the teacher is -2.0 points of mAP50-95 ahead of this student: either")
    assert lines[5] == BY_KD and len({len(line) for line in lines[:3]}) == 1
    assert table(names, scores | {"teacher": {key: 0.9 for key in scores["teacher"]}}, sizes)[4:] == [BY_KD]
    without = table(names, scores | {"teacher": {}}, sizes)
    assert without[1].split() == ["teacher", "t.pt", "-", "-", "20.00", "M"] and without[3] == BY_KD


def test_tensorboard_is_named_when_absent(tmp_path, monkeypatch):
    import sys

    from cfg import UserError

    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(UserError, match="pip install tensorboard"):
        TensorBoard(tmp_path)
