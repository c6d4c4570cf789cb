"""Build what one training step needs, ours or ultralytics', and time its steps by part; runs in a worker."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

import models.environment  # noqa: F401  (before ultralytics)
from benchmarks.timing import memory
from benchmarks.timing.clock import Clock
from benchmarks.timing.prepare import detector_of
from distill.model import TrainingModel
from engine.settings import Settings
from engine.training.build import build_networks

from ultralytics.cfg import get_cfg
from ultralytics.nn.distill_model import DistillationModel
from ultralytics.utils import DEFAULT_CFG

SEED, WARM_UP = 0, 2
PROGRESS = 0.5  # of the training that the steps are taken from: methods that begin late have begun, no layer is frozen
NEVER = 10**9  # steps between two measurements of gradients
BOX_SIDES = (0.03, 0.2)  # of the boxes, relative to the image
LEARNING_RATE, CLIP = 1e-5, 10.0  # small: the values do not matter, and the losses shall stay finite
OURS = ("student", "teacher", "distilled", "measured")
THEIRS = ("stock", "stock-distilled")


def batch_of(size: int, imgsz: int, objects: int, classes: int, device: torch.device) -> dict[str, Tensor]:
    """Random images with as many boxes each, as ultralytics' loaders give them; the same for the same numbers."""
    random = torch.Generator().manual_seed(SEED)
    count = size * objects
    low, high = BOX_SIDES
    sides = low + (high - low) * torch.rand(count, 2, generator=random)
    centres = sides / 2 + (1 - sides) * torch.rand(count, 2, generator=random)
    batch = {
        "img": torch.rand(size, 3, imgsz, imgsz, generator=random),
        "batch_idx": torch.arange(size).repeat_interleave(objects).float(),
        "cls": torch.randint(0, classes, (count, 1), generator=random).float(),
        "bboxes": torch.cat([centres, sides], 1),
    }
    return {name: value.to(device) for name, value in batch.items()}


def training_model(
    model: str, teacher: str | None, distill: str | None, classes: list[str], imgsz: int, measuring: bool
) -> TrainingModel:
    """What train.py would optimise, with random weights where a YAML is given.

    Args:
        measuring: gradients are measured at every step, else at none.
    """
    settings = Settings.of({"model": model, "data": "", "teacher": teacher, "distill": distill, "teacher_init": False})
    torch.manual_seed(SEED)
    student = detector_of(model, classes).train() if Path(model).suffix == ".pt" else None
    names = dict(student.names) if student else dict(enumerate(classes))
    networks = build_networks(settings, len(names), names, student)
    networks.student.args = get_cfg(DEFAULT_CFG)
    if networks.distiller is not None:
        networks.distiller.prepare(imgsz, imgsz)
    options = {"every": 1} if measuring else {"every": NEVER, "share": None}
    whole = TrainingModel(networks.student, networks.distiller, networks.teacher, balance=options)
    if whole.balance is not None:
        whole.balance.steps.fill_(NEVER + 1)  # late in a training: the measurements of its first steps are over
    whole.progress = PROGRESS
    return whole


def stock_model(model: str, teacher: str | None, classes: list[str], imgsz: int) -> nn.Module:
    """What ultralytics' own trainer would optimise: the model, or its DistillationModel around two."""
    student = detector_of(model, classes).train()
    student.args = get_cfg(DEFAULT_CFG, {"imgsz": imgsz})
    if teacher is None:
        return student
    return DistillationModel(detector_of(teacher, classes), student).train()


