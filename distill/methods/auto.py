"""The default: a method on features, and one on predictions where two heads predict the same things."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

from cfg import UserError
from distill.base import METHODS, Distiller, Spec
from distill.build import build_method, method_of
from distill.combined import Combined


@METHODS.register("auto")
class Auto(Combined):
    """A method that compares features and, where both heads predict the same things, one that compares predictions.

    Args:
        features: configuration for any two networks.
        predictions: configurations to take the first of that can serve the pair; none is added where none can.

    Raises:
        UserError: the pair has no common stride or other classes, or a configuration is unknown.
    """

    uses_teacher = True
    label_free = True

    def __init__(self, student: Spec, teacher: Spec | None, features: str = "pkd", predictions: Sequence[str] = ()) -> None:
        if teacher is None:
            raise UserError("auto needs a teacher; give one with --teacher t.pt")
        if not isinstance(features, str):
            raise UserError(f"auto: expected features to be the name of a configuration as pkd, got {features!r}; correct it")
        if not isinstance(predictions, (list, tuple)) or not all(isinstance(name, str) for name in predictions):
            raise UserError(f"auto: expected predictions to be a list of configurations as [output], got {predictions!r}; correct it")
        parts = {features: build_method(features, student, teacher)}
        serving = ((name, part) for name in predictions if (part := _serving(name, student, teacher)))
        parts |= dict(islice(serving, 1))
        super().__init__(parts, {}, student)


def _serving(name: str, student: Spec, teacher: Spec) -> Distiller | None:
    """The method of this configuration, or None where it cannot serve the pair. Raises `UserError` for an unknown one."""
    method_of(name)
    if student.headless:
        return None
    try:
        return build_method(name, student, teacher)
    except UserError:
        return None
