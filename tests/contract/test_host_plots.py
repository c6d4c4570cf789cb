"""Everything ultralytics draws in training and validation is looked up where ours is put, and goes through it."""

from __future__ import annotations

import ast
import inspect
import re
import sys
from pathlib import Path

import pytest

import models  # noqa: F401  (before ultralytics)
from engine.host_plots import PLOTS, shield_plots
from engine.training.trainer import Trainer
from engine.validation.validator import Validator

from ultralytics.engine.trainer import BaseTrainer
from ultralytics.engine.validator import BaseValidator
from ultralytics.models.yolo.detect import DetectionTrainer, DetectionValidator
from ultralytics.utils import metrics, threaded

SHIELDED = {(getattr(owner, "__module__", owner.__name__), name) for owner, name, _ in PLOTS}
CALLS = [
    (DetectionTrainer.plot_training_samples, "plot_images("),
    (DetectionTrainer.plot_training_labels, "plot_labels("),
    (DetectionValidator.plot_val_samples, "plot_images("),
    (DetectionValidator.plot_predictions, "plot_images("),
    (DetectionValidator.finalize_metrics, "self.confusion_matrix.plot("),
    (metrics.ap_per_class, "plot_pr_curve(x,"),
    (metrics.ap_per_class, "plot_mc_curve(x,"),
    (metrics.ConfusionMatrix.plot_matches, "from .plotting import plot_images"),
    (threaded, 'kwargs.pop("threaded", True)'),
]


@pytest.mark.parametrize("cls", [Trainer, Validator])
def test_what_a_run_can_draw_is_shielded(cls: type) -> None:
    """Functions of ultralytics' plotting that the modules of our base classes import."""
    hosts = {sys.modules[base.__module__] for base in cls.__mro__ if base.__module__.startswith("ultralytics")}
    for module in hosts:
        nodes = ast.walk(ast.parse(Path(module.__file__).read_text(encoding="utf-8")))
        taken = [node for node in nodes if isinstance(node, ast.ImportFrom) and (node.module or "").endswith("plotting")]
        ours = {"plot_multitrain_results", "plot_results"}  # of its own MultiTrainer; in the place of the other we draw our own
        names = {alias.name for node in taken for alias in node.names} - ours
        assert {(module.__name__, name) for name in names} <= SHIELDED


@pytest.mark.parametrize(("function", "line"), CALLS, ids=[f"{f.__qualname__}-{line[:14]}" for f, line in CALLS])
def test_the_host_still_calls_them_so(function, line: str) -> None:
    def squeezed(text: str) -> str:
        return re.sub(r"\s+", "", text)

    assert squeezed(line) in squeezed(inspect.getsource(inspect.unwrap(function)))


def test_they_are_replaced_where_they_are_looked_up() -> None:
    shield_plots()
    assert all(getattr(getattr(owner, name), "ours", False) for owner, name, _ in PLOTS)


def test_a_drawing_in_training_waits_for_the_checkpoint() -> None:
    """The trainer draws a validation's plots only when `_validate_best` asks for them, after `save_model`."""
    source = inspect.getsource(BaseTrainer._do_train)
    assert source.index("self.save_model()") < source.index("self.final_eval()") < source.index("self.plot_metrics()")
    assert "self.args.plots &=" in inspect.getsource(BaseValidator.__call__), "it draws where the trainer did not ask"


def test_suppression_keeps_as_many_boxes_as_an_image_has() -> None:
    check = inspect.getsource(DetectionValidator._check_max_det)
    assert "args.max_det = observed" in check and "if observed <= args.max_det" in check
    assert "self._check_max_det(self.args" in inspect.getsource(DetectionValidator.init_metrics)
    assert "_check_max_det(self.args, datasets)" in inspect.getsource(DetectionTrainer._build_train_pipeline)