class StepTask:
    """One kind of training step, warmed up.

    Forward and backward pass, gradient clipping and SGD with momentum, for all kinds alike; no moving average of
    weights and no loading of images. `teacher` is the teacher's forward pass alone, as the distilled step has it.

    Args:
        variant: one of `OURS` or `THEIRS`.
        model, teacher, distill: student, teacher and method; None where the variant has none.
        precision: ``fp32`` or ``bf16`` (autocast).
        batch, imgsz, objects: images, their side in pixels, boxes per image.
        device: ``cpu`` or ``cuda:N``.
        clock: of `clock.READ`.
        progress: fraction of training that the steps are taken from.
    """

    def __init__(
        self, variant: str, model: str, teacher: str | None, distill: str | None, precision: str, batch: int,
        imgsz: int, objects: int, classes: list[str], device: str, clock: str = "wall",
        progress: float = PROGRESS,
    ) -> None:  # fmt: skip
        self.device, self.bfloat16 = torch.device(device), precision == "bf16"
        memory.start(self.device)
        base = memory.peak(self.device)["rss_mb"]
        self.clock = Clock(self.device, clock)
        self.channels_last = variant in OURS or self.device.type == "cuda"  # ultralytics' trainer: on GPUs only
        if variant in THEIRS:
            network = stock_model(model, teacher, classes, imgsz)
        else:
            network = training_model(model, teacher, distill, classes, imgsz, measuring=variant == "measured")
            network.progress = progress
        self.use(network.to(self.device), teacher_alone=variant == "teacher")
        self.batch = batch_of(batch, imgsz, objects, getattr(network, "nc", len(classes)), self.device)
        for _ in range(WARM_UP):
            self.step()
        self.facts = {"base_mb": base, "parameters": sum(p.numel() for p in network.parameters())}

    def use(self, network: nn.Module, teacher_alone: bool = False) -> None:
        """Lay the network out in memory as its trainer does, watch its parts, and make its optimiser."""
        self.network = network.train()
        if self.channels_last:
            network.to(memory_format=torch.channels_last)
        if isinstance(network, TrainingModel):
            network.bfloat16_cpu = self.bfloat16 and self.device.type == "cpu"
            network.channels_last = True
            watch_parts(network, self.clock)
        else:
            self.clock.watch(network, "forward", "forward and losses")
        learning = [p for p in network.parameters() if p.requires_grad]
        self.optimizer = torch.optim.SGD(learning, LEARNING_RATE, momentum=0.9)
        self.step: Callable[[], None] = self._teacher_pass if teacher_alone else self._train

    def measure(self) -> dict[str, float]:
        """Milliseconds of one step, of its parts (``part_NAME_ms``), and peak memory in MiB.

        On a GPU, parts are timed in a step of their own: waiting for each would slow down the one that counts.
        """
        memory.start(self.device, give_back=False)
        on_cpu = self.device.type == "cpu"
        taken = self._timed(parts=on_cpu)
        peak = memory.peak(self.device)
        if not on_cpu:
            self._timed(parts=True)
        return {"step_ms": taken} | {f"part_{name}_ms": ms for name, ms in self.clock.parts.items()} | peak

    def _timed(self, parts: bool) -> float:
        self.clock.restart(parts)
        start = self.clock.now()
        self.step()
        return self.clock.now() - start

    def _autocast(self) -> torch.autocast:
        """As the trainers: on a GPU around all of the forward pass; on a CPU `TrainingModel` does it itself."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16 and self.device.type != "cpu")

    def _train(self) -> None:
        with self._autocast():
            loss, _ = self.network(self.batch)
        with self.clock.part("backward"):
            loss.sum().backward()
        with self.clock.part("optimiser"):
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), CLIP)
            self.optimizer.step()
            self.optimizer.zero_grad()

    def _teacher_pass(self) -> None:
        images = self.batch["img"].contiguous(memory_format=torch.channels_last)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16):
            self.network.teacher.see(images)


def watch_parts(network: TrainingModel, clock: Clock) -> None:
    """Time the parts of a step: each without those inside it."""
    clock.watch(network.student, "forward", "forward")
    clock.watch(network, "_detect", "detection loss")
    if network.distiller is not None:
        clock.watch(network, "distil", "distillation losses")
        clock.watch(network, "_measure", "gradient measuring")
    if network.teacher is not None:
        clock.watch(network.teacher, "see", "teacher")
