"""Several distillation methods at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from cfg import UserError
from distill.base import Distiller, Spec, Step, portions_of


class Combined(Distiller):
    """The terms of several methods side by side, each with its own strength; what is costly in a step is shared.

    Args:
        parts: method by its name in `--distill`.
        strengths: factor on each method's gradient ratio (see `Balance`), 1 where left out.
        student: of all of them.

    Raises:
        UserError: two methods have a term or a weight of one name, or both make a teacher themselves.
    """

    def __init__(self, parts: Mapping[str, Distiller], strengths: Mapping[str, float], student: Spec) -> None:
        self.uses_teacher = False  # its parts say; they were given theirs
        super().__init__(student, None)
        _check(parts)
        self.parts: Any = nn.ModuleDict({name.replace(".", "_"): part for name, part in parts.items()})
        self.uses_teacher = any(part.uses_teacher for part in parts.values())
        self.reads_head = any(part.reads_head for part in parts.values())
        self.label_free = all(part.label_free for part in parts.values())
        self.freeze_until = max(part.freeze_until for part in parts.values())
        self.pairs = list(dict.fromkeys(name for part in parts.values() for name in part.pairs))
        self.terms = tuple(
            replace(term, portion=portions_of(part.terms).get(term.weight), strength=strengths.get(name, 1.0))
            for name, part in parts.items()
            for term in part.terms
        )

    def prepare(self, height: int, width: int) -> None:
        for part in self.parts.values():
            part.prepare(height, width)

    def losses(self, step: Step) -> dict[str, Tensor]:
        return {term: value for part in self.parts.values() for term, value in part.losses(step).items()}

    def trust(self) -> dict[str, float]:
        return {weight: factor for part in self.parts.values() for weight, factor in part.trust().items()}

    def describe(self) -> str:
        return "; ".join(f"{name} ({part.describe()})" for name, part in self.parts.items())


def _check(parts: Mapping[str, Distiller]) -> None:
    """Raise `UserError` for methods that cannot stand side by side."""
    makers = [name for name, part in parts.items() if any(term.own for term in part.terms)]
    if len(makers) > 1:
        raise UserError(f"distill: {' and '.join(makers)} both make a teacher of their own; name one of them")
    known: set[str] = set()
    for name, part in parts.items():
        of_part = {x for term in part.terms for x in (term.name, term.weight)}
        if of_part & known:
            raise UserError(f"distill: '{name}' has terms of a method before it; name each method once")
        known |= of_part
