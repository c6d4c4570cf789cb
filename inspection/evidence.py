"""What a set of labelled images says about a detector under a plan: the scores of its units, and which of them are NG."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from inspection.plan import ANY_LABEL, Plan
from inspection.rules import Found, class_scores


@dataclass(frozen=True)
class Image:
    """One labelled image and what was found in it.

    Attributes:
        name: as lists call it.
        height, width: in pixels.
        labels: the true boxes; their scores are 1.
        found: the boxes that were found, down to a low score.
        group: the part or lot that it shows; its own name where every image is one.
    """

    name: str
    height: int
    width: int
    labels: Found
    found: Found
    group: str = ""


@dataclass(frozen=True)
class Evidence:
    """The units of a set: images, or the parts or lots that they show; a unit has the highest scores of its images.

    Attributes:
        images: all of them.
        names: (U,) of the units.
        scores: (U, K) score of each class (`inspection.rules.class_scores`).
        defects: (U, K) whether a label of the class is there that makes it NG.
        of: (I,) the unit of each image.
        unit: what a unit is: `image`, or the column that says which images belong together.
    """

    images: tuple[Image, ...]
    names: tuple[str, ...]
    scores: np.ndarray
    defects: np.ndarray
    of: np.ndarray
    unit: str = "image"

    @cached_property
    def ng(self) -> np.ndarray:
        """(U,) whether a unit is NG."""
        ng: np.ndarray = np.any(self.defects, axis=1)
        return ng

    @property
    def plural(self) -> str:
        """What messages call the units."""
        return "images" if self.unit == "image" else f"units (images of one {self.unit})"

    def fingerprint(self) -> str:
        """Digest of the images' names and labels: which evidence it was, under whatever rules."""
        digest = hashlib.sha256("\n".join(image.name for image in self.images).encode(errors="surrogateescape"))
        for image in self.images:
            for array in (image.labels.classes.astype(np.int64), image.labels.boxes_xyxy.astype(np.float64).round(2)):
                digest.update(np.ascontiguousarray(array).tobytes() + b"|")
        return digest.hexdigest()[:16]


def gather(plan: Plan, images: Sequence[Image], unit: str = "image") -> Evidence:
    """The evidence of `images` under the rules of a plan, with or without thresholds; images of one `group` are one unit."""
    groups = [image.group or image.name for image in images]
    names = tuple(dict.fromkeys(groups))
    place = {name: index for index, name in enumerate(names)}
    of = np.array([place[group] for group in groups], dtype=int)
    scores, defects = np.zeros((len(names), len(plan.rules))), np.zeros((len(names), len(plan.rules)), dtype=bool)
    for row, image in zip(of, images, strict=True):
        scores[row] = np.maximum(scores[row], class_scores(plan, image.found, image.height, image.width))
        defects[row] |= defective(plan, image)
    return Evidence(tuple(images), names, scores, defects, of, unit)


def defective(plan: Plan, image: Image) -> np.ndarray:
    """Which classes (K,) make an image NG: by any label of theirs, or by those that count under the rules (`Plan.ng_images`)."""
    if plan.ng_images == ANY_LABEL:
        return plan.counting & (np.bincount(image.labels.classes.astype(int), minlength=len(plan.rules)) > 0)
    return class_scores(plan, image.labels, image.height, image.width) > 0


def without_rules(plan: Plan, index: int | None = None, rule: str = "") -> Plan:
    """The plan without its regions (no `index`), or without the `rule` of class `index`."""
    if index is None:
        return replace(plan, regions=type(plan.regions)())
    default = getattr(type(plan.rules[index]), rule)
    rules = tuple(replace(r, **{rule: default}) if n == index else r for n, r in enumerate(plan.rules))
    return replace(plan, rules=rules)
