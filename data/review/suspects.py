"""Where a model and the labels disagree: missing and extra labels, wrong classes, bad boxes, each with its evidence.

A label has *support*: the highest score of a box found there. How far it stays behind what labels of its class usually get
is the suspicion that the label is extra, so that a class which the model hardly finds raises no alarm; how badly boxes of a
class usually fit is minded in the same way. The kinds of error are those of ObjectLab (Tkachenko et al. 2023,
arXiv:2309.00832), which it scores one image at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

MISSING, EXTRA, CLASS, BOX = KINDS = ("missing", "extra", "class", "box")
APART = 0.2  # IoU below which two boxes are not about the same object
TOUCH = 0.1  # IoU from which a found box may be the same object's as a label that lies badly
SAME = 0.5  # IoU from which a label lies well
SEEN = 0.1  # score from which a found box tells where an object lies
RARE = 0.1  # a label is extra, or lies badly, only if so small a share of its class fares as ill
LOWEST = 0.05  # suspicion below which nothing is listed


@dataclass(frozen=True)
class Objects:
    """Boxes of one image: `boxes_xyxy` (n, 4) in pixels, `classes` (n,) indices, `scores` (n,), empty for labels."""

    boxes_xyxy: np.ndarray
    classes: np.ndarray
    scores: np.ndarray = field(default_factory=lambda: np.zeros(0))

    def __len__(self) -> int:
        return len(self.classes)


@dataclass(frozen=True)
class Suspect:
    """One disagreement.

    Attributes:
        image: index of the image.
        kind: ``missing`` (no label where the model is sure), ``extra`` (a label where it sees nothing), ``class`` (it sees
            another class), ``box`` (it sees the object beside the label).
        suspicion: 0 to 1; the list is ranked by it.
        label: index of the label in its image, None for a missing one.
        found: index of the found box, None for an extra label of which the model sees nothing.
        score: of that box; 0 where there is none.
        iou: of that box and the label; of the nearest label for a missing one.
        usual: support that labels of the class usually get.
    """

    image: int
    kind: str
    suspicion: float
    label: int | None
    found: int | None
    score: float
    iou: float
    usual: float = 0.0


@dataclass(frozen=True)
class Support:
    """What was found at the labels of an image, (n,) each; an index is -1 where nothing was.

    Attributes:
        same, other, beside: highest score of a box of the label's class that lies on it (weighed by how well), of another
            class that does, and of a box of its class that touches it.
        same_at, other_at, beside_at: indices of these boxes.
        lies: IoU of the label with the box of its class that fits best.
    """

    same: np.ndarray
    other: np.ndarray
    beside: np.ndarray
    same_at: np.ndarray
    other_at: np.ndarray
    beside_at: np.ndarray
    lies: np.ndarray


@dataclass(frozen=True)
class Usual:
    """How the labels of one class usually fare: their supports and their fits (`Support.same`, `lies`), sorted, (n,) each."""

    supports: np.ndarray
    fits: np.ndarray

    @property
    def support(self) -> float:
        """The median support, 0 where there is no label."""
        return float(np.median(self.supports)) if len(self.supports) else 0.0


def find_suspects(labels: Sequence[Objects], found: Sequence[Objects], classes: int) -> list[Suspect]:
    """Return the disagreements of all images, most suspicious first.

    Args:
        labels, found: per image, in the same order. `found` should hold boxes of low scores too (0.001): that the model
            sees nothing is evidence only then.
        classes: number of classes.
    """
    overlaps = [iou(a.boxes_xyxy, b.boxes_xyxy) for a, b in zip(labels, found, strict=True)]
    supports = [_support(*image) for image in zip(labels, found, overlaps, strict=True)]
    usual = _usual(labels, supports, classes)
    suspects: list[Suspect] = []
    for index, (given, seen, overlap, support) in enumerate(zip(labels, found, overlaps, supports, strict=True)):
        here = _at_labels(given, overlap, support, usual)
        taken = {suspect.found for suspect in here if suspect.kind == BOX}
        here += _missing(seen, overlap, usual, taken)
        suspects += [replace(suspect, image=index) for suspect in here if suspect.suspicion >= LOWEST]
    return sorted(suspects, key=lambda suspect: -suspect.suspicion)


def iou(a_xyxy: np.ndarray, b_xyxy: np.ndarray) -> np.ndarray:
    """Return the overlap (n, m), intersection over union, of boxes (n, 4) with boxes (m, 4)."""
    a, b = (np.asarray(boxes, dtype=np.float64).reshape(-1, 4) for boxes in (a_xyxy, b_xyxy))
    sides = np.minimum(a[:, None, 2:], b[None, :, 2:]) - np.maximum(a[:, None, :2], b[None, :, :2])
    shared = sides.clip(0).prod(2)
    area_a, area_b = ((boxes[:, 2:] - boxes[:, :2]).prod(1) for boxes in (a, b))
    overlap: np.ndarray = shared / np.maximum(area_a[:, None] + area_b[None] - shared, 1e-9)
    return overlap


def _support(labels: Objects, found: Objects, overlap: np.ndarray) -> Support:
    same = labels.classes[:, None] == found.classes[None]
    on = np.clip((overlap - APART) / (SAME - APART), 0.0, 1.0) * found.scores[None]
    beside = np.where(same & (overlap >= TOUCH) & (overlap < SAME), found.scores[None], 0.0)
    best: dict[str, np.ndarray] = {}
    for name, scores in (("same", np.where(same, on, 0.0)), ("other", np.where(same, 0.0, on)), ("beside", beside)):
        best[name] = scores.max(1, initial=0.0)
        at = scores.argmax(1) if len(found) else np.zeros(len(labels), dtype=int)
        best[f"{name}_at"] = np.where(best[name] > 0, at, -1)
    lies = np.where(same & (found.scores[None] >= SEEN), overlap, 0.0).max(1, initial=0.0)
    return Support(**best, lies=lies)


def _usual(labels: Sequence[Objects], supports: Sequence[Support], classes: int) -> list[Usual]:
    given, scores, lies = (
        np.concatenate([np.zeros(0), *values])
        for values in ([x.classes for x in labels], [x.same for x in supports], [x.lies for x in supports])
    )
    of_class = [given == index for index in range(classes)]
    return [Usual(np.sort(scores[mask]), np.sort(lies[mask])) for mask in of_class]


def _rarity(value: float, among: np.ndarray) -> float:
    """1 for the lowest of sorted values, falling to 0 at those that a share `RARE` of them lie below."""
    return float(np.clip(1.0 - np.searchsorted(among, value) / (RARE * max(len(among), 1)), 0.0, 1.0))


def _at_labels(labels: Objects, overlap: np.ndarray, support: Support, usual: Sequence[Usual]) -> list[Suspect]:
    """The most suspicious reading of each label: extra, of another class, or badly placed. `image` is left 0."""
    suspects = []
    for label, index in enumerate(labels.classes.astype(int)):
        same, other, beside = (float(values[label]) for values in (support.same, support.other, support.beside))
        expected = usual[index]
        seen = max(same, other, beside)
        readings = {
            EXTRA: ((expected.support - seen) * _rarity(same, expected.supports), seen, -1),
            CLASS: (other - same, other, support.other_at[label]),
            BOX: ((beside - same) * _rarity(support.lies[label], expected.fits), beside, support.beside_at[label]),
        }
        kind = max(readings, key=lambda name: readings[name][0])
        suspicion, score, at = readings[kind]
        if suspicion > 0:
            found = int(at) if at >= 0 else None
            lies = 0.0 if found is None else float(overlap[label, found])
            suspects.append(Suspect(0, kind, suspicion, label, found, score, lies, expected.support))
    return suspects


def _missing(found: Objects, overlap: np.ndarray, usual: Sequence[Usual], taken: set[int | None]) -> list[Suspect]:
    """Found boxes that no label is near, the highest of each place. `image` is left 0."""
    nearest = overlap.max(0, initial=0.0)
    suspects: list[Suspect] = []
    chosen: list[int] = []
    for i in np.argsort(-found.scores, kind="stable").tolist():
        score = float(found.scores[i])
        if score < LOWEST:
            break
        if nearest[i] >= APART or i in taken:
            continue
        if chosen and iou(found.boxes_xyxy[[i]], found.boxes_xyxy[chosen]).max() >= APART:
            continue
        chosen.append(i)
        expected = usual[int(found.classes[i])].support
        suspects.append(Suspect(0, MISSING, score, None, i, score, float(nearest[i]), expected))
    return suspects
