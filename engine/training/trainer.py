"""Training: ultralytics' loop with our networks, checkpoints, resume and CPU speed."""

from __future__ import annotations

import math
import os
import time
from typing import Any

import torch
import torch.distributed as dist
import yaml
from torch import nn

from cfg import UserError
from data import data_yaml, first_shape, resolve
from distill.model import NonFiniteLoss, TrainingModel
from engine.checkpoint import RUN, pack, save_student
from engine.console import console
from engine.dataset import record_left_out, use_own_data
from engine.host import cpu_data_parallel, no_amp_probe, use_all_cores, without_decay
from engine.host_plots import shield_plots
from engine.plain import save_atomic
from engine.precision import described
from engine.settings import OWN_DEFAULTS, Settings
from engine.start.race import settle_start
from engine.start.selection import START_TABLE
from engine.training.build import Networks, fit_to_labels, small_boxes_note
from engine.training.console import table_head, table_row
from engine.training.draws import Draws, balanced, draws_note
from engine.training.dynamic_teacher import save_dynamic_teacher
from engine.training.repeat import put_gradients, seed_epoch
from engine.training.report import TensorBoard, append_results, column, header, heading, plot_results, plot_weights
from engine.training.run_state import misfit, restore, run_state
from engine.training.summary import log_summary
from engine.validation.validator import Validator

from ultralytics.cfg import DEFAULT_CFG_DICT
from ultralytics.data.build import InfiniteDataLoader
from ultralytics.models.yolo.detect import DetectionTrainer
from ultralytics.utils import LOGGER, RANK
from ultralytics.utils.torch_utils import unwrap_model

DATA_COMPLAINTS = ("No labels found", "final batch=1")  # ultralytics' words


