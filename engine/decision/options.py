"""The decision options of val.py, checked before anything slow."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from cfg import UserError
from inspection.groups import DEFAULT, read_groups
from inspection.promise import JOINT, Wish


@dataclass(frozen=True)
class DecisionOptions:
    """Arguments of val.py.

    Attributes:
        decide: choose thresholds; else only judge under the plan of `decision` or the one inside the weights.
        wish: what is to be promised.
        decision: file of the plan to start from, or to judge by.
        group_by, groups: column that says which images are one part or lot, and its CSV file (beside the data YAML by default).
        embed: put the plan into the weights.
    """

    decide: bool = False
    wish: Wish = field(default_factory=lambda: Wish(0.01))
    decision: str | None = None
    group_by: str | None = None
    groups: str | None = None
    embed: bool = False

    def read_groups(self, data: Path) -> tuple[dict[str, str], Path] | None:
        """The groups by image, and their file; None without `group_by`. Raises `UserError`."""
        if self.group_by is None:
            return None
        path = Path(self.groups) if self.groups else data.parent / DEFAULT
        return read_groups(path, self.group_by), path


def decision_options(
    decide: bool, max_escape: float | None, confidence: float, max_overkill: float | None, per_class: bool, decision: str | None,
    group_by: str | None, groups: str | None, embed: bool,
) -> DecisionOptions:  # fmt: skip
    """The options of a command line. Raises `UserError` where they do not fit together."""
    if groups and not group_by:
        raise UserError("--groups: expected the column that names the units beside it; add --group-by COLUMN")
    if not decide:
        given = {"--max-escape": max_escape, "--max-overkill": max_overkill, "--per-class": per_class, "--embed": embed}
        if wrong := next((name for name, value in given.items() if value), None):
            raise UserError(f"{wrong}: expected with --decide, which chooses thresholds; add --decide, or leave {wrong} out")
        return DecisionOptions(decision=decision, wish=Wish(0.01, confidence), group_by=group_by, groups=groups)
    if max_escape is None:
        raise UserError("--decide: expected the largest share of NG images that may pass as OK; add --max-escape 0.01, or what you need")
    for name, value in (("--max-escape", max_escape), ("--confidence", confidence), ("--max-overkill", max_overkill)):
        if value is not None and not 0 < value < 1:
            raise UserError(f"{name}: expected a number between 0 and 1, got {value:g}; 0.01 is 1 %")
    wish = Wish(max_escape, confidence, max_overkill, "per-class" if per_class else JOINT)
    return DecisionOptions(True, wish, decision, group_by, groups, embed)
