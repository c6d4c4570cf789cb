"""What a run writes besides checkpoints: plots, TensorBoard events, a results.csv without stray rows."""

from __future__ import annotations

import csv
import os
from pathlib import Path
from typing import Any

import torch

from cfg import UserError
from distill.base import Spec
from engine.plots import shielded

NO_TEACHER = "distillation: off (--teacher t.pt switches it on)"


def header(model: str, spec: Spec, notes: list[str], precision: str) -> list[str]:
    """The first lines of a run: what is trained, from what, in which precision and with how many threads."""
    distilled = any(note.startswith("distillation") for note in notes)
    what = f"{'student' if distilled else 'model'}: {model}, {_counted(spec.nc, 'class', 'es')}, strides {spec.strides}"
    how = f"forward pass in {precision}, {_counted(torch.get_num_threads(), 'thread', 's')}"
    return [f"{what}; {how}", *([] if distilled else [NO_TEACHER]), *notes]


def _counted(number: int, noun: str, plural: str) -> str:
    return f"{number} {noun}{plural if number != 1 else ''}"


KINDS = {"w": "weight", "share": "share", "cos": "cosine"}  # of a loss item that is no loss: in its name, in results.csv


def column(name: str) -> str | None:
    """Column of results.csv for an epoch's figure: `weight/box` for `train/w_box`, None for its copy in validation."""
    kind, _, _ = name.removeprefix("val/").partition("_")
    if name.startswith("val/") and kind in KINDS:
        return None
    for short, long in KINDS.items():
        name = name.replace(f"train/{short}_", f"{long}/")
    return name


def heading(name: str) -> str:
    """A loss item's head in the progress table (columns of 11): `global`, `w:global` its weight, `g:global` its gradient share,
    `c:global` its gradient's cosine with detection's.
    """
    for prefix, mark in (("w_", "w:"), ("share_", "g:"), ("cos_", "c:")):
        name = mark + name.removeprefix(prefix) if name.startswith(prefix) else name
    name = name.removesuffix("_loss")
    return name if len(name) <= 10 else name[:9] + "."


def read_results(path: Path) -> tuple[list[str], list[list[str]]]:
    """Header and rows of results.csv as text, both empty for an empty file."""
    with path.open(newline="", encoding="utf-8") as file:
        header, *rows = list(csv.reader(file)) or [[]]
    return header, rows


def append_results(path: Path, epoch: int, seconds: float, figures: dict[str, float | None]) -> None:
    """Append an epoch to results.csv, with the header where it is new; None is an empty field.

    Args:
        epoch: from 1.
        seconds: since the training began; a resumed run counts anew.
        figures: by column.
    """
    new = not path.exists()
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", newline="", encoding="utf-8") as file:
        rows = csv.writer(file, lineterminator="\n")
        if new:
            rows.writerow(["epoch", "time", *figures])
        rows.writerow([epoch, f"{seconds:.6g}", *("" if value is None else f"{value:.6g}" for value in figures.values())])


def trim_results(path: Path, epochs: int) -> None:
    """Drop rows after `epochs` epochs: a run killed between writing its row and its checkpoint repeats that epoch."""
    if not path.exists():
        return
    header, rows = read_results(path)
    kept = [row for row in rows if len(row) == len(header) and float(row[0]) <= epochs]
    part = path.with_name(f".{path.name}.part")
    with part.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file, lineterminator="\n").writerows([header, *kept])
    os.replace(part, path)


def curve(header: list[str], rows: list[list[str]], name: str) -> tuple[list[float], list[float]]:
    """Epochs in which a figure was measured, and its values there."""
    at = header.index(name)
    points = [(float(row[0]), float(row[at])) for row in rows if row[at]]
    return [epoch for epoch, _ in points], [value for _, value in points]


@shielded("results.png")
def plot_results(results: Path, target: Path) -> None:
    """Draw losses, of training and validation in one field, and metrics over epochs: what was measured, and no smoothed copy."""
    import matplotlib.pyplot as plt

    header, rows = read_results(results)
    kinds = {name: name.removeprefix("train/").removeprefix("val/") for name in header if name.startswith(("train/", "val/", "metrics/"))}
    fields = list(dict.fromkeys(kinds.values()))
    if not fields:
        return
    columns = (len(fields) + 1) // 2
    figure, axes = plt.subplots(2, columns, figsize=(2 + 2.6 * columns, 6), tight_layout=True, squeeze=False)
    for axis, title in zip(axes.flat, fields, strict=False):
        for name in [name for name, kind in kinds.items() if kind == title]:
            axis.plot(*curve(header, rows, name), marker=".", label=name.partition("/")[0])
        axis.set_title(title.removeprefix("metrics/").removesuffix("(B)"), fontsize=12)
        axis.set_xlabel("epoch")
        axis.xaxis.get_major_locator().set_params(integer=True)
        if len(axis.lines) > 1:
            axis.legend()
    for axis in axes.flat[len(fields) :]:
        axis.set_visible(False)
    figure.savefig(target, dpi=200)
    plt.close(figure)


PLOTS = {
    "weight/": "Adaptive weights of the loss terms",
    "share/": "Gradient ratio at backbone and neck, over detection",
    "cosine/": "Its cosine with detection's",
}


@shielded("weights.png")
def plot_weights(results: Path, target: Path) -> None:
    """Draw weights, gradient shares and cosines of the loss terms over epochs; nothing for a run without distillation."""
    import matplotlib.pyplot as plt

    header, rows = read_results(results)
    if not any(name.startswith("weight/") for name in header):
        return
    figure, axes = plt.subplots(1, len(PLOTS), figsize=(6.5 * len(PLOTS), 4), tight_layout=True)
    for axis, (prefix, title) in zip(axes, PLOTS.items()):
        for name in [name for name in header if name.startswith(prefix)]:
            axis.plot(*curve(header, rows, name), marker=".", label=name.removeprefix(prefix))
        axis.set(xlabel="epoch", title=title, ylim=(-1, 1) if prefix == "cosine/" else (0, None))
        axis.xaxis.get_major_locator().set_params(integer=True)
        if axis.lines:
            axis.legend()
    figure.savefig(target, dpi=150)
    plt.close(figure)


class TensorBoard:
    """Callback that writes every figure of an epoch to the run folder as TensorBoard events."""

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise UserError(
                "--tensorboard: expected the package tensorboard to be installed; "
                "pip install tensorboard"
            ) from None
        self.writer = SummaryWriter(str(folder))

    def __call__(self, trainer: Any) -> None:
        terms = trainer.label_loss_items(trainer.tloss) if trainer.tloss else {}
        figures = terms | (dict(trainer.metrics) if trainer.measured else {}) | dict(getattr(trainer, "lr", {}))
        for name, value in figures.items():
            if column(name):
                self.writer.add_scalar(column(name), float(value), trainer.epoch + 1)
        self.writer.flush()
