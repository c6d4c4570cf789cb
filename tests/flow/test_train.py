"""Training from end to end on tiny models: plain runs, options, early stop, NaN losses."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from tiny import results, stock_detector, training, write_data, write_model

import train as command_line
from cfg import UserError, guard
from engine.checkpoint import load_detector, save_student
from engine.training.build import build_detector
from engine.training.info import info
from engine.training.launch import train
from engine.training.trainer import Trainer

from ultralytics.utils.torch_utils import unwrap_model

STOCK_YAML = """nc: 2
backbone: [[-1, 1, Conv, [8, 3, 2]], [-1, 1, Conv, [8, 3, 2]], [-1, 1, Conv, [16, 3, 2]], [-1, 1, Conv, [16, 3, 2]]]
head: [[[2, 3], 1, Detect, [nc]]]
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("train")
    write_data(folder)
    write_model(folder / "model.yaml")
    return folder


@pytest.mark.parametrize("amp", ["fp32", "bf16"])
def test_learns_and_leaves_a_whole_run_folder(place, amp):
    folder = train(training(place, name=f"learns-{amp}", epochs=12, batch=2, nbs=2, lr0=0.01, amp=amp))
    rows = results(folder)
    assert [row["epoch"] for row in rows] == list(range(1, 13))
    assert rows[-1]["train/box_loss"] < 0.8 * rows[0]["train/box_loss"]
    assert rows[-1]["val/obj_loss"] > 0
    assert {"args.yaml", "data.yaml", "results.csv"} <= {path.name for path in folder.iterdir()}
    for name in ("best.pt", "last.pt"):
        content = torch.load(folder / "weights" / name, weights_only=True)
        assert content["format"] == "tandem-detector" and content["names"] == {0: "dark", 1: "bright"}


def test_same_seed_same_run(place):
    first, second = (results(train(training(place, name=name, mosaic=1.0))) for name in ("one", "two"))
    for row in (*first, *second):
        row.pop("time")
    assert first == second


@pytest.mark.parametrize(
    "options",
    [
        {"multi_scale": 0.5, "cos_lr": False}, {"rect": True, "save_period": 1}, {"single_cls": True, "channels_last": False},
        {"fraction": 0.5, "amp": False}, {"batch": -1}, {"channels_last": True, "amp": "bf16"}, {"val": False, "cache": "ram"},
        {"optimizer": "SGD", "auto_anchors": True}, {"optimizer": "auto", "nbs": 16, "warmup_epochs": 1.0},
        {"optimizer": "MuSGD", "mosaic": 1.0, "mixup": 0.5, "close_mosaic": 1}, {"model": "stock.yaml", "cls_pw": 0.5},
    ],
    ids=lambda options: ",".join(options),
)  # fmt: skip
def test_options(place, monkeypatch, options):
    monkeypatch.chdir(place)
    Path("stock.yaml").write_text(STOCK_YAML)
    folder = train(training(place, name="options", **options))
    rows = results(folder)
    assert len(rows) == 2
    measured = [row["metrics/mAP50(B)"] == row["metrics/mAP50(B)"] for row in rows]  # NaN where the field is empty
    assert measured == [options.get("val", True), True]
    detector, _ = load_detector(folder / "weights/best.pt")
    assert detector.names == ({0: "item"} if "single_cls" in options else {0: "dark", 1: "bright"})


@pytest.mark.parametrize(
    ("amp", "said", "kept"), [(True, "1", "bf16"), (True, "0", "fp32"), ("bf16", "0", "bf16"), (False, "1", "fp32")]
)
def test_the_arithmetic_is_a_setting_that_is_said_and_kept(place, monkeypatch, caplog, amp, said, kept):
    monkeypatch.setenv("TANDEM_BF16", said)
    with caplog.at_level("INFO"):
        folder = train(training(place, name="arithmetic", epochs=1, amp=amp, exist_ok=True))
    assert f"forward pass in {'bfloat16' if kept == 'bf16' else 'float32'}" in caplog.text
    assert f"\namp: {kept}\n" in (folder / "args.yaml").read_text()
    assert torch.load(folder / "weights/best.pt", weights_only=True)["meta"]["train_args"]["amp"] == kept


