"""What a report is about: every image with its verdict, its boxes and, where there are some, its labels."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from inspection.plan import Plan
from inspection.rules import Code, Found, Verdict

# In the order in which a person should look: key, title, what it means.
GROUPS = {
    "escape": ("Escape", "labelled NG, passed as OK"),
    "overkill": ("Overkill", "labelled OK, rejected"),
    "review": ("Review", "left to a person"),
    "undefined": ("Undefined", "nothing could be decided"),
    "ng": ("NG", "rejected"),
    "missed": ("Missed", "labelled, but nothing was found"),
    "false": ("Without label", "something was found, nothing is labelled"),
    "found": ("With detections", "something was found"),
    "ok": ("OK", "passed"),
    "clear": ("Without detections", "nothing was found"),
}
UNEVENTFUL = frozenset({"ok", "clear"})  # images of which none is shown


@dataclass(frozen=True)
class Seen:
    """One image that was looked at.

    Attributes:
        name: as the run calls it.
        height, width: in pixels.
        found: the boxes to be shown.
        verdict: None without a plan.
        labels: the true boxes; None where it is not known what is there.
        labelled_ng: whether the labels make it NG; None where that is not known.
        thumbnail: file name of its small image, empty for none.
    """

    name: str
    height: int
    width: int
    found: Found
    verdict: Verdict | None = None
    labels: Found | None = None
    labelled_ng: bool | None = None
    thumbnail: str = ""

    @cached_property
    def group(self) -> str:
        """The key of `GROUPS` that it belongs to."""
        if self.verdict is None:
            something = len(self.found.scores) > 0
            if self.labelled_ng is not None and something != self.labelled_ng:
                return "false" if something else "missed"
            return "found" if something else "clear"
        code = self.verdict.code
        if code == Code.OK:
            return "escape" if self.labelled_ng else "ok"
        if code == Code.NG:
            return "overkill" if self.labelled_ng is False else "ng"
        return "review" if code == Code.REVIEW else "undefined"

    @property
    def rejected(self) -> bool:
        """Whether it counts as NG; without a plan, whether something was found."""
        return len(self.found.scores) > 0 if self.verdict is None else self.verdict.code == Code.NG

    @property
    def defects(self) -> np.ndarray:
        """Indices of the boxes that count as defects: those at the limit of their class; without a plan all."""
        return np.arange(len(self.found.scores)) if self.verdict is None else self.verdict.boxes

    @property
    def score(self) -> float:
        """Of the verdict; without a plan the highest of all boxes."""
        return float(self.found.scores.max(initial=0.0)) if self.verdict is None else self.verdict.score


@dataclass(frozen=True)
class Content:
    """All that a report shows.

    Attributes:
        title: of the page.
        names: class names by index.
        seen: the images, in the order in which they were looked at; gone through several times.
        plan: None where nothing was decided.
        promise: sentences about what is promised, and what that rests on.
        facts: (what, value) of the run: model, data, settings, versions.
        suspects: (image, what is suspicious of its labels), most suspicious first.
        skipped: (source, reason) of what could not be looked at; `more_skipped`: how many more there are.
        chosen: the images that are shown, as `grouped`; None for all.
    """

    title: str
    names: Sequence[str]
    seen: Collection[Seen]
    plan: Plan | None = None
    promise: Sequence[str] = ()
    facts: Sequence[tuple[str, str]] = ()
    suspects: Sequence[tuple[str, str]] = ()
    skipped: Sequence[tuple[str, str]] = field(default=())
    more_skipped: int = 0
    chosen: Mapping[str, Sequence[Seen]] | None = None

    @cached_property
    def groups(self) -> Mapping[str, Sequence[Seen]]:
        """The images that are shown, as `grouped`."""
        return grouped(self.seen) if self.chosen is None else self.chosen

    @cached_property
    def counts(self) -> Counter[str]:
        """How many images each group has, those that are not shown included."""
        return Counter(picture.group for picture in self.seen)

    @property
    def not_shown(self) -> int:
        """How many images are left out of groups that are shown."""
        return sum(self.counts[key] - len(pictures) for key, pictures in self.groups.items())


def grouped(seen: Iterable[Seen], most: int | None = None) -> dict[str, list[Seen]]:
    """The eventful images by group, groups in the order of `GROUPS`; within one the clearest first, escapes the least seen first.

    Args:
        most: images of a group that are kept, the first ones; None for all.
    """
    groups: dict[str, list[tuple[float, int, Seen]]] = {key: [] for key in GROUPS}
    for number, picture in enumerate(seen):
        if (key := picture.group) not in UNEVENTFUL:
            entry = (-picture.score if key == "escape" else picture.score, -number, picture)
            if most is None or len(groups[key]) < most:
                heapq.heappush(groups[key], entry)
            else:
                heapq.heappushpop(groups[key], entry)
    return {key: [picture for *_, picture in sorted(heap, reverse=True)] for key, heap in groups.items() if heap}
