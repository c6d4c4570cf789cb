"""A race of two starts: the student trains a few steps from each on the same batches, and the run begins from the better one.

Whether a teacher's blocks are a better start than the student's own trained weights depends on the data and on how both were
trained: with the same student they gained 10 points of mAP50-95 on one data set and lost 22 on another (benchmarks/learning.md).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from itertools import count, islice
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from torch import Tensor

from distill.model import NonFiniteLoss, TrainingModel
from engine.start.selection import START_TABLE
from engine.training.repeat import seed_epoch

from ultralytics.utils import LOGGER, RANK
from ultralytics.utils.torch_utils import unwrap_model

if TYPE_CHECKING:
    from engine.training.trainer import Trainer

STEPS = 20  # of each start; the losses of the second half count
LARGEST_GRADIENT = 10.0  # ultralytics' limit of the gradient's norm


@dataclass(frozen=True)
class Rival:
    """Another start of a student: those of its tensors that would differ, and where the student has them from now."""

    tensors: dict[str, Tensor]
    current: str


def settle_start(trainer: Trainer) -> None:
    """Let the two starts of a new run race, where it has two, and begin from the better one; a line says which.

    Called once loaders and anchors are ready, before weights are averaged. Each process races on its own part of the data.
    """
    rival, trainer.networks.rival = trainer.networks.rival, None
    if rival is None:
        return
    model, steps = unwrap_model(trainer.model), min(STEPS, len(trainer.train_loader) * trainer.epochs)
    losses = torch.tensor(race(model, rival, _batches(trainer), lambda copy: _optimizer(trainer, copy), steps), device=trainer.device)
    if dist.is_initialized():
        dist.all_reduce(losses)
        losses /= dist.get_world_size()
    current, other = losses.tolist()
    kept = f"the blocks of {rival.current}"
    if other < current:
        kept = f"its own weights, not {kept},"
        put(model, rival.tensors)
        (trainer.save_dir / START_TABLE).unlink(missing_ok=True)
    if RANK in {-1, 0}:
        LOGGER.info(f"start: {kept} after {steps} steps from either: detection loss {current:.4f} with these blocks, {other:.4f} without")


def race(
    model: TrainingModel,
    rival: Rival,
    batches: Iterable[dict[str, Any]],
    optimizer_of: Callable[[TrainingModel], torch.optim.Optimizer],
    steps: int,
) -> tuple[float, float]:
    """Train copies of a student from both starts; the student itself stays as it is.

    Args:
        model: of the run; its student is trained by the detection loss alone, on a CPU in the run's arithmetic.
        rival: the other start.
        batches: at least `steps`, as the model takes them.
        optimizer_of: makes the run's optimiser for a model.

    Returns:
        The detection loss, mean over images of the second half of the steps, from the current start and from the rival.
    """
    copies = [_copy(model, {}), _copy(model, rival.tensors)]
    optimizers = [optimizer_of(copy) for copy in copies]
    losses = [[_step(copy, optimizer, batch) for copy, optimizer in zip(copies, optimizers)] for batch in islice(batches, steps)]
    late = torch.tensor(losses)[len(losses) // 2 :].mean(0)
    return float(late[0]), float(late[1])


def put(model: TrainingModel, tensors: dict[str, Tensor]) -> None:
    """Give the student these tensors, in place."""
    model.student.load_state_dict(tensors, strict=False)


def _copy(model: TrainingModel, tensors: dict[str, Tensor]) -> TrainingModel:
    """The student of a run, in training, with these tensors, without a distiller."""
    copy = TrainingModel(deepcopy(model.student))
    copy.bfloat16_cpu, copy.channels_last = model.bfloat16_cpu, model.channels_last
    put(copy, tensors)
    return copy.train()


def _step(model: TrainingModel, optimizer: torch.optim.Optimizer, batch: dict[str, Any]) -> float:
    """One step; returns the detection loss before it, mean over images, infinite where it is no number."""
    try:
        loss = model.loss(batch)[0].sum()
    except NonFiniteLoss:
        return float("inf")
    optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), LARGEST_GRADIENT)
    optimizer.step()
    return float(loss.detach()) / len(batch["img"])


def _batches(trainer: Trainer) -> Iterator[dict[str, Any]]:
    """Batches of the run's first epochs; each epoch of the run is seeded anew, so that they do not change it."""
    for epoch in count():
        seed_epoch(trainer.args.seed, epoch, trainer.train_loader)
        yield from map(trainer.preprocess_batch, trainer.train_loader)


def _optimizer(trainer: Trainer, model: TrainingModel) -> torch.optim.Optimizer:
    """The run's optimiser for another model, without the host's line about it."""
    args, level = trainer.args, LOGGER.level
    iterations = len(trainer.train_loader) * trainer.epochs
    LOGGER.setLevel("WARNING")
    try:
        return trainer.build_optimizer(model, args.optimizer, args.lr0, args.momentum, args.weight_decay, iterations)
    finally:
        LOGGER.setLevel(level)