def test_a_wrong_switch_of_the_arithmetic_starts_nothing(place, monkeypatch):
    monkeypatch.setenv("TANDEM_BF16", "maybe")
    with pytest.raises(UserError, match="TANDEM_BF16=maybe: expected 1"):
        train(training(place, name="maybe"))
    assert not (place / "runs/maybe").exists()


def test_image_size_is_rounded_up_and_said(place, caplog):
    with caplog.at_level("WARNING"):
        folder = train(training(place, name="round", imgsz=70, epochs=1))
    assert "imgsz=[70] must be multiple of max stride 32, updating to [96]" in caplog.text
    _, content = load_detector(folder / "weights/best.pt")
    assert content["meta"]["train_args"]["imgsz"] == 96


@pytest.mark.parametrize("optimizer", ["AdamW", "SGD", "MuSGD"])
def test_learned_weights_of_the_terms_are_not_decayed(place, monkeypatch, optimizer):
    seen = {}
    original = Trainer.final_eval

    def final_eval(self):
        parameter = unwrap_model(self.model).weights.log_variances
        groups = [g for g in self.optimizer.param_groups if any(p is parameter for p in g["params"])]
        seen.update(groups=groups, moved=parameter.detach().abs().max().item())
        seen["total"] = sum(len(g["params"]) for g in self.optimizer.param_groups) - len(list(self.model.parameters()))
        original(self)

    monkeypatch.setattr(Trainer, "final_eval", final_eval)
    given = training(place, name=f"learned-{optimizer}", epochs=1, adaptive="uncertainty", optimizer=optimizer)
    train(given | {"teacher": given["model"], "exist_ok": True})
    (group,) = seen["groups"]
    assert group["weight_decay"] == 0 and group["param_group"] == "bn" and seen["total"] == 0 and seen["moved"] > 0


def test_steps_are_counted_anew_after_memory_ran_out(place, monkeypatch):
    seen, original = [], Trainer.preprocess_batch

    def preprocess_batch(self, batch):
        seen.append(unwrap_model(self.model).progress)
        if len(seen) == 2:
            raise RuntimeError("CUDA out of memory")
        return original(self, batch)

    monkeypatch.setattr(Trainer, "preprocess_batch", preprocess_batch)
    train(training(place, name="memory", batch=4, epochs=2))
    assert seen == [0, 1 / 4, *(step / 8 for step in range(8))]  # 8 images: 2 steps of 4, then 4 steps of 2 an epoch


def test_freeze_holds_the_first_layers(place):
    before = train(training(place, name="before", epochs=1)) / "weights/best.pt"
    after = train(training(place, name="frozen", weights=str(before), freeze=2, lr0=0.01)) / "weights/best.pt"
    old, new = (load_detector(path)[0].state_dict() for path in (before, after))
    changed = {name.split(".")[1] for name in old if not torch.equal(old[name], new[name])}
    assert changed == {"2", "3", "4"}


def test_starts_from_weights_and_says_how_many_fit(place, caplog):
    path = place / "stock.pt"
    save_student(path, stock_detector(), {})
    (place / "stock3.yaml").write_text(STOCK_YAML)
    with caplog.at_level("INFO"):
        train(training(place, name="stock", model=str(place / "stock3.yaml"), pretrained=str(path), epochs=1))
    assert "tensors of the weights" in caplog.text
    with pytest.raises(UserError, match=r"stock\.pt: no tensor fits"):
        torch.save({"other": torch.ones(1)}, place / "stock.pt")
        train(training(place, weights=str(path)))


