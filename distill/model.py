"""What a training run optimises: the student, the distiller's own parameters, and the weights of the terms.

The frozen teacher is beside all that: in nothing that is saved, averaged, moved by an optimiser or put in training mode.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from distill.assignment import detection_loss
from distill.balance import Balance
from distill.base import Distiller, Step, View
from distill.dynamic.statistics import HeadStatistics, copies_of
from distill.gradients import GradientProducts, StopGradient, measure_gradients, trunk
from distill.networks import FrozenTeacher, spec_of, view_of
from distill.weighting import AdaptiveWeights
from models.detector import DetectionModel, raw_output
from models.losses.precision import all_at_least_float32

T = TypeVar("T")

BOX_TERMS = {True: "dfl_loss", False: "l1_loss"}  # ultralytics' third term: by whether boxes are distributions
REPORTED = ("w_", "share_", "cos_")  # beside the terms: weights, shares of the gradient, cosines with detection's
DETECTION_WEIGHTS = {"box_loss": "box", "obj_loss": "focal", "cls_loss": "focal"}  # eq. 17: one delta for both QFL terms


class NonFiniteLoss(ArithmeticError):
    """A loss term became NaN or infinite; `term` names it."""

    def __init__(self, term: str) -> None:
        super().__init__(f"the loss term '{term}' is not finite")
        self.term = term


class TrainingModel(nn.Module):
    """A student in training, with or without distillation, in the shape ultralytics' trainer expects of a model.

    Args:
        student: the detector that is trained and, alone, saved as `best.pt`.
        distiller: the method, or None.
        teacher: the frozen teacher, or None for methods without one.
        adaptive: mode of the adaptive weights (see `AdaptiveWeights`).
        balance: options of `Balance`, the strength of distillation.
    """

    def __init__(
        self,
        student: DetectionModel,
        distiller: Distiller | None = None,
        teacher: FrozenTeacher | None = None,
        adaptive: str = "none",
        balance: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.student, self.distiller, self.teacher = student, distiller, teacher
        if teacher and distiller and not distiller.reads_head:
            teacher.drop_head()
        if teacher:
            teacher.fold()
        self.spec = spec_of(student, "student")
        self.progress = 0.0  # of training, 0..1; set by the trainer
        self.bfloat16_cpu = False  # forward passes of training in bfloat16 on a CPU; ultralytics' own autocast is for GPUs
        self.channels_last = False
        self.task, self.names, self.nc = "detect", student.names, self.spec.nc
        self.stride, self.yaml = student.stride, student.yaml
        self.terms = distiller.terms if distiller else ()
        teaches = any(term.own for term in self.terms)  # a dynamic teacher, through the student's head
        self.head_statistics = HeadStatistics(student.model[-1]) if teaches else None
        self.weights = AdaptiveWeights(self._weight_names(), adaptive) if distiller else None
        self.balance = Balance(self.terms, **(balance or {})) if distiller else None

    def _weight_names(self) -> list[str]:
        """Weights in the order of eq. 17: the detection terms the student has, then the distiller's."""
        head = self.student.model[-1]
        stock = ("box_loss", "cls_loss", BOX_TERMS[self.spec.bins is not None])  # our heads name theirs themselves
        detection = getattr(head, "loss_terms", stock)
        return list(dict.fromkeys([*map(self._weight_of, detection), *(term.weight for term in self.terms)]))

    def _weight_of(self, term: str) -> str:
        names = DETECTION_WEIGHTS | {own.name: own.weight for own in self.terms}
        return names.get(term, term.removesuffix("_loss"))

    def forward(self, x: Any, *args: Any, **kwargs: Any) -> Any:
        """Loss of a batch (dict) or predictions for images, as ultralytics' models do."""
        if isinstance(x, dict):
            return self.loss(x, *args, **kwargs)
        return self._run(lambda: self.student(self._laid_out(x), *args, **kwargs))

    def loss(self, batch: dict[str, Any], preds: Any = None) -> tuple[Tensor, dict[str, Tensor]]:
        """(total loss times images, {name: detached term or weight}); the same names on every call.

        Raises:
            NonFiniteLoss: a term is NaN or infinite.
        """
        images = self._laid_out(batch["img"])
        preds = self._predict(images) if preds is None else preds
        half = any(x.dtype == torch.float16 for x in raw_output(preds)["feats"])
        preds = all_at_least_float32(preds)
        vector, items, assign = self._detect(batch, preds)
        if self.distiller is None or self.balance is None or self.weights is None:
            check_finite(dict(zip(items, vector)))
            return vector, items
        left = self.balance.schedule.left(self.progress)
        detection = dict(zip(items, vector / len(images)))
        distilled = self.distil(batch, images, preds, detection, assign) if left else self._nothing(vector)
        check_finite(detection | distilled)
        with torch.autocast(images.device.type, enabled=False):  # gains and products of gradients need float32
            self._weigh_up(detection, distilled, left, half)
            total = self._total(detection, distilled, left)
        reported = {k: v.detach() for k, v in (detection | self.balance.plain(distilled)).items()}
        return total * len(images), reported | self.weights.as_items() | self.balance.as_items()

    def _predict(self, images: Tensor) -> Any:
        """The student's predictions in training, its frozen layers cut off."""
        with StopGradient(self.frozen_layers()):
            return self._run(lambda: self.student(images))

    def _detect(self, batch: dict[str, Any], preds: Any) -> tuple[Tensor, dict[str, Tensor], Any]:
        """The student's detection loss: its terms times images, their names with detached values, its assignment."""
        return detection_loss(self.student, batch, preds)

    def _nothing(self, vector: Tensor) -> dict[str, Tensor]:
        """The distiller's terms after its end, all 0."""
        return {term.name: vector.new_zeros(()) for term in self.terms}

    def _weigh_up(self, detection: dict[str, Tensor], distilled: dict[str, Tensor], left: float, half: bool) -> None:
        """In a step that measures, update the balance with the gradient of each term at the student's trunk."""
        assert self.distiller is not None and self.balance is not None and self.weights is not None  # as in `loss`, which calls it
        if trust := self.distiller.trust():  # of a few methods: on a GPU it is a copy in every step
            self.balance.trust(trust)
        if not left:
            self.balance.rest()
            self.weights.end(set(self.weights.names) - {self._weight_of(name) for name in detection})
        elif self.training and self.balance.due():
            weights = {name.removeprefix("w_"): w for name, w in self.weights.as_items().items()}
            weighted = torch.stack([weights[self._weight_of(name)] * term for name, term in detection.items()]).sum()
            products = self._measure(weighted, [distilled[name] for name in self.balance.terms], half)
            self.balance.update(products, weights, left)

    def _measure(self, detection: Tensor, terms: list[Tensor], half: bool) -> GradientProducts:
        """Gradients of these 0-d losses at the student's trunk."""
        return measure_gradients(detection, terms, trunk(self.student), half)

    def _total(self, detection: dict[str, Tensor], distilled: dict[str, Tensor], left: float) -> Tensor:
        """0-d weighted sum of all terms: gains, schedule and limit on those that act on the student, 1 + c on detection."""
        assert self.balance is not None and self.weights is not None
        balance, own = self.balance, {term.name for term in self.terms if term.own}
        factor, kept = left * balance.limit(left), 1 + balance.given_back(left)
        gained = {k: v if k in own else v * factor for k, v in balance.gained(distilled).items()}
        total: Tensor = self.weights(self.grouped({k: v * kept for k, v in detection.items()} | gained))[0]
        return total

    def grouped(self, terms: dict[str, Any]) -> dict[str, Any]:
        """Sums of the terms that share an adaptive weight, by the weight's name."""
        sums: dict[str, Any] = {}
        for name, term in terms.items():
            weight = self._weight_of(name)
            sums[weight] = sums[weight] + term if weight in sums else term
        return sums

    def distil(
        self, batch: dict[str, Any], images: Tensor, preds: Any, detection: Mapping[str, Tensor], assign: Any = None
    ) -> dict[str, Tensor]:
        """The distiller's terms, in float32; the teacher runs in the precision the student ran in."""
        assert self.distiller is not None
        step = Step(
            batch=batch,
            student=view_of(self.student, self.spec, preds),
            progress=self.progress,
            detection=detection,
            see_teacher=self._teacher_on(images),
            assign=assign,
            run_head=self.run_head,
            score=lambda view: self._score(batch, view),
        )
        with torch.autocast(images.device.type, enabled=False):
            return self.distiller.losses(step)

    def _teacher_on(self, images: Tensor) -> Callable[[], View] | None:
        """How to get the teacher's view of these images, in the precision that is in force now; None without a teacher."""
        teacher, device = self.teacher, images.device.type
        if teacher is None:
            return None
        enabled, dtype = torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)

        def see_teacher() -> View:
            with torch.autocast(device, dtype, enabled=enabled):
                return self._run(lambda: teacher.see(images))

        return see_teacher

    def run_head(self, feats: list[Tensor], learns: bool = True) -> View:
        """The student's head on other features (B, C, H, W) per level; its batch statistics stay as they were, and unless it `learns` its weights."""
        head, own = self.student.model[-1], self.head_statistics
        buffers = copies_of(head) if own is None else own.buffers_for(head)
        weights = {} if learns else {name: parameter.detach() for name, parameter in head.named_parameters()}
        preds = torch.func.functional_call(head, weights | buffers, (feats,))
        return view_of(self.student, self.spec, preds)

    def _score(self, batch: dict[str, Any], view: View) -> dict[str, Tensor]:
        """The detection loss of a view of the batch, by term, mean over images."""
        vector, items = self.student.loss(batch, view.raw if view.output is None else view.output)
        return dict(zip(items, vector / len(batch["img"])))

    def _laid_out(self, images: Tensor) -> Tensor:
        return images.contiguous(memory_format=torch.channels_last) if self.channels_last else images

    def _run(self, network: Callable[[], T]) -> T:
        """Run a forward pass, in bfloat16 on a CPU that has it when training."""
        use = self.bfloat16_cpu and self.training
        with torch.autocast("cpu", torch.bfloat16) if use else nullcontext():
            return network()

    def end_epoch(self, means: dict[str, float]) -> None:
        """Update the adaptive weights from the epoch's mean of every term, as `loss` reports it: without moving gains."""
        if self.weights is None:
            return
        self.weights.update(self.grouped({k: v for k, v in means.items() if not k.startswith(REPORTED)}))

    def copy_state(self, other: TrainingModel) -> None:
        """Take over another's weights and gains of the terms: an average of them is none that anyone used."""
        if self.weights and self.balance and other.weights and other.balance:
            self.weights.load_state_dict(other.weights.state_dict())
            self.balance.load_state_dict(other.balance.state_dict())
            self.progress = other.progress

    def frozen_layers(self) -> list[nn.Module]:
        """Layers of the student whose parameters stay as they are at this point of training: its backbone's, or none."""
        if self.distiller is None or self.progress >= self.distiller.freeze_until:
            return []
        return list(self.student.model[: len(self.student.yaml["backbone"])])

    def to(self, *args: Any, **kwargs: Any) -> TrainingModel:
        """Move student and distiller, and the teacher with them."""
        if self.teacher:
            self.teacher.model.to(*args, **kwargs)
        return super().to(*args, **kwargs)

    @property
    def criterion(self) -> Any:
        """The student's loss object; ultralytics calls its `update` after an epoch where it has one."""
        return getattr(self.student, "criterion", None)

    def fuse(self, *args: Any, **kwargs: Any) -> DetectionModel:
        """The student, fused for inference."""
        return self.student.fuse(*args, **kwargs)

    def set_head_attr(self, **attributes: Any) -> None:
        """Set attributes of the student's head."""
        self.student.set_head_attr(**attributes)

    @property
    def end2end(self) -> bool:
        """Whether the student's head needs no NMS."""
        return bool(self.student.end2end)

    @end2end.setter
    def end2end(self, value: bool) -> None:
        self.student.end2end = value


def check_finite(terms: dict[str, Tensor]) -> None:
    """Raise `NonFiniteLoss` for the first term that is not finite; one synchronisation for all of them."""
    finite = torch.stack([t.detach().float() for t in terms.values()]).isfinite()
    if not finite.all():
        raise NonFiniteLoss(list(terms)[finite.tolist().index(False)])
