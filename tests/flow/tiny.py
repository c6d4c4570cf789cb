"""A detector small enough for tests, with scores spread wide enough that it finds something in noise."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

import models.environment  # noqa: F401  (must run before ultralytics is imported)
from engine.checkpoint import save_student

from ultralytics.nn.tasks import DetectionModel

NAMES = {0: "scratch", 1: "pit", 2: "patch"}
SIZE = 64
STOCK: dict[str, Any] = {
    "nc": 3,
    "backbone": [[-1, 1, "Conv", [width, 3, 2]] for width in (8, 16, 16, 32)],
    "head": [[[2, 3], 1, "Detect", ["nc"]]],
}


def stock_detector() -> DetectionModel:
    """A stock ultralytics detector with strides 8 and 16 and random weights, always the same."""
    torch.manual_seed(0)
    detector = DetectionModel(STOCK, nc=3, verbose=False)
    detector.names = NAMES
    detector.train()
    for _ in range(20):  # BatchNorm statistics of noise images, so that the features vary from place to place
        detector(torch.rand(8, 3, SIZE, SIZE))
    for branch in detector.model[-1].cv3:
        torch.nn.init.normal_(branch[-1].weight, std=0.3)
        torch.nn.init.constant_(branch[-1].bias, -1.0)
    return detector.eval()


def save_tiny(path: Path) -> Path:
    """Save the stock detector as best.pt of a training at `SIZE` pixels."""
    save_student(path, stock_detector(), {"train_args": {"imgsz": SIZE, "data": "/secret/place/steel.yaml"}})
    return path


def write_image(path: Path, seed: int, height: int = SIZE, width: int = SIZE) -> Path:
    """Write a noise image; the file's extension chooses the format."""
    path.parent.mkdir(parents=True, exist_ok=True)
    coarse = np.random.default_rng(seed).integers(0, 256, (height // 4, width // 4, 3), dtype=np.uint8)
    image = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_NEAREST)
    path.write_bytes(cv2.imencode(path.suffix, image)[1].tobytes())
    return path


TINY_YAML = """nc: 2
anchors: [[10, 12, 16, 14], [24, 30, 40, 36]]
backbone:
  - [-1, 1, Conv, [{stem}, 3, 2]]
  - [-1, 1, Conv, [8, 3, 2]]
  - [-1, 1, Conv, [{width}, 3, 2]]
  - [-1, 1, Conv, [{width}, 3, 2]]
head:
  - [[2, 3], 1, AnchorDetect, [nc, anchors, coupled]]
"""


def write_model(path: Path, width: int = 16, stem: int = 8) -> Path:
    """Write the YAML of an anchor detector with strides 8 and 16 and some thousand parameters."""
    path.write_text(TINY_YAML.format(width=width, stem=stem))
    return path


def write_data(folder: Path, count: int = 8, classes: tuple[str, ...] = ("dark", "bright")) -> Path:
    """Make a data set of `count` training and 4 validation images, each with one or two squares; return its YAML."""
    rng = np.random.default_rng(0)
    for part, number in (("train", count), ("val", 4)):
        for kind in ("images", "labels"):
            (folder / kind / part).mkdir(parents=True)
        for index in range(number):
            image = rng.integers(100, 140, (SIZE, SIZE, 3), dtype=np.uint8)
            lines = []
            for square in range(1 + index % 2):
                kind = (index + square) % len(classes)
                x, y = int(rng.integers(0, 16)), int(rng.integers(0, 16)) + 32 * square
                image[y : y + 16, x : x + 16] = 20 + 200 * kind // max(len(classes) - 1, 1)
                lines.append(f"{kind} {(x + 8) / SIZE} {(y + 8) / SIZE} .25 .25")
            cv2.imwrite(str(folder / f"images/{part}/{index}.png"), image)
            (folder / f"labels/{part}/{index}.txt").write_text("\n".join(lines) + "\n")
    data = folder / "data.yaml"
    data.write_text(f"train: images/train\nval: images/val\nnames: [{', '.join(classes)}]\n")
    return data


TRAINING: dict[str, Any] = {
    "recipe": "quick", "imgsz": SIZE, "batch": 4, "nbs": 4, "epochs": 2, "device": "cpu", "plots": False,
    "cache": False, "warmup_epochs": 0.0, "auto_anchors": False, "verbose": False,
}  # fmt: skip


def training(place: Path, **changes: Any) -> dict[str, Any]:
    """Arguments of a run of seconds on the data and model in `place`, which go to `place/runs`; from a teacher by `attention`."""
    paths = {"model": str(place / "model.yaml"), "data": str(place / "data.yaml"), "project": str(place / "runs")}
    method = {"distill": "attention"} if "teacher" in changes else {}
    return TRAINING | paths | method | changes


def results(folder: Path) -> list[dict[str, float]]:
    """The rows of a run's results.csv; NaN for what was not measured."""
    header, *rows = [line.split(",") for line in (folder / "results.csv").read_text().splitlines()]
    return [dict(zip(header, (float(cell or "nan") for cell in row), strict=True)) for row in rows]
