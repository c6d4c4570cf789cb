"""More than 100 objects of a class, and more than 300 in all, in an image: each counts, in training and in val.py."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from tiny import results, save_tiny, training

import export
import val
from engine.training import trainer
from engine.training.launch import train
from engine.validation import evaluate as evaluation
from engine.validation.evaluate import evaluate
from engine.validation.validator import Validator

SIDE, STEP = 320, 16  # pixels of an image, and from one object to the next: 400 objects
COUNT = (SIDE // STEP) ** 2
STOCK = "nc: 3\nbackbone: [[-1, 1, Conv, [8, 3, 4]], [-1, 1, Conv, [8, 3, 2]]]\nhead: [[[1], 1, Detect, [nc]]]\n"


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """best.pt, and a data set with 400 objects of a class in one image of each part and one in the other."""
    folder = tmp_path_factory.mktemp("crowd")
    rng = np.random.default_rng(0)
    rows = [f"0 {x / SIDE} {y / SIDE} {12 / SIDE} {12 / SIDE}\n" for x in range(8, SIDE, STEP) for y in range(8, SIDE, STEP)]
    for part in ("train", "val"):
        for kind in ("images", "labels"):
            (folder / kind / part).mkdir(parents=True)
        for index, text in enumerate(("".join(rows), "1 .5 .5 .1 .1\n")):
            cv2.imwrite(str(folder / f"images/{part}/{index}.png"), rng.integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8))
            (folder / f"labels/{part}/{index}.txt").write_text(text)
    (folder / "data.yaml").write_text("train: images/train\nval: images/val\nnames: [scratch, pit, patch]\n")
    save_tiny(folder / "best.pt")
    (folder / "model.yaml").write_text(STOCK)
    return folder


class Oracle(Validator):
    """Finds exactly what is labelled, through suppression."""

    def preprocess(self, batch):
        self.labels = super().preprocess(batch)
        return self.labels

    def postprocess(self, preds):
        raw = torch.zeros(len(self.labels["img"]), 4 + 3, COUNT)
        for index in range(len(raw)):
            truth = self._prepare_batch(index, self.labels)
            boxes = truth["bboxes"].reshape(-1, 4)
            raw[index, :4, : len(boxes)] = torch.cat(((boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]), 1).T
            raw[index, 4 + truth["cls"].long(), torch.arange(len(boxes))] = torch.linspace(0.9, 0.5, len(boxes))
        return super().postprocess(raw)


def test_validation_counts_every_object_and_says_so(place, tmp_path, monkeypatch):
    monkeypatch.setattr(evaluation, "Validator", Oracle)
    got = evaluate(place / "best.pt", place / "data.yaml", imgsz=SIDE, device="cpu", plots=False, save_dir=tmp_path / "run")
    for name in ("mAP50", "mAP50-95", "AR_max"):
        assert got["metrics"][name] == pytest.approx(1.0), name
    assert got["per_class"][0]["AR100"] == pytest.approx(100 / COUNT)
    assert got["ultralytics"]["mAP50-95"] == pytest.approx(0.995)
    limits = {"per_class": COUNT, "coco": 100, "per_image": COUNT, "boxes_per_image": COUNT, "boxes_per_class": COUNT}
    assert got["limits"] == limits | {"short_images": 0}
    told = val.table(got)
    assert f"counted: up to {COUNT} detections of a class in an image, {COUNT} in all (COCO's 100 is too few" in told
    assert told.count("CAPPED") == 1 and "CAPPED: AR1, AR10 and AR100 stop at 1, 10 and 100" in told


def test_a_model_that_gives_too_few_is_named(place, tmp_path):
    given = ["--weights", str(place / "best.pt"), "--format", "torchscript", "--nms", "--conf", "0.001", "--max-det", "50"]
    export.main([*given, "--imgsz", str(SIDE), "--no-check", "--out", str(tmp_path)])
    got = evaluate(tmp_path / "best.torchscript", place / "data.yaml", device="cpu", plots=False, save_dir=tmp_path / "run")
    assert (got["limits"]["per_image"], got["limits"]["short_images"]) == (50, 1)
    assert f"CAPPED: 1 images have more boxes (up to {COUNT}) than the 50 that can be found there" in val.table(got)


@pytest.mark.parametrize("model", ["model.yaml", "end2end.yaml"])
def test_validation_in_training_is_not_capped(place, monkeypatch, model):
    (place / "end2end.yaml").write_text("end2end: True\nreg_max: 1\n" + STOCK)
    rooms = []

    class Perfect(Oracle):
        def finalize_metrics(self):
            super().finalize_metrics()
            rooms.append((self.args.max_det, self.short))

        def postprocess(self, preds):
            real = Validator.postprocess(self, preds)  # what the network itself may give
            rooms.append(self.room)
            assert len(real) == len(self.labels["img"])
            self.end2end = False
            return super().postprocess(preds)

    monkeypatch.setattr(trainer, "Validator", Perfect)
    folder = train(training(place, model=str(place / model), imgsz=SIDE, epochs=1, batch=2, name=model))
    assert rooms and all(room in (COUNT, (COUNT, 0)) for room in rooms)
    assert results(folder)[-1]["metrics/mAP50(B)"] == pytest.approx(0.995)
