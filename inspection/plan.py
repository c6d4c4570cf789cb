"""The decision plan, `decision.yaml`: which boxes of which class make a part OK, NG or a case for a person.

The file is meant to be edited by hand; reading it is strict. `inspection.rules` decides by it, `inspection.promise` chooses its
thresholds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from cfg.class_names import shown

SEVERITIES = ("critical", "major", "minor", "none")  # boxes of `none` never count
ANY_LABEL, BY_RULES = "any_label", "by_rules"
PIXELS, RELATIVE = "pixels", "relative"

Polygon = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class ClassRule:
    """What is asked of the boxes of one class.

    Attributes:
        threshold: a box with this score or more makes the image NG; None before it was chosen.
        review: a box with this score or more, below `threshold`, leaves the image to a person; None for no such zone.
        severity: one of `SEVERITIES`: which class a verdict names first; boxes of a class of severity `none` never count.
        min_length_mm: boxes whose diagonal is shorter do not count. A box bounds the length of a straight scratch only: its longer
            side <= length <= its diagonal. The diagonal is used, so that no defect of the minimum length is passed over.
        min_area_mm2: boxes with a smaller area do not count. A box's area is the most that the defect in it can have.
        max_count: how many such boxes an image may have.
    """

    threshold: float | None = None
    review: float | None = None
    severity: str = "major"
    min_length_mm: float = 0.0
    min_area_mm2: float = 0.0
    max_count: int = 0


@dataclass(frozen=True)
class Regions:
    """Where to look, as polygons (x, y).

    A box counts when any part of it lies in a polygon of `look_at` (if there are any), and it does not lie as a whole in one of
    `leave_out`: a defect on a border is looked at.

    Attributes:
        unit: `pixels` of an image of `width` x `height`, or `relative` (fractions of width and height).
    """

    unit: str = RELATIVE
    look_at: tuple[Polygon, ...] = ()
    leave_out: tuple[Polygon, ...] = ()
    width: int | None = None
    height: int | None = None


@dataclass(frozen=True)
class Tiling:
    """How images are cut before detection: side of a tile in pixels, overlap as a fraction of it."""

    size: int
    overlap: float = 0.2


@dataclass(frozen=True)
class ModelFile:
    """The file that the plan was made for.

    Attributes:
        sha256: digest of the weights without the metadata, so that a plan can be embedded.
        kind: `pytorch`, `onnx`, `openvino`, `torchscript`; with `-int8` where weights are quantised.
        imgsz, iou, precision: how it was run when thresholds were chosen.
    """

    sha256: str
    kind: str
    imgsz: int | None = None
    iou: float | None = None
    precision: str | None = None


@dataclass(frozen=True)
class Promise:
    """What was promised, on which evidence (`inspection.promise`).

    Attributes:
        max_escape: alpha, the largest share of NG units that pass as OK ...
        confidence: ... at this confidence, 1 - delta.
        max_overkill: beta, the same for OK units that are rejected; None where nothing was promised.
        method: `joint` (one scalar for all classes) or `per-class`.
        unit: `image`, or the name of the column that says which images are of one part or lot.
        ng, ok: units of each kind that thresholds were chosen on.
        misses: NG units of them that pass as OK; `misses_allowed`: the most for which the promise would hold.
        overkills, reviews: OK units rejected and left to a person.
        overkill_interval: Clopper-Pearson, two-sided, at `confidence`.
        data, split, fingerprint: what it rests on; `fingerprint` is the digest of image names and labels.
        date: when, ISO 8601.
        rules: digest of the thresholds and rules that it holds for (`inspection.plan_file.rules_digest`).
    """

    max_escape: float
    confidence: float
    method: str
    unit: str
    ng: int
    ok: int
    misses: int
    misses_allowed: int
    overkills: int
    reviews: int
    overkill_interval: tuple[float, float]
    max_overkill: float | None = None
    data: str = ""
    split: str = ""
    fingerprint: str = ""
    date: str = ""
    rules: str = ""


@dataclass(frozen=True)
class Plan:
    """A decision plan; made by `inspection.plan_file.load_plan` or by `val.py --decide`.

    Attributes:
        names: class names of the model, by index.
        rules: one for each class, in the same order.
        mm_per_pixel: of the image as it was taken.
        ng_images: which images of a labelled set are NG: `any_label`, or `by_rules` (labels count under the same rules as boxes:
            what is shorter than `min_length_mm` is within the specification).
        model, promise: None for a plan that was written by hand.
    """

    names: tuple[str, ...]
    rules: tuple[ClassRule, ...]
    mm_per_pixel: float | None = None
    regions: Regions = field(default_factory=Regions)
    tiling: Tiling | None = None
    ng_images: str = ANY_LABEL
    model: ModelFile | None = None
    promise: Promise | None = None

    @cached_property
    def counting(self) -> np.ndarray:
        """(K,) whether boxes of a class count at all."""
        return np.array([rule.severity != "none" for rule in self.rules], dtype=bool)

    @cached_property
    def shown_names(self) -> tuple[str, ...]:
        """The class names as they are printed."""
        return tuple(map(shown, self.names))

    @cached_property
    def ranks(self) -> tuple[int, ...]:
        """The place of each class's severity in `SEVERITIES`: the most severe is 0."""
        return tuple(SEVERITIES.index(rule.severity) for rule in self.rules)

    @cached_property
    def thresholds(self) -> np.ndarray:
        """(K,) score from which a box of a class makes an image NG; infinite for classes that do not count or have none."""
        return _limits(self, [rule.threshold for rule in self.rules])

    @cached_property
    def review_limits(self) -> np.ndarray:
        """(K,) score from which an image is no longer OK: the review limit, else the threshold."""
        return _limits(self, [rule.threshold if rule.review is None else rule.review for rule in self.rules])

    @cached_property
    def has_review(self) -> bool:
        """Whether any class leaves images to a person."""
        return any(rule.review is not None for rule in self.rules)

    @cached_property
    def counts(self) -> tuple[int, ...]:
        """The classes of which an image may have some boxes."""
        return tuple(index for index, rule in enumerate(self.rules) if rule.max_count)

    @cached_property
    def complete(self) -> bool:
        """Whether every class that counts has a threshold."""
        return all(rule.threshold is not None for rule, counts in zip(self.rules, self.counting, strict=True) if counts)

    @property
    def lowest(self) -> float:
        """The lowest score that any decision looks at: boxes below it need not be kept. 1 where no class has a threshold."""
        return float(min(self.review_limits.min(), 1.0))

    @cached_property
    def has_sizes(self) -> bool:
        """Whether any class has a rule on length or area."""
        return any(rule.min_length_mm or rule.min_area_mm2 for rule in self.rules)

    @property
    def has_regions(self) -> bool:
        """Whether it matters where in the image a box lies."""
        return bool(self.regions.look_at or self.regions.leave_out)

    @cached_property
    def min_lengths(self) -> np.ndarray:
        """(K,) the shortest diagonal that counts, in mm."""
        return np.array([rule.min_length_mm for rule in self.rules], dtype=float)

    @cached_property
    def min_areas(self) -> np.ndarray:
        """(K,) the smallest area that counts, in mm^2."""
        return np.array([rule.min_area_mm2 for rule in self.rules], dtype=float)


def _limits(plan: Plan, values: Sequence[float | None]) -> np.ndarray:
    limits = np.array([np.inf if value is None else value for value in values], dtype=float)
    return np.where(plan.counting, limits, np.inf)
