"""The default: a method on features, and one on predictions where two heads predict the same things."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

from cfg import UserError
from distill.base import METHODS, Distiller, Spec
from distill.build import build_method
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
        parts = {features: build_method(features, student, teacher)}
        serving = ((name, part) for name in predictions if (part := _serving(name, student, teacher)))
        parts |= dict(islice(serving, 1))
        super().__init__(parts, {}, student)


def _serving(name: str, student: Spec, teacher: Spec) -> Distiller | None:
    """The method of this configuration, or None where it cannot serve the pair."""
    if student.headless:
        return None
    try:
        return build_method(name, student, teacher)
    except UserError:
        return None