def test_early_stop(place, monkeypatch):
    from engine.training.trainer import Trainer

    original = Trainer.validate

    def worse_every_epoch(self):
        metrics, _ = original(self)
        fitness = 1 / (self.epoch + 1)
        self.best_fitness = max(self.best_fitness, fitness)
        return metrics, fitness

    monkeypatch.setattr(Trainer, "validate", worse_every_epoch)
    folder = train(training(place, name="patience", epochs=20, patience=2))
    assert len(results(folder)) == 3
    assert torch.load(folder / "weights/best.pt", weights_only=True)["meta"]["epoch"] == 0


def test_time_limit(place):
    folder = train(training(place, name="time", epochs=500, time=1.5 / 3600))
    assert 1 <= len(results(folder)) < 500 and (folder / "weights/best.pt").exists()


def test_nan_loss_stops_with_term_epoch_and_step(place, monkeypatch, capsys):
    options = training(place, name="nan", epochs=5, batch=2)
    tokens = [f"{name}={value}" for name, value in options.items()]
    from distill.model import TrainingModel

    original, calls = TrainingModel.loss, []

    def poisoned(self, batch, preds=None):
        calls.append(self.training)
        if self.training and sum(calls) == 7:  # 4 steps an epoch: the 3rd of the 2nd
            next(self.student.model[-1].parameters()).data.fill_(float("nan"))
        return original(self, batch, preds)

    monkeypatch.setattr(TrainingModel, "loss", poisoned)
    monkeypatch.setattr(sys, "argv", ["train.py", *tokens])
    assert guard(command_line.main) == 2
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(error) == 1 and "'box_loss' is not finite (epoch 2, step 3)" in error[0] and "last.pt" in error[0]
    for name in ("last.pt", "best.pt"):
        detector, content = load_detector(place / "runs/nan/weights" / name)
        assert content["meta"]["epoch"] == 0
        assert all(value.isfinite().all() for value in detector.state_dict().values())


def test_weights_that_are_not_finite_are_never_saved(place, monkeypatch):
    from engine.training.trainer import Trainer

    original = Trainer.save_metrics

    def poison(self, metrics):
        original(self, metrics)
        if self.epoch == 1:
            next(self.model.parameters()).data.fill_(float("inf"))

    monkeypatch.setattr(Trainer, "save_metrics", poison)
    with pytest.raises(UserError, match=r"parameter 'student\.model\.0\.conv\.weight' is not finite \(epoch 2"):
        train(training(place, name="inf", epochs=3))
    assert torch.load(place / "runs/inf/weights/last.pt", weights_only=True)["meta"]["epoch"] == 0


def test_info_prints_without_training(place):
    text = info({"model": str(place / "model.yaml"), "imgsz": 64})
    parameters = sum(p.numel() for p in build_detector(place / "model.yaml").parameters())
    assert f"{parameters:,} parameters" in text and not (place / "runs/info").exists()
    assert "strides [8, 16]" in text and "GFLOPs at 64 px" in text


@pytest.mark.parametrize(("options", "images", "boxes"), [({"single_cls": True}, 8, 12), ({"fraction": 0.5}, 4, 6), ({"fraction": 3}, 3, 4),
                                                          ({"classes": [1]}, 8, 4)])  # fmt: skip
def test_what_part_of_the_data_is_trained_on(place, options, images, boxes):
    from data import resolve
    from engine.dataset import Dataset

    from ultralytics.cfg import get_cfg

    hyp = get_cfg(overrides={"mosaic": 0.0})
    data = resolve(place / "data.yaml") | {"channels": 3}
    data |= {"names": {0: "item"}} if "single_cls" in options else {}
    dataset = Dataset(img_path=data["train"], data=data, hyp=hyp, imgsz=64, augment=False, prefix="train: ", **options)
    assert len(dataset) == images and sum(len(label["cls"]) for label in dataset.labels) == boxes
    assert not options.get("single_cls") or not any(label["cls"].any() for label in dataset.labels)
    assert not dataset.reading.left_out and dataset[0]["img"].shape == (3, 64, 64)
