"""A run's dynamic teacher (SDD, LGD) after training: kept beside the student, and scored as if it were a detector."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cfg import UserError, find, read_yaml
from distill.base import METHODS
from distill.build import build_distiller, parse_methods
from distill.model import TrainingModel
from engine.checkpoint import load_detector, pack
from engine.plain import plain, save_atomic
from engine.validation.validator import Validator
from models.detector import raw_output


class DynamicTeacher:
    """Images and their labels in, boxes out: the features it makes, decoded by the student's head.

    No detector: the labels are its input. Its score is an upper limit of what it can teach.
    """

    def __init__(self, model: TrainingModel) -> None:
        assert model.distiller, "it is a part of the distiller"
        self.model = model.eval()
        self.method: Any = next(part for part in model.distiller.modules() if hasattr(part, "teach"))

    @torch.no_grad()
    def __call__(self, batch: Mapping[str, Tensor]) -> Any:
        """What the head returns in evaluation, for a batch (img 0..1, batch_idx, cls, bboxes xywh 0..1)."""
        feats = raw_output(self.model.student(batch["img"].float()))["feats"]
        taught = self.method.teach(batch, dict(zip(self.model.spec.levels, feats)))
        return self.model.run_head(list(taught.values())).output


class DynamicValidator(Validator):
    """Scores a dynamic teacher on the labels it is given, by the student's rules. Set `teacher` before the call."""

    teacher: DynamicTeacher

    def preprocess(self, batch: dict[str, Any]) -> dict[str, Any]:
        """The batch on its device, kept for the teacher."""
        labelled: dict[str, Any] = super().preprocess(batch)
        self.labelled = labelled
        return labelled

    def postprocess(self, preds: Any) -> list[dict[str, Tensor]]:
        """The teacher's boxes instead of the student's."""
        return super().postprocess(self.teacher(self.labelled))


def save_dynamic_teacher(path: Path, model: TrainingModel, meta: Mapping[str, Any]) -> None:
    """Write the student with its dynamic teacher; as a student's checkpoint it loads like any other."""
    state = {k: v.detach() for k, v in model.state_dict().items() if not k.startswith("student.")}
    save_atomic(path, pack(model.student, dict(meta)) | {"dynamic": plain(state)})


def load_dynamic_teacher(path: Path, device: torch.device) -> DynamicTeacher:
    """The dynamic teacher of a run, from `teacher.pt` or from the `last.pt` of a run that is not finished.

    Raises:
        UserError: the file has none, or its method is not what it was.
    """
    student, content = load_detector(path) if path.suffix == ".pt" else (None, {"meta": {}})
    state = content.get("dynamic") or content.get("run", {}).get("averaged", {})
    wanted = (content["meta"].get("train_args") or {}).get("distill")
    name = _teaching(wanted) if wanted and state else None
    if student is None or name is None:
        raise UserError(
            f"--eval-teacher: {path} has no dynamic teacher; give weights/teacher.pt of a finished run of sdd "
            "or lgd, or weights/last.pt of one that is not finished"
        )
    part = f"parts.{name.replace('.', '_')}."
    prefix = "distiller." + (part if any(key.startswith("distiller." + part) for key in state) else "")
    own = _below(prefix, state)
    distiller = build_distiller(name, student, None, path.name)
    if "image_hw" in own:
        distiller.prepare(*own["image_hw"].tolist())
    model = TrainingModel(student, distiller)
    assert model.head_statistics, "a dynamic teacher goes through the student's head"
    try:
        distiller.load_state_dict(own)
        model.head_statistics.load_state_dict(_below("head_statistics.", state))
    except RuntimeError as error:
        detail = " ".join(str(error).split())[:160]
        raise UserError(f"{path}: cfg/distill/{name} is not what the run was trained with ({detail})") from None
    return DynamicTeacher(model.to(device))


def _below(prefix: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def _teaching(wanted: str) -> str | None:
    """The method with a dynamic teacher among those of a run (`sdd`, `attention+0.5*sdd`), None when there is none."""
    for name in parse_methods(wanted):
        method = METHODS.get(read_yaml(find("distill", name)).get("method", Path(name).stem))
        if any(term.own for term in method.terms):
            return name
    return None
