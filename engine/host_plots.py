"""All that ultralytics draws in training and validation, shielded by `engine.plots`."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from typing import Any

import models.environment  # noqa: F401  (before ultralytics)
from engine.plots import drawable, shielded

from ultralytics.models.yolo.detect import train as host_train
from ultralytics.models.yolo.detect import val as host_val
from ultralytics.utils import metrics, plotting

# Where the function is looked up, its name there, and the file that it draws.
PLOTS = (
    (plotting, "plot_images", "an image of a batch"),
    (host_train, "plot_images", "train_batch*.jpg"),
    (host_train, "plot_labels", "labels.jpg"),
    (host_val, "plot_images", "val_batch*.jpg"),
    (metrics, "plot_pr_curve", "BoxPR_curve.png"),
    (metrics, "plot_mc_curve", "Box*_curve.png"),
    (metrics.ConfusionMatrix, "plot", "confusion_matrix*.png"),
)


def shield_plots() -> None:
    """Replace ultralytics' functions by the shielded ones, once per process."""
    for owner, name, what in PLOTS:
        draw = getattr(owner, name)
        if not getattr(draw, "ours", False):
            adapt = {"plot_images": _at_once, "plot": _with_drawable_names}.get(name, _bare)
            safe: Any = shielded(what)(adapt(draw))
            safe.ours = True
            setattr(owner, name, safe)


def _bare(draw: Callable[..., Any]) -> Callable[..., Any]:
    """Without ultralytics' own shield, where it has one: that prints errors over several lines."""
    return getattr(draw, "__wrapped__", draw)


def _at_once(draw: Callable[..., Any]) -> Callable[..., Any]:
    """Not in a thread: nothing would catch its errors there, and it scales the batch's pixels while others read them."""
    return lambda *args, **kwargs: draw(*args, **kwargs, threaded=False)


def _with_drawable_names(draw: Callable[..., Any]) -> Callable[..., Any]:
    """For the method of a confusion matrix, which has its class names inside."""

    def plot(matrix: metrics.ConfusionMatrix, *args: Any, **kwargs: Any) -> Any:
        drawn = copy(matrix)
        drawn.names = drawable(matrix.names)
        return _bare(draw)(drawn, *args, **kwargs)

    return plot
