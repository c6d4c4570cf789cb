"""What trains a student's backbone and neck when most images have no object: the gradients of the loss terms, and of objectness by its cells.

    python -m benchmarks.scarce.gradients --data datasets/line --imgsz 128

Prints the norm of each gradient at the parameters of backbone and neck, and its share of the whole gradient (the projection on it),
as means over batches of the training part. Objectness is divided into the cells that answer for a box, the other cells of images
with objects, and all cells of images without. The loss is that with separate terms of objectness and class (`score: apart`).
"""

from __future__ import annotations

import argparse
import sys
from types import SimpleNamespace
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor, nn

from cfg import guard
from data import resolve
from data.dataset import part_paths
from data.images import read_pixels
from data.reader import Sample, read_images
from engine.settings import Settings, complete
from engine.training.build import build_networks
from models.losses.anchor import AnchorLoss
from models.losses.qfocal import quality_focal

WHOLE = ("box_loss", "obj_loss", "cls_loss")


def make_batch(samples: list[Sample], imgsz: int) -> dict[str, Tensor]:
    """Images (B, 3, imgsz, imgsz), stretched to squares, and their labels, as the losses take them."""
    images = [cv2.resize(read_pixels(sample.image), (imgsz, imgsz))[..., ::-1] for sample in samples]
    rows = np.concatenate([np.column_stack([np.full(len(s.rows), i), s.rows]) for i, s in enumerate(samples)])
    labels = torch.as_tensor(rows, dtype=torch.float32)
    pixels = torch.as_tensor(np.stack(images).transpose(0, 3, 1, 2) / 255, dtype=torch.float32)
    return {"img": pixels, "batch_idx": labels[:, 0], "cls": labels[:, 1:2], "bboxes": labels[:, 2:]}


def objectness_parts(loss: AnchorLoss, raw: dict[str, Any], batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """The objectness loss, gain included, of the cells that answer for a box, of the others beside them, and of empty images."""
    assignment, preds = loss.assign(raw, batch), [p.float() for p in raw["preds"]]
    matched = [p[a.image, a.anchor, a.row, a.column] for p, a in zip(preds, assignment)]
    filled = torch.zeros(len(batch["img"]), dtype=torch.bool).index_fill(0, batch["batch_idx"].long(), True)[:, None, None, None]
    gain = loss._scaled_gains(batch["img"].shape[-2:])["obj_loss"]
    parts = {"cells of boxes": 0.0, "their images' others": 0.0, "empty images": 0.0}
    weights = loss.gains.level_balance(loss.head.pixels_per_cell)
    for pred, level, error, weight in zip(preds, assignment, loss._box_errors(matched, assignment), weights):
        logits = pred[..., 4]
        where = level.image, level.anchor, level.row, level.column
        answers = torch.zeros_like(logits, dtype=torch.bool).index_put(where, torch.tensor(True))
        target = torch.zeros_like(logits).index_put(where, (1 - error.detach()).clamp(0, 1))
        cells = quality_focal(logits, target, loss.alpha, loss.beta) * weight * gain / logits.numel()
        for name, mask in zip(parts, (answers, ~answers & filled, ~answers & ~filled)):
            parts[name] = parts[name] + (cells * mask).sum()
    return parts


def gradient(value: Tensor, parameters: list[Tensor]) -> Tensor:
    """The gradient of a 0-d tensor, flat."""
    parts = torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True)
    return torch.cat([part.flatten() for part in parts if part is not None])


def measure(student: nn.Module, batches: list[dict[str, Tensor]]) -> dict[str, tuple[float, float]]:
    """Norm, and share of the whole gradient, of every term and part, as means over batches."""
    head = student.model[-1]
    trunk = [p for name, p in student.named_parameters() if not name.startswith(f"model.{head.i}.")]
    loss, found = head.loss(score="apart", gains={"cls": 4.0}), {}
    for batch in batches:
        raw = student(batch["img"])
        terms = loss(raw, batch) | objectness_parts(loss, raw, batch)
        gradients = {name: gradient(value, trunk) for name, value in terms.items()}
        total = sum(gradients[name] for name in WHOLE)
        for name, one in gradients.items():
            found.setdefault(name, []).append((one.norm().item(), (one @ total / (total @ total)).item()))
    return {name: tuple(np.mean(values, 0)) for name, values in found.items()}


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scarce.gradients", description=__doc__.split("\n\n")[0])
    parser.add_argument("--data", required=True, help="data YAML")
    parser.add_argument("--cfg", default="s-model-fast.yaml", help="model of an anchor head (default: s-model-fast.yaml)")
    parser.add_argument("--imgsz", type=int, default=128, help="pixels (default: 128)")
    parser.add_argument("--batches", type=int, default=6, help="of 16 images (default: 6)")
    given = parser.parse_args()
    content = resolve(given.data)
    settings = Settings.of(complete({"model": given.cfg, "data": given.data, "recipe": "quick"}))
    student = build_networks(settings, content["nc"], content["names"]).student.train()
    student.args = SimpleNamespace()
    samples = read_images(part_paths(content, "train"), content["nc"]).samples
    rng = np.random.default_rng(0)
    drawn = [[samples[i] for i in rng.choice(len(samples), 16, replace=False)] for _ in range(given.batches)]
    empty = np.mean([not len(sample.rows) for batch in drawn for sample in batch])
    print(f"{empty:.0%} of the images drawn have no object\n{'':<24}{'norm':>10}{'share':>8}")
    for name, (norm, share) in measure(student, [make_batch(batch, given.imgsz) for batch in drawn]).items():
        print(f"{name:<24}{norm:>10.4f}{share:>8.0%}")
    return 0


if __name__ == "__main__":
    sys.exit(guard(main))
