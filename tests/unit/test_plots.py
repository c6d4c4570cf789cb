"""Plots: class names are plain text in them, nothing that goes wrong ends a run, and it is said on one line."""

from __future__ import annotations

import warnings
from pathlib import Path

import matplotlib
import numpy as np
import pytest
import torch
from matplotlib import pyplot
from matplotlib.figure import Figure

from benchmarks.timing import plot as timing_plot
from engine import plots
from engine.host_plots import PLOTS, shield_plots
from engine.plots import shielded
from engine.training.report import plot_weights

from ultralytics.models.yolo.detect import train as host_train
from ultralytics.models.yolo.detect import val as host_val
from ultralytics.utils import metrics

WILD = ["$a$b^$", "_x", "\\frac{", "50%", "a\nb", "😀", "划痕", "عربي", "x" * 300, "", "a\0b", "\u202eb", "\x1b[31m", "{0}",
        "%s"]  # fmt: skip
NAMES = dict(enumerate(WILD))
X = np.linspace(0, 1, 1000)
CURVES, BOXES = np.full((len(WILD), 1000), 0.5), np.full((len(WILD), 4), 0.4)


@pytest.fixture(autouse=True)
def shield():
    shield_plots()
    plots._say_once.cache_clear()


def matrix(names: dict[int, str]) -> metrics.ConfusionMatrix:
    made = metrics.ConfusionMatrix(names)
    made.matrix[:] = np.eye(len(names) + 1)
    return made


def batch() -> dict[str, torch.Tensor]:
    count = len(WILD)
    boxes = {"cls": torch.arange(count), "bboxes": torch.full((count, 4), 0.4), "batch_idx": torch.zeros(count)}
    return {"img": torch.rand(1, 3, 64, 64)} | boxes


HOST = {
    "pr.png": lambda to: metrics.plot_pr_curve(X, CURVES, CURVES[:, :10], to, NAMES),
    "mc.png": lambda to: metrics.plot_mc_curve(X, CURVES, to, NAMES, ylabel="F1"),
    "confusion_matrix.png": lambda to: matrix(NAMES).plot(normalize=False, save_dir=to.parent),
    "confusion_matrix_normalized.png": lambda to: matrix(NAMES).plot(normalize=True, save_dir=to.parent),
    "labels.jpg": lambda to: host_train.plot_labels(BOXES, np.arange(len(WILD)), names=NAMES, save_dir=to.parent),
    "batch.jpg": lambda to: host_val.plot_images(batch(), paths=["$a$.png"], fname=to, names=NAMES),
}  # fmt: skip


@pytest.mark.long
@pytest.mark.parametrize("file", HOST)
def test_any_name_is_drawn_and_no_warning_printed(tmp_path: Path, capfd: pytest.CaptureFixture, file: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        HOST[file](tmp_path / file)
    assert (tmp_path / file).stat().st_size > 1000
    said = capfd.readouterr().err.splitlines()
    assert [line for line in said if "characters of the names" not in line] == [] and len(said) <= 1


@pytest.mark.long
def test_what_a_font_lacks_is_said_once(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    for _ in range(2):
        metrics.plot_mc_curve(X, CURVES[:1], tmp_path / "a.png", {0: "划痕"})
    assert capfd.readouterr().err == "plots: the font here lacks characters of the names, which are drawn as empty boxes\n"


def test_a_users_own_settings_of_matplotlib_do_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(matplotlib.rcParams, "text.usetex", True)  # as a matplotlibrc in the folder says
    metrics.plot_mc_curve(X, CURVES[:1], tmp_path / "a.png", {0: "50%_\\$"})
    assert (tmp_path / "a.png").exists() and matplotlib.rcParams["text.usetex"]


def test_a_legend_lists_every_class_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []

    def look(figure: Figure, *args, **kwargs) -> None:
        shown.extend(text.get_text() for text in figure.axes[0].get_legend().get_texts())

    monkeypatch.setattr(Figure, "savefig", look)
    metrics.plot_mc_curve(X, CURVES[:4], tmp_path / "a.png", {0: "_x", 1: "", 2: "$a$", 3: "pit"})
    assert shown[:4] == [" _x", "(no name)", "$a$", "pit"]


@pytest.mark.long
def test_the_evaluation_keeps_the_names_themselves(tmp_path: Path) -> None:
    made = matrix(NAMES)
    made.plot(save_dir=tmp_path)
    assert made.names == NAMES


def test_pictures_of_a_batch_are_drawn_before_the_call_returns(tmp_path: Path) -> None:
    assert host_val.plot_images(batch(), paths=["a.png"], fname=tmp_path / "a.jpg", names=NAMES) is None
    assert (tmp_path / "a.jpg").exists()


@pytest.mark.parametrize(("owner", "name"), [row[:2] for row in PLOTS], ids=lambda x: getattr(x, "__name__", x))
def test_nothing_that_ultralytics_draws_raises(owner, name: str, capfd: pytest.CaptureFixture) -> None:
    before = pyplot.get_fignums()
    given = [matrix(NAMES), "wrong", 1, 2, 3] if name == "plot" else [object(), object(), object()]
    assert getattr(owner, name)(*given) is None
    said = capfd.readouterr().err.strip().splitlines()
    assert len(said) == 1 and "was not drawn (" in said[0] and pyplot.get_fignums() == before


def test_shielding_twice_is_shielding_once() -> None:
    before = [getattr(owner, name) for owner, name, _ in PLOTS]
    shield_plots()
    assert [getattr(owner, name) for owner, name, _ in PLOTS] == before


def test_an_error_is_one_line_and_leaves_no_figure(capfd: pytest.CaptureFixture) -> None:
    @shielded("a.png")
    def draw() -> str:
        pyplot.figure()
        raise ValueError("first\n  second" + "x" * 500)

    before = pyplot.get_fignums()
    assert draw() is None and pyplot.get_fignums() == before
    said = capfd.readouterr().err
    assert said.startswith("a.png was not drawn (ValueError: first second") and said.count("\n") == 1 and len(said) < 250


def test_ctrl_c_in_a_plot_ends_the_run() -> None:
    @shielded("a.png")
    def draw() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        draw()


@pytest.mark.long
def test_our_own_plots_are_shielded(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    (tmp_path / "results.csv").write_text("epoch,weight/a$^$\n1,0.5\n2,0.25\n")
    plot_weights(tmp_path / "results.csv", tmp_path / "weights.png")
    assert (tmp_path / "weights.png").exists()
    plot_weights(tmp_path / "results.csv", tmp_path / "gone/weights.png")
    (tmp_path / "results.csv").write_text("epoch,weight/a\n1,much\n")
    plot_weights(tmp_path / "results.csv", tmp_path / "weights.png")
    assert capfd.readouterr().err.count("weights.png was not drawn (") == 2


def test_the_speed_plots_numbers_are_no_formulas(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ticks: list[str] = []

    def look(figure: Figure, *args, **kwargs) -> None:
        figure.canvas.draw()
        ticks.extend(text.get_text() for text in (*figure.axes[0].get_xticklabels(), *figure.axes[0].get_yticklabels()))

    monkeypatch.setattr(Figure, "savefig", look)
    row = {"axis": "imgsz", "kind": "inference", "model": "$m^", "values": [1], "sizes": [100.0, 10_000.0]}
    row["ms"] = {"total": [1.0, 90.0]}
    assert timing_plot.plot([row], "imgsz", tmp_path / "a.png")
    assert {"100", "1000", "10000", "1", "10"} <= set(ticks) and not any("$" in text for text in ticks)