class Trainer(DetectionTrainer):
    """One training run, with or without a teacher, on one device or several.

    Differs from ultralytics' trainer in what it trains (`TrainingModel`), in checkpoints (plain data; `last.pt` holds
    the live weights too, and all that a resumed run needs to end as if it had not been interrupted), and in using a CPU
    fully (threads, bfloat16, channels_last).

    Args:
        settings: of the run; on a CPU, `amp` is bf16 or fp32
            (`engine.precision.training_precision`).
        networks: what `build_networks` made of them.
        checkpoint: content of `last.pt` when the run is resumed.
    """

    device: torch.device  # these are ultralytics'
    accumulate: int
    best_fitness: float | None

    def __init__(self, settings: Settings, networks: Networks, checkpoint: dict[str, Any] | None = None) -> None:
        self.settings, self.networks, self.checkpoint = settings, networks, checkpoint
        self.batches_seen = self.waiting = 0  # of all batches; of those whose gradients wait for the optimiser's next step
        self.measured = False  # whether this epoch has been validated
        self.labelled: dict[str, dict[str, float]] = {}  # the last loss items by part of the data set
        # Our own keys must be in the base configuration: as overrides, ultralytics refuses what it does not know.
        use_all_cores()
        use_own_data()
        shield_plots()
        with console(settings.run.verbose, str):
            super().__init__(DEFAULT_CFG_DICT | OWN_DEFAULTS, settings.flat())
        if dist.is_initialized():
            self.world_size = dist.get_world_size()
        self.amp_kept = self.args.amp  # in checkpoints: a resumed run goes on in the same arithmetic
        if self.device.type == "cpu":  # ultralytics refuses bf16 and warns of channels_last there; both are ours
            self.args.amp = False
            self.args.channels_last = self.args.channels_last is not False and None
        self.add_callback("on_train_epoch_start", Trainer._start_epoch)
        self.add_callback("on_train_batch_start", Trainer._note_progress)
        self.add_callback("on_train_batch_end", Trainer._step_late)
        self.add_callback("on_train_epoch_end", Trainer._adapt_weights)
        if settings.run.tensorboard and RANK in {-1, 0}:
            self.add_callback("on_fit_epoch_end", TensorBoard(self.save_dir))

    # -- set-up --------------------------------------------------------------------------------------------------------

    def check_resume(self, overrides: dict[str, Any]) -> None:
        """The arguments of a resumed run were completed before; only note that it is one."""
        self.resume = self.checkpoint is not None

    def get_dataset(self) -> dict[str, Any]:
        """Write the data YAML with absolute paths to the run folder and read the data set from there."""
        target = self.save_dir / "data.yaml"
        target.parent.mkdir(parents=True, exist_ok=True)
        own = self.checkpoint is not None or self.settings.data.unlabelled  # then that of the run is read
        if not own and target.exists() and target.samefile(data_yaml(self.args.data)):
            raise UserError(f"--save-dir {self.save_dir}: expected a folder of its own, got that of --data, whose data.yaml it would replace")
        part = target.with_name(f".data.{os.getpid()}.yaml")
        part.write_text(yaml.safe_dump(resolve(self.args.data), sort_keys=False, allow_unicode=True), encoding="utf-8")
        os.replace(part, target)
        self.args.data = str(target)
        data: dict[str, Any] = super().get_dataset()
        return data

    def setup_model(self) -> dict[str, Any] | None:
        """Wrap the student for training; return the checkpoint of a resumed run."""
        networks = self.networks
        if networks.distiller is not None:
            networks.distiller.prepare(*self._input_hw())
        model = self.make_model()
        on_cpu = self.device.type == "cpu"
        model.bfloat16_cpu = on_cpu and self.amp_kept == "bf16"
        model.channels_last = self.args.channels_last is not False and self.device.type in {"cpu", "cuda"}
        if model.channels_last:
            model.to(memory_format=torch.channels_last)
        if self.checkpoint:
            self._load_live(model, self.checkpoint["run"]["live"])
        model.__dict__["student_model"] = model.student  # where ultralytics looks for the head; no second child
        self.model = model
        if RANK in {-1, 0}:
            precision = described(self.amp_kept, on_cpu, self.resume)
            lines = header(self.args.model, model.spec, self.networks.notes, precision)
            LOGGER.info("\n".join([*lines, *self._start_table()]))
        return self.checkpoint

    def _start_table(self) -> list[str]:
        """What each block started from: a file of the run, and lines of its head with `--verbose`."""
        table = self.networks.table
        if table:
            (self.save_dir / START_TABLE).write_text("\n".join(table) + "\n", encoding="utf-8")
        return table if self.settings.run.verbose else []

    def make_model(self) -> TrainingModel:
        """What is optimised: the student, the distiller and the weights of the terms."""
        networks, distillation = self.networks, self.settings.distillation
        return TrainingModel(networks.student, networks.distiller, networks.teacher, distillation.adaptive, distillation.balance)

    def _input_hw(self) -> tuple[int, int]:
        """Height and width in pixels of the images trained on; with `rect`, as the first image of the data set has it."""
        stride = max(int(self.networks.student.stride.max()), 32)
        height, width = (1, 1) if not self.args.rect else first_shape(self.data["train"])
        h, w = (math.ceil(side / max(height, width) * self.args.imgsz / stride - 1e-6) * stride for side in (height, width))
        return h, w

    def _load_live(self, model: TrainingModel, state: dict[str, torch.Tensor]) -> None:
        try:
            model.load_state_dict(state)
        except RuntimeError as error:
            raise misfit(self.settings, self.checkpoint, error) from None

    def set_model_attributes(self) -> None:
        """Tell the model its class names and the loss its arguments."""
        super().set_model_attributes()
        student = unwrap_model(self.model).student
        student.nc, student.names, student.args = self.data["nc"], self.data["names"], self.args

    def _setup_ddp(self) -> None:
        """The process group exists already (`engine.training.processes`); pick this process's device."""
        if self.device.type != "cpu":
            self.device = torch.device("cuda", torch.cuda.current_device())

    def _setup_train(self) -> None:
        with cpu_data_parallel(), no_amp_probe():
            super()._setup_train()

    def _build_train_pipeline(self) -> None:
        """Build the loaders, and fit the anchors to the boxes they give."""
        self.waiting = 0
        try:
            super()._build_train_pipeline()
        except (ValueError, RuntimeError) as error:
            if not any(sign in str(error) for sign in DATA_COMPLAINTS):
                raise
            raise UserError(f"{self.args.data}: {' '.join(str(error).split())}") from error
        if RANK in {-1, 0}:
            loaders = {"train": self.train_loader, self.args.split: self.test_loader}
            record_left_out(self.save_dir, {part: loader.dataset.reading for part, loader in loaders.items()})
        student = unwrap_model(self.model).student
        labels = self.train_loader.dataset.labels
        if (note := small_boxes_note(labels, self.args.imgsz, int(student.stride.min()))) and RANK in {-1, 0}:
            LOGGER.info(note)
        if self.settings.network.auto_anchors and not self.resume and hasattr(student.model[-1], "anchor_wh"):
            note = fit_to_labels(student, labels, self.args.imgsz)
            if note and RANK in {-1, 0}:
                LOGGER.info(note)
        settle_start(self)

    def get_dataloader(self, dataset_path: str, batch_size: int = 16, rank: int = 0, mode: str = "train") -> InfiniteDataLoader:
        """Ultralytics' loader; for training, with weighted draws as in the arguments."""
        loader = super().get_dataloader(dataset_path, batch_size, rank, mode)
        if mode != "train":
            return loader
        where = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        loader = balanced(loader, self.settings.rare, self.args.seed, self.data["nc"], batch_size, *where)
        if isinstance(loader.sampler, Draws) and RANK in {-1, 0}:
            LOGGER.info(draws_note(loader.sampler, loader.dataset.labels, self.data["names"]))
        return loader

    def _setup_scheduler(self) -> None:
        """Ultralytics' linear or cosine schedule, or steps (`lr_steps`), which it does not have."""
        super()._setup_scheduler()
        if steps := self.settings.run.lr_steps:
            self.lf = lambda epoch: 0.1 ** sum(epoch >= round(step * self.epochs) for step in steps)
            self.scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lr_lambda=self.lf)

    def build_optimizer(
        self, model: nn.Module, name: str = "auto", lr: float = 0.001, momentum: float = 0.9, decay: float = 1e-5,
        iterations: float = 1e5,
    ) -> torch.optim.Optimizer:  # fmt: skip
        """Ultralytics' choice; learned log-variances of the terms get no weight decay: it would drive weights to 1."""
        optimizer: torch.optim.Optimizer = super().build_optimizer(model, name, lr, momentum, decay, iterations)
        if self.settings.distillation.adaptive == "uncertainty" and unwrap_model(model).weights is not None:
            without_decay(optimizer, unwrap_model(model).weights.log_variances)
        return optimizer

    def get_validator(self) -> Validator:
        """Validation within the run, ultralytics' metrics on the EMA weights; plots wait for the checkpoint (`_validate_best`)."""
        args = vars(self.args) | {"plots": False}
        return Validator(self.test_loader, save_dir=self.save_dir, args=args, _callbacks=self.callbacks)

    # -- the loop ------------------------------------------------------------------------------------------------------

    def _do_train(self) -> None:
        try:
            if self.checkpoint and self.checkpoint["run"].get("finished"):
                self._finish(self.checkpoint["meta"]["metrics"])
            else:
                with console(self.settings.run.verbose, self._row):
                    super()._do_train()
        except NonFiniteLoss as error:
            raise self._stopped(str(error)) from error

    def _stopped(self, reason: str) -> UserError:
        """The error of a run whose losses or weights are no numbers any more: where that was, and what is left."""
        step = self.batches_seen % len(self.train_loader) or len(self.train_loader)
        kept = f"the last good checkpoint is {self.last}" if self.last.exists() else "no checkpoint was written yet"
        return UserError(
            f"{reason} (epoch {self.epoch + 1}, step {step}): expected finite losses; lower --lr0, use --amp False or "
            f"check the labels; {kept}"
        )

    def _finish(self, metrics: dict[str, float]) -> None:
        """What is left of a run that was killed after its last epoch: the final checkpoint, validation and plots."""
        if self.world_size > 1:
            self._setup_ddp()
        self._setup_train()
        self.train_time_start, self.epoch = time.time(), self.start_epoch - 1
        self.metrics = metrics
        self.final_eval()
        if RANK in {-1, 0} and self.args.plots:
            self.plot_metrics()

    def progress_string(self) -> str:
        """The progress table's head: few columns, once; `--verbose`: one of 11 characters per term and weight, at each epoch."""
        if not self.settings.run.verbose:
            return table_head(self.loss_names, unwrap_model(self.model).terms) if self.epoch == self.start_epoch else ""
        names = ("Epoch", "GPU_mem", *map(heading, self.loss_names), "Instances", "Size")
        return "\n" + "".join(f"{name:>11}" for name in names)

    def _row(self, host_row: str) -> str:
        """The progress row of a step (`engine.training.console`)."""
        return table_row(host_row, self.tloss or {}, unwrap_model(self.model).terms)

    def label_loss_items(self, loss_items: dict[str, Any] | None = None, prefix: str = "train") -> Any:
        """Names, or named values, of the loss items, to five digits (ultralytics: five decimals)."""
        if loss_items is None:
            return super().label_loss_items(None, prefix)
        labelled = {f"{prefix}/{name}": float(f"{float(value):.5g}") for name, value in loss_items.items()}
        self.labelled[prefix] = labelled
        return labelled

    def validate(self) -> tuple[dict[str, float] | None, float | None]:
        """Validate the averaged weights; the validator rounds its copy of the loss items, so they are put back."""
        metrics, fitness = super().validate()
        self.measured = True
        return metrics and metrics | self.labelled["val"], fitness

    def _start_epoch(self) -> None:
        """Before an epoch: also before one that starts anew with a smaller batch because memory ran out."""
        self.batches_seen, self.measured = self.epoch * len(self.train_loader), False
        seed_epoch(self.args.seed, self.epoch, self.train_loader)
        run = self.checkpoint["run"] if self.checkpoint else {}
        if gradients := run.pop("gradients", {}):
            self.waiting = run["waiting"]
            put_gradients(unwrap_model(self.model), gradients)

    def _note_progress(self) -> None:
        """Before a batch: count it, and tell methods with a schedule how far the run is."""
        steps = len(self.train_loader)
        position = self.batches_seen % steps
        unwrap_model(self.model).progress = (self.epoch + position / steps) / self.epochs
        self.batches_seen += 1
        self.waiting += 1

    def optimizer_step(self) -> None:
        """The step, where it is due: the host counts batches anew in a resumed run, which may have gradients waiting."""
        if self._is_due():
            super().optimizer_step()
            self.waiting = 0

    def _is_due(self) -> bool:
        return self.waiting >= self.accumulate

    def _step_late(self) -> None:
        """After a batch: the step that the host did not see was due."""
        if self._is_due():
            self.optimizer_step()

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
        if self.ema:
            self.ema.ema.copy_state(model)

    def _handle_nan_recovery(self, epoch: int) -> bool:
        """Never: a loss that is not finite has stopped the run already, with its name."""
        return False

    def save_metrics(self, metrics: dict[str, float]) -> None:
        """Append to results.csv; the terms' weights get columns of their own, once, and what was not validated has empty fields."""
        missing = () if self.measured else self.metrics
        figures = {head: None if name in missing else value for name, value in metrics.items() if (head := column(name))}
        append_results(self.csv, self.epoch + 1, time.time() - self.train_time_start, figures)

    def plot_metrics(self) -> None:
        """results.png, and the weights over epochs."""
        if not self.csv.exists():
            return
        plot_results(self.csv, self.save_dir / "results.png")
        plot_weights(self.csv, self.save_dir / "weights.png")

    # -- checkpoints ---------------------------------------------------------------------------------------------------

    def save_model(self) -> bool:
        """Write last.pt (all a resumed run needs) and, when this epoch is the best so far, best.pt (the student)."""
        student = self.ema.ema.student
        self._check_weights()
        meta = self._meta({"fitness": float(self.fitness or 0.0)})
        self.wdir.mkdir(parents=True, exist_ok=True)
        if self.best_fitness == self.fitness:
            save_student(self.best, student, meta)
        if self.save_period > 0 and self.epoch % self.save_period == 0:
            save_student(self.wdir / f"epoch{self.epoch}.pt", student, meta)
        save_atomic(self.last, pack(student, meta, RUN) | {"run": run_state(self)})
        return True

    def _meta(self, more: dict[str, float] | None = None) -> dict[str, Any]:
        """What a checkpoint says of the run: its arguments, the epoch, the latest metrics and `more` of them."""
        arguments = vars(self.args) | {"amp": self.amp_kept}
        metrics = {k: float(v) for k, v in self.metrics.items()} | (more or {})
        return {"train_args": arguments, "epoch": self.epoch, "metrics": metrics}

    def _check_weights(self) -> None:
        """Refuse to replace a good checkpoint by one that a gradient made useless (the loss shows it a step later)."""
        for name, value in unwrap_model(self.model).state_dict().items():
            if value.is_floating_point() and not value.isfinite().all():
                raise self._stopped(f"the parameter '{name}' is not finite")

    def resume_training(self, ckpt: dict[str, Any] | None) -> None:
        """Continue where last.pt left off."""
        if ckpt is not None:
            restore(self, ckpt)

    def final_eval(self) -> None:
        """Validate best.pt, and then, when a resumed run needs it no more, keep the student alone in last.pt too."""
        if RANK in {-1, 0}:
            meta = self._meta()
            if self.ema.ema.head_statistics is not None:
                save_dynamic_teacher(self.wdir / "teacher.pt", self.ema.ema, meta)
        if not dist.is_initialized():  # else the launcher validates, in a process of its own: the host's would wait for all
            self._validate_best()
        if RANK in {-1, 0}:
            save_student(self.last, self.ema.ema.student, meta)

    def _validate_best(self) -> None:
        if self.best.exists():
            LOGGER.info(f"\nValidating {self.best}...")
            self.validator.args.plots = self.args.plots
            self.metrics, self.measured = self.validator(model=self.best), True
            self.metrics.pop("fitness", None)
            self.epoch += 1  # loggers get the best epoch's figures as one more step
            self.run_callbacks("on_fit_epoch_end")
            self.epoch -= 1
            log_summary(self)
