"""Several distillation methods at once."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from cfg import UserError
from distill.base import Distiller, Step


class Combined(Distiller):
    """The terms of several methods side by side, each with its own strength; what is costly in a step is shared.

    Args:
        parts: method by the name it was asked for.
        strengths: factor on each method's pull (see `Balance`), 1 where left out.

    Raises:
        UserError: two methods have a term or a weight of one name, or both make a teacher themselves.
    """

    def __init__(self, parts: Mapping[str, Distiller], strengths: Mapping[str, float]) -> None:
        nn.Module.__init__(self)
        self.parts = nn.ModuleDict({name.replace(".", "_"): part for name, part in parts.items()})
        self.uses_teacher = any(part.uses_teacher for part in parts.values())
        self.reads_head = any(part.reads_head for part in parts.values())
        self.label_free = all(part.label_free for part in parts.values())
        self.own_terms = frozenset().union(*(part.own_terms for part in parts.values()))
        self.freeze_until = max(part.freeze_until for part in parts.values())
        self.pairs = list(dict.fromkeys(name for part in parts.values() for name in part.pairs))
        makers = [name for name, part in parts.items() if part.own_terms]
        if len(makers) > 1:
            raise UserError(f"distill: {' and '.join(makers)} both make a teacher of their own; name one of them")
        self.weight_names, self.strengths = {}, {}
        for name, part in parts.items():
            twice = set(part.weight_names) & set(self.weight_names)
            if twice or set(part.weight_names.values()) & set(self.weight_names.values()):
                raise UserError(f"distill: '{name}' has terms of a method before it; name each method once")
            self.weight_names |= part.weight_names
            self.strengths |= dict.fromkeys(part.weight_names.values(), strengths.get(name, 1.0))

    @property
    def portions(self) -> dict[str, float]:
        return {weight: portion for part in self.parts.values() for weight, portion in part.portions.items()}

    def prepare(self, height: int, width: int) -> None:
        for part in self.parts.values():
            part.prepare(height, width)

    def losses(self, step: Step) -> dict[str, Tensor]:
        return {term: value for part in self.parts.values() for term, value in part.losses(step).items()}

    def describe(self) -> str:
        return "; ".join(f"{name} ({part.describe()})" for name, part in self.parts.items())
