"""The table that ends a distilled run: teacher and student on the same validation images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import models.environment  # noqa: F401  (before ultralytics)
from cfg import UserError
from cfg.class_names import shown
from distill.networks import FrozenTeacher
from engine.training.teachers import load_teacher
from engine.validation.validator import Validator

from ultralytics.utils import LOGGER

SCORES = {"mAP50": "metrics/mAP50(B)", "mAP50-95": "metrics/mAP50-95(B)"}
BY_KD = "whether distillation helped: benchmarks/kd.py trains the student alone too and compares"
AHEAD = 0.04  # of mAP50-95: a teacher with less of a lead may have little to teach (docs/distillation.md)


def log_summary(trainer: Any, scores: dict[str, dict[str, float]] | None = None) -> None:
    """Log teacher and student with their difference; nothing for a run without teacher.

    Args:
        trainer: has validated best.pt, unless `scores` are given.
        scores: as of `table`; None: the teacher is validated here. One without boxes of the run's classes has no score.
    """
    path = teacher_of(trainer)
    if not path:
        return
    teacher, student = trainer.networks.teacher, trainer.networks.student
    whole = _whole_teacher(trainer, path)
    if scores is None:
        scores = {"teacher": _teacher_scores(trainer, whole) if whole else {}, "student": trainer.metrics}
    sizes = {"teacher": _parameters((whole or teacher).model), "student": _parameters(student)}
    names = {"teacher": Path(path).name, "student": Path(trainer.args.model).name}
    LOGGER.info("\n" + "\n".join(table(names, scores, sizes)))


def teacher_of(trainer: Any) -> str | None:
    """The file of the run's teacher, None where it has none of its own."""
    return trainer.settings.distillation.teacher if trainer.networks.teacher is not None else None


def scores_in(found: Path) -> dict[str, float]:
    """The scores that `table` shows, of what val.py wrote as JSON."""
    host = json.loads(found.read_text(encoding="utf-8"))["ultralytics"]
    return {key: host[name] for name, key in SCORES.items()}


def table(names: dict[str, str], scores: dict[str, dict[str, float]], sizes: dict[str, int]) -> list[str]:
    """Lines of the table.

    Args:
        names, scores, sizes: of `teacher` and `student`: what it is called, ultralytics' metrics (empty where there are none), and
            parameters.
    """
    width = max(len(f"{role} {shown(name)}") for role, name in names.items())
    lines = [f"{'':<{width}}" + "".join(f"{head:>13}" for head in (*SCORES, "parameters"))]
    for role, name in names.items():
        cells = [f"{scores[role][key]:.4f}" if scores[role] else "-" for key in SCORES.values()]
        lines.append(f"{f'{role} {shown(name)}':<{width}}" + "".join(f"{cell:>13}" for cell in (*cells, f"{sizes[role] / 1e6:.2f} M")))
    if scores["teacher"]:
        points = [100 * (scores["student"][key] - scores["teacher"][key]) for key in SCORES.values()]
        cells = [*(f"{value:+.1f} points" for value in points), f"x {sizes['student'] / sizes['teacher']:.2f}"]
        lines.append(f"{'student to teacher':<{width}}" + "".join(f"{cell:>13}" for cell in cells))
    return [*lines, *_lead(scores), BY_KD]


def _lead(scores: dict[str, dict[str, float]]) -> list[str]:
    """A line where the teacher is not clearly ahead of its student."""
    if not scores["teacher"]:
        return []
    lead = scores["teacher"][SCORES["mAP50-95"]] - scores["student"][SCORES["mAP50-95"]]
    if lead >= AHEAD:
        return []
    return [f"the teacher is {100 * lead:.1f} points of mAP50-95 ahead of this student: either the student has learned what it could, or the teacher "
            "has little to teach; then train it longer, larger or from start weights (docs/distillation.md)"]  # fmt: skip


def _whole_teacher(trainer: Any, path: str) -> FrozenTeacher | None:
    """The teacher from its file: in the run, its head may be gone. None where the file was moved away in the meantime."""
    try:
        return load_teacher(path, trainer.data["nc"], trainer.data["names"], trainer.settings.network.map_classes)
    except UserError:
        return None


def _teacher_scores(trainer: Any, teacher: FrozenTeacher) -> dict[str, float]:
    """The teacher's metrics on the run's validation images, empty where it has none there."""
    known = dict(enumerate(teacher.spec.names.values())) == dict(enumerate(trainer.data["names"].values()))
    if not known or not teacher.trained or teacher.spec.headless:
        return {}
    validator = Validator(trainer.test_loader, save_dir=trainer.save_dir, args=vars(trainer.args) | {"plots": False})
    validator.collect = True  # prints no table of its own
    scores: dict[str, float] = validator(model=teacher.model)
    return scores


def _parameters(model: Any) -> int:
    return sum(p.numel() for p in model.parameters())
