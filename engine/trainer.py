"""Training: ultralytics' loop with our networks, checkpoints, resume and CPU speed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import models.environment  # noqa: F401  (before ultralytics)
import torch
import torch.distributed as dist
import yaml
from torch import nn
from ultralytics.cfg import DEFAULT_CFG_DICT
from ultralytics.models.yolo.detect import DetectionTrainer
from ultralytics.utils import LOGGER, RANK
from ultralytics.utils.torch_utils import ModelEMA, unwrap_model

from cfg import UserError
from data import resolve
from distill.model import NonFiniteLoss, TrainingModel
from engine.build import Networks
from engine.checkpoint import RUN, pack, save_atomic, save_student
from engine.host import cpu_data_parallel, has_fast_bfloat16, use_all_cores
from engine.report import TensorBoard, plot_weights, trim_results
from engine.settings import OWN_DEFAULTS
from engine.validator import Validator
from models.anchors import best_possible_recall, fit_anchors

ENOUGH_RECALL = 0.98  # below it the anchors are refitted (YOLOv5's threshold)


class Trainer(DetectionTrainer):
    """One training run, with or without a teacher, on one device or several.

    Differs from ultralytics' trainer in what it trains (`TrainingModel`), in checkpoints (plain data; `last.pt` holds the
    live weights too, so that a resumed run continues exactly), and in using a CPU fully (threads, bfloat16, channels_last).

    Args:
        settings: complete arguments (`engine.settings.complete`).
        networks: what `build_networks` made of them.
        checkpoint: content of `last.pt` when the run is resumed.
    """

    def __init__(self, settings: dict[str, Any], networks: Networks, checkpoint: dict[str, Any] | None = None) -> None:
        self.networks, self.checkpoint = networks, checkpoint
        # Our own keys must be in the base configuration: as overrides, ultralytics refuses what it does not know.
        super().__init__(DEFAULT_CFG_DICT | OWN_DEFAULTS, settings)
        if dist.is_initialized():
            self.world_size = dist.get_world_size()
        use_all_cores()
        self.add_callback("on_train_batch_start", Trainer._note_progress)
        self.add_callback("on_train_epoch_end", Trainer._adapt_weights)
        if self.args.tensorboard and RANK in {-1, 0}:
            self.add_callback("on_fit_epoch_end", TensorBoard(self.save_dir))
        self.batches_seen = 0

    # -- set-up ---------------------------------------------------------------------------------------------------------

    def check_resume(self, overrides: dict[str, Any]) -> None:
        """The arguments of a resumed run were completed before; only note that it is one."""
        self.resume = self.checkpoint is not None

    def get_dataset(self) -> dict[str, Any]:
        """Write the data YAML with absolute paths to the run folder and read the data set from there."""
        target = self.save_dir / "data.yaml"
        target.parent.mkdir(parents=True, exist_ok=True)
        part = target.with_name(f".data.{os.getpid()}.yaml")
        part.write_text(yaml.safe_dump(resolve(self.args.data), sort_keys=False, allow_unicode=True), encoding="utf-8")
        os.replace(part, target)
        self.args.data = str(target)
        return super().get_dataset()

    def setup_model(self) -> dict[str, Any] | None:
        """Wrap the student for training; return the checkpoint of a resumed run."""
        networks = self.networks
        model = TrainingModel(networks.student, networks.distiller, networks.teacher, self.args.adaptive)
        on_cpu = self.device.type == "cpu"
        model.bfloat16_cpu = on_cpu and self.args.amp not in {False, "fp32"} and has_fast_bfloat16()
        model.channels_last = self.args.channels_last is not False
        if model.channels_last:
            model.to(memory_format=torch.channels_last)
        if self.checkpoint:
            model.load_state_dict(self.checkpoint["run"]["live"])
        self.model = model
        if RANK in {-1, 0}:
            self._print_header(model)
        return self.checkpoint

    def _print_header(self, model: TrainingModel) -> None:
        precision = "bfloat16" if model.bfloat16_cpu else "float32" if self.device.type == "cpu" else f"amp={self.args.amp}"
        LOGGER.info(f"student: {self.args.model}, {model.spec.nc} classes, strides {model.spec.strides}")
        for note in self.networks.notes or ["distillation: off (give --teacher t.pt to switch it on)"]:
            LOGGER.info(note)
        LOGGER.info(f"forward pass in {precision}, {torch.get_num_threads()} threads")

    def set_model_attributes(self) -> None:
        """Tell the model its class names and the loss its arguments."""
        super().set_model_attributes()
        student = unwrap_model(self.model).student
        student.nc, student.names, student.args = self.data["nc"], self.data["names"], self.args

    def set_class_weights(self) -> None:
        """Class weights belong to ultralytics' own loss; ours balances classes by its focal factor."""
        if self.args.cls_pw and hasattr(unwrap_model(self.model).student, "level_attention"):
            raise UserError("cls_pw: the anchor heads' quality focal loss takes no class weights; leave cls_pw out")
        super().set_class_weights()
        model = unwrap_model(self.model)
        if hasattr(model, "class_weights"):
            model.student.class_weights = model.class_weights

    def _setup_ddp(self) -> None:
        """The process group exists already (`engine.launch`); pick this process's device."""
        if self.device.type != "cpu":
            devices = str(self.args.device).split(":")[-1].split(",")
            self.device = torch.device("cuda", int(devices[int(os.environ["LOCAL_RANK"])]))
            torch.cuda.set_device(self.device)

    def _setup_train(self) -> None:
        with cpu_data_parallel():
            super()._setup_train()

    def _build_train_pipeline(self) -> None:
        """Build the loaders, and fit the anchors to the boxes they give."""
        super()._build_train_pipeline()
        head = unwrap_model(self.model).student.model[-1]
        if self.args.auto_anchors and not self.resume and hasattr(head, "anchor_wh"):
            self._fit_anchors(head)

    def _fit_anchors(self, head: nn.Module) -> None:
        """Print the anchors' best possible recall at the training size; refit them when it is low."""
        dataset = self.train_loader.dataset
        sizes = [label["bboxes"][:, 2:] * self._shown_wh(label["shape"]) for label in dataset.labels]
        wh = torch.cat([torch.as_tensor(size, dtype=torch.float64).reshape(-1, 2) for size in sizes])
        recall, matched = best_possible_recall(wh, head.anchor_wh.cpu())
        note = f"anchors: best possible recall {recall:.3f}, {matched:.2f} anchors per box"
        if recall < ENOUGH_RECALL:
            fitted = torch.as_tensor(fit_anchors(wh, head.nl, head.na, generations=300), dtype=torch.float32)
            after, matched = best_possible_recall(wh, fitted)
            if after > recall:
                head.anchor_wh.copy_(fitted)
                note += f"; refitted by k-means: {after:.3f}, {matched:.2f} anchors per box"
        student = unwrap_model(self.model).student
        student.yaml["anchors"] = [[round(float(v), 2) for v in level.flatten()] for level in head.anchor_wh]
        if RANK in {-1, 0}:
            LOGGER.info(note)

    def _shown_wh(self, shape_hw: tuple[int, int]) -> torch.Tensor:
        """Width and height in pixels of an image of this shape once its longer side is the training size."""
        scale = self.args.imgsz / max(shape_hw)
        return torch.tensor([shape_hw[1] * scale, shape_hw[0] * scale], dtype=torch.float64).numpy()

    def get_validator(self) -> Validator:
        """Validation within the run, ultralytics' metrics on the EMA weights."""
        return Validator(self.test_loader, save_dir=self.save_dir, args=self.args, _callbacks=self.callbacks)

    # -- the loop -------------------------------------------------------------------------------------------------------

    def _do_train(self) -> None:
        try:
            super()._do_train()
        except NonFiniteLoss as error:
            step = self.batches_seen % len(self.train_loader) or len(self.train_loader)
            kept = f"the last good checkpoint is {self.last}" if self.last.exists() else "no checkpoint was written yet"
            raise UserError(
                f"{error} (epoch {self.epoch + 1}, step {step}): expected finite losses; lower --lr0, use --amp False or "
                f"check the labels; {kept}"
            ) from error

    def _note_progress(self) -> None:
        """Before a batch: tell methods with a schedule how far the run is."""
        steps = len(self.train_loader)
        position = self.batches_seen % steps
        unwrap_model(self.model).progress = (self.epoch + position / steps) / self.epochs
        self.batches_seen += 1

    def _adapt_weights(self) -> None:
        """After an epoch: new weights from its mean losses, the same on every process."""
        model = unwrap_model(self.model)
        if model.weights is None:
            return
        means = torch.stack([v.float() for v in self.tloss.values()])
        if dist.is_initialized():
            dist.all_reduce(means)
            means /= self.world_size
        model.end_epoch(dict(zip(self.tloss, means.tolist())))
        if self.ema:  # the average of weights over an epoch is no weight anyone used
            self.ema.ema.weights.load_state_dict(model.weights.state_dict())

    def _handle_nan_recovery(self, epoch: int) -> bool:
        """Never: a loss that is not finite has stopped the run already, with its name."""
        return False

    def save_metrics(self, metrics: dict[str, float]) -> None:
        """Append to results.csv; the terms' weights get columns of their own, once."""
        renamed = {k.replace("train/w_", "weight/"): v for k, v in metrics.items() if not k.startswith("val/w_")}
        super().save_metrics(renamed)

    def plot_metrics(self) -> None:
        """results.png as ultralytics draws it, and the weights over epochs."""
        super().plot_metrics()
        plot_weights(self.csv, self.save_dir / "weights.png")

    # -- checkpoints ----------------------------------------------------------------------------------------------------

    def save_model(self) -> bool:
        """Write last.pt (everything a resumed run needs) and, when this epoch is the best so far, best.pt (the student)."""
        student = self.ema.ema.student
        meta = {
            "train_args": {k: v for k, v in vars(self.args).items()},
            "epoch": self.epoch,
            "metrics": {k: float(v) for k, v in self.metrics.items()} | {"fitness": float(self.fitness or 0.0)},
        }
        self.wdir.mkdir(parents=True, exist_ok=True)
        if self.best_fitness == self.fitness:
            save_student(self.best, student, meta)
        if self.save_period > 0 and self.epoch % self.save_period == 0:
            save_student(self.wdir / f"epoch{self.epoch}.pt", student, meta)
        save_atomic(self.last, pack(student, meta, RUN) | {"run": self._run_state()})
        return True

    def _run_state(self) -> dict[str, Any]:
        averaged = {k: v for k, v in self.ema.ema.state_dict().items() if not k.startswith("student.")}
        return {
            "epoch": self.epoch,
            "live": unwrap_model(self.model).state_dict(),
            "averaged": averaged,  # the student's part is the checkpoint's own `state`
            "updates": self.ema.updates,
            "optimizer": self.optimizer.state_dict(),
            "scaler": self.scaler.state_dict(),
            "best_fitness": self.best_fitness,
            "stopper": {"best_fitness": self.stopper.best_fitness, "best_epoch": self.stopper.best_epoch},
        }

    def resume_training(self, ckpt: dict[str, Any] | None) -> None:
        """Continue epochs, optimiser, distiller, adaptive weights and EMA where last.pt left them."""
        if ckpt is None:
            return
        run = ckpt["run"]
        self.optimizer.load_state_dict(run["optimizer"])
        self.scaler.load_state_dict(run["scaler"])
        self.ema = ModelEMA(self.model, updates=run["updates"])
        student = {f"student.{k}": v for k, v in ckpt["state"].items()}
        self.ema.ema.load_state_dict(student | run["averaged"])
        self.best_fitness = run["best_fitness"]
        self.stopper.__dict__.update(run["stopper"])
        self.start_epoch = run["epoch"] + 1
        self.batches_seen = self.start_epoch * len(self.train_loader)
        criterion = unwrap_model(self.model).student.init_criterion()
        if hasattr(criterion, "update"):  # an end-to-end head's two losses shift their balance over epochs
            criterion.updates = self.start_epoch - 1
            criterion.update()
        unwrap_model(self.model).student.criterion = criterion
        if RANK in {-1, 0}:
            trim_results(self.csv, self.start_epoch)
            LOGGER.info(f"Resuming {self.args.model} from epoch {self.start_epoch + 1} of {self.epochs}")

    def final_eval(self) -> None:
        """Keep the student alone in last.pt too, and validate best.pt."""
        if RANK in {-1, 0}:
            student = self.ema.ema.student
            save_student(self.last, student, {"train_args": vars(self.args), "epoch": self.epoch})
        if dist.is_initialized():
            return  # the launcher validates in a process of its own: here the host's validator would wait for all ranks
        if self.best.exists():
            LOGGER.info(f"\nValidating {self.best}...")
            self.validator.args.plots = self.args.plots
            self.metrics = self.validator(model=self.best)
            self.metrics.pop("fitness", None)
            self.epoch += 1  # loggers get the best epoch's figures as one more step
            self.run_callbacks("on_fit_epoch_end")
            self.epoch -= 1
