"""Whole runs with draws by class and pasted defects: what is trained on, what stays as it was, and resuming."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny import results, training, write_data, write_model

from engine.training.launch import train
from engine.training.trainer import Trainer

RARE = {"repeat_threshold": 0.5, "background_share": 0.5, "min_steps": 3, "paste": 0.8}
GOOD = 9  # of 12 training images


class Killed(BaseException):
    """Ends a run where it stands: nothing in it catches this."""


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """Twelve training images, three of them with squares."""
    folder = tmp_path_factory.mktemp("rare")
    write_data(folder, count=12)
    write_model(folder / "model.yaml", width=8)
    for index in range(GOOD):
        (folder / f"labels/train/{index}.txt").unlink()
    return folder


def watched(options: dict) -> tuple[Path, list[tuple[int, int, int]]]:
    """Train; return the run folder, and of every batch the images, those with boxes, and the boxes."""
    seen: list[tuple[int, int, int]] = []
    original = Trainer.preprocess_batch

    def preprocess_batch(self, batch):
        seen.append((len(batch["img"]), len(batch["batch_idx"].unique()), len(batch["cls"])))
        return original(self, batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Trainer, "preprocess_batch", preprocess_batch)
        return train(options), seen


def test_an_epoch_has_its_steps_and_share(place):
    options = training(place, name="share", epochs=1, val=False, background_share=0.25, min_steps=5)
    _, seen = watched(options)
    images, filled, _ = np.array(seen).sum(0)
    assert len(seen) == 5 and images == 20 and filled == 15


def test_plain_runs_are_as_before(place):
    _, seen = watched(training(place, name="plain", epochs=1, val=False))
    images, filled, boxes = np.array(seen).sum(0)
    assert (images, filled) == (12, 12 - GOOD) and boxes == sum(
        len((place / f"labels/train/{i}.txt").read_text().splitlines()) for i in range(GOOD, 12)
    )


def test_defects_are_pasted_onto_good_parts_and_files_stay(place):
    def digests():
        return {p: hashlib.sha256(p.read_bytes()).digest() for kind in ("images", "labels")
                for p in sorted((place / kind).rglob("*")) if p.suffix in (".png", ".txt")}  # fmt: skip

    before = digests()
    _, seen = watched(training(place, name="paste", epochs=1, val=False, paste=1.0, cache="ram", scale=0.0, translate=0.0))
    images, filled, boxes = np.array(seen).sum(0)
    assert images == 12 and filled > 2 * (12 - GOOD) and boxes > filled
    assert digests() == before


def test_a_resumed_run_equals_an_uninterrupted_one(place, monkeypatch):
    options = training(place, epochs=3, lr0=0.01, mosaic=0.5, **RARE)
    whole = train(options | {"name": "whole"})
    original = Trainer.save_model

    def save_model(self):
        original(self)
        if self.epoch == 0:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "save_model", save_model)
        with pytest.raises(Killed):
            train(options | {"name": "parts"})
    parts = train({"resume": str(place / "runs/parts/weights/last.pt")})
    rows = [[{k: v for k, v in row.items() if k != "time"} for row in results(folder)] for folder in (whole, parts)]
    assert rows[0] == rows[1] and len(rows[0]) == 3
    states = [torch.load(folder / "weights/last.pt", weights_only=True)["state"] for folder in (whole, parts)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_every_image_good_but_one(tmp_path):
    write_data(tmp_path, count=3)
    write_model(tmp_path / "model.yaml", width=8)
    for index in (0, 1):
        (tmp_path / f"labels/train/{index}.txt").unlink()
    folder = train(training(tmp_path, name="one", recipe="rare", epochs=1, min_steps=2))
    assert (folder / "weights/best.pt").exists()


def test_one_image_without_good_ones(tmp_path):
    write_data(tmp_path, count=1)
    write_model(tmp_path / "model.yaml", width=8)
    _, seen = watched(training(tmp_path, name="one", recipe="rare", epochs=1, min_steps=2, val=False))
    assert [images for images, *_ in seen] == [4, 4]  # full batches from one image
