"""What last.pt holds besides the student, and how a resumed run goes on from it."""

from __future__ import annotations

from typing import Any

from cfg import UserError
from engine.settings import Settings
from engine.training.repeat import keep_mosaic_images, lay_out_state, mosaic_images, pending_gradients
from engine.training.report import trim_results

from ultralytics.engine.trainer import BaseTrainer
from ultralytics.utils import LOGGER, RANK
from ultralytics.utils.torch_utils import ModelEMA, unwrap_model


def run_state(trainer: BaseTrainer) -> dict[str, Any]:
    """All that training goes on from, as plain data: live and averaged weights, optimiser, scaler, best, early stop."""
    averaged = {k: v for k, v in trainer.ema.ema.state_dict().items() if not k.startswith("student.")}
    live = unwrap_model(trainer.model)
    return {
        "epoch": trainer.epoch,
        "live": live.state_dict(),
        "averaged": averaged,  # the student's part is the checkpoint's own `state`
        "updates": trainer.ema.updates,
        "optimizer": trainer.optimizer.state_dict(),
        "scaler": trainer.scaler.state_dict(),
        "waiting": trainer.waiting,
        "gradients": pending_gradients(live) if trainer.waiting else {},
        "mosaic_images": mosaic_images(trainer.train_loader),
        "finished": bool(trainer.stop),
        "best_fitness": trainer.best_fitness,
        "stopper": {"best_fitness": trainer.stopper.best_fitness, "best_epoch": trainer.stopper.best_epoch},
    }


def misfit(settings: Settings, ckpt: dict[str, Any] | None, error: RuntimeError) -> UserError:
    """The error of a last.pt whose tensors are not those of the run's networks: what is not as it was, and what to do."""
    had, distillation = (ckpt or {"meta": {}})["meta"].get("train_args") or {}, settings.distillation
    parts = [f"the teacher {distillation.teacher}"] if distillation.teacher else []
    parts += [f"cfg/distill/{distillation.distill or 'auto'}"]
    if had.get("imgsz") != settings.data.imgsz:
        parts = [f"--imgsz {settings.data.imgsz}, which was {had.get('imgsz')}"]
    return UserError(f"{settings.run.resume}: does not fit {' and '.join(parts)} any more; put back what the run was started with "
                     f"({' '.join(str(error).split())[:160]})")  # fmt: skip


def restore(trainer: BaseTrainer, ckpt: dict[str, Any]) -> None:
    """Continue epochs, optimiser, distiller, adaptive weights and EMA where last.pt (its content: `ckpt`) left them.

    The live weights are in the model already (`Trainer.setup_model`): the optimiser was made from it. Gradients that wait
    for the optimiser are put back when the first epoch starts (`Trainer._start_epoch`): the host discards any before.
    """
    run = ckpt["run"]
    for saved, group in zip(run["optimizer"]["param_groups"], trainer.optimizer.param_groups):
        saved["fused"] = group.get("fused")  # what is fastest on this device, not on the checkpoint's
    trainer.optimizer.load_state_dict(run["optimizer"])
    lay_out_state(trainer.optimizer)
    trainer.scaler.load_state_dict(run["scaler"])
    trainer.ema = ModelEMA(trainer.model, updates=run["updates"])
    student = {f"student.{k}": v for k, v in ckpt["state"].items()}
    trainer.ema.ema.load_state_dict(student | run["averaged"])
    trainer.best_fitness = run["best_fitness"]
    trainer.stopper.__dict__.update(run["stopper"])
    trainer.start_epoch = run["epoch"] + 1
    criterion = unwrap_model(trainer.model).student.init_criterion()
    if hasattr(criterion, "update"):  # an end-to-end head's two losses shift their balance over epochs
        criterion.updates = trainer.start_epoch - 1
        criterion.update()
    unwrap_model(trainer.model).student.criterion = criterion
    if trainer.args.mosaic:
        keep_mosaic_images(trainer.train_loader, run.get("mosaic_images", []))
    if RANK in {-1, 0}:
        trim_results(trainer.csv, trainer.start_epoch)
        for part in trainer.wdir.glob(".*.part"):  # a checkpoint that the kill left half-written
            part.unlink()
        LOGGER.info(f"Resuming {trainer.args.model} from epoch {trainer.start_epoch + 1} of {trainer.epochs}")
