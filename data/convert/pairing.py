"""From annotations to records: which image each annotation belongs to, where names are stale, missing or shared.

The name that an annotation gives decides. Where no image bears it, the annotation file's own name does: images and
annotation files are often renamed together, and the name inside stays behind. Where both name an image, and not the
same, the own name decides if the other image belongs to another annotation. No image gets two annotations.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cfg import UserError
from data.convert.base import Annotation, Log, Reader, Record
from data.convert.index import ImageIndex, Match, NoImage, is_mask_folder
from data.convert.names import nearness, parse_name


@dataclass(eq=False)
class Choice:
    """An annotation with the images that its two names mean; `reason` says why the name inside means none."""

    annotation: Annotation
    named: Match | None = None
    own: Match | None = None
    reason: str = ""
    match: Match | None = None

    @property
    def names(self) -> list[str]:
        """Return the names that were looked for."""
        return [name for name in (self.annotation.name, self.annotation.own_name) if name]


def pair(annotations: Iterable[Annotation], reader: Reader, log: Log) -> list[Record]:
    """Return one record per image, in the order of the annotations; note in the log what was left out or guessed.

    Raises:
        UserError: an image is in two splits.
    """
    annotations = list(annotations)
    homes = find_homes(annotations, reader.index)
    choices = [_choices(a, reader, homes.get(a.origin.parent)) for a in annotations]
    named = Counter(c.named.image for c in choices if c.named)
    own = Counter(c.own.image for c in choices if c.own)
    for choice in choices:
        choice.match = _decide(choice, named, own, log)
    return _one_per_image(choices, reader, log)


def find_homes(annotations: Iterable[Annotation], index: ImageIndex) -> dict[Path, tuple[str, ...]]:
    """Return, for folders of annotation files, the folder that holds most of their images: itself or its counterpart.

    Where images are numbered in each folder, `left/1.png` must not stand in for a missing `right/1.png`. A
    counterpart shares all but one folder: `images/left` and `xml/left`, `left/images` and `left/xml`.
    """
    files: dict[Path, list[Annotation]] = defaultdict(list)
    for annotation in annotations:
        if annotation.own_name and annotation.origin.is_relative_to(index.source):
            files[annotation.origin.parent].append(annotation)
    homes = {}
    for folder, group in files.items():
        own = folder.relative_to(index.source).parts
        places = [place for place in index.folders if place == own or (not is_mask_folder(place)
                  and 0 < nearness(place, own) >= max(len(place), len(own)) - 1)]
        held = [place for place in places if sum(index.holds(place, a.own_name) for a in group) * 2 > len(group)]
        if own in held or len(held) == 1:
            homes[folder] = own if own in held else held[0]
    return homes


def _choices(annotation: Annotation, reader: Reader, home: tuple[str, ...] | None) -> Choice:
    choice = Choice(annotation)
    try:
        if annotation.name:
            choice.named = reader.index.find(annotation.name, annotation.origin, annotation.folders, annotation.hints,
                                             home)
    except NoImage as error:
        choice.reason = f"{error}"
        if not error.absent:
            return choice
    except ValueError as error:
        choice.reason = f"its name cannot be read ({error})"
    if not annotation.own_name or _stem(annotation.own_name) == _stem(annotation.name):
        return choice
    try:
        choice.own = reader.index.find(annotation.own_name, annotation.origin, annotation.folders, home=home)
    except ValueError as error:
        choice.reason = choice.reason or f"{error}"
    return choice


def _stem(name: str) -> str:
    try:
        return parse_name(name).stem.casefold()
    except ValueError:
        return ""


def _decide(choice: Choice, named: Counter[Path], own: Counter[Path], log: Log) -> Match | None:
    """Return the match to use; `named` and `own` count how many annotations mean an image by either name."""
    origin, name, first, second = choice.annotation.origin, choice.annotation.name, choice.named, choice.own
    if not first or not second or first.image == second.image:
        if second and name and not first:
            log.mend("names that no image bears: the annotation file's own name taken", origin,
                     f"'{name}' is not there, {second.image} is")
        return first or second
    if not first.named or own[first.image] or named[first.image] > 1:
        log.mend("stale names: the annotation file's own name taken", origin,
                 f"'{name}' is another annotation's image or is not there, {second.image} is its own")
        return second
    log.mend("names that differ from the annotation file's own: the name inside taken", origin,
             f"{first.image}, not {second.image}")
    return first


def _one_per_image(choices: list[Choice], reader: Reader, log: Log) -> list[Record]:
    claims: dict[Path, list[Choice]] = defaultdict(list)
    for choice in choices:
        if choice.match:
            claims[choice.match.image].append(choice)
    for image, claimed in claims.items():
        _settle(image, claimed, log)
    records = []
    for choice in choices:
        annotation, match = choice.annotation, choice.match
        if match:
            if match.how:
                log.mend(f"images found {match.how}", annotation.origin, f"{choice.names[0]} taken as {match.image}")
            records.append(Record(match.image, reader.key(match.image), annotation, annotation.part))
        elif annotation.embedded:
            log.doubtful.update(choice.names)
            records.append(Record(None, reader.key(annotation.origin), annotation, annotation.part))
        elif choice.reason:
            log.skip(annotation.origin if annotation.own_name else Path(annotation.name), choice.reason, *choice.names)
    return records


def _settle(image: Path, claimed: list[Choice], log: Log) -> None:
    """Leave an image to the annotation whose name is most like its own; say of the others why they are left out."""
    claimed.sort(key=_likeness)
    first, best = claimed[0], [choice for choice in claimed if _likeness(choice) == _likeness(claimed[0])]
    for choice in best[1:]:
        if choice.annotation.part != first.annotation.part:
            raise UserError(f"{choice.annotation.origin}: expected distinct splits, got {image.name} in "
                            f"{first.annotation.part} and in {choice.annotation.part}; remove it from one")
    if _likeness(first)[0] and len({choice.annotation.name for choice in best}) > 1:
        for choice in claimed:
            choice.match, choice.reason = None, f"its image was not found, and {image} may be another"
        return
    for choice in claimed[1:]:
        if choice not in best:
            owner = first.annotation.name or first.annotation.origin
            choice.match, choice.reason = None, f"its image was not found, and {image} belongs to '{owner}'"
            continue
        choice.match, choice.annotation.embedded = None, None
        choice.reason = f"annotates {image} again, after {first.annotation.origin}"
        if not choice.annotation.own_name and choice.annotation.origin == first.annotation.origin:
            _join(first.annotation, choice, image, log)


def _likeness(choice: Choice) -> tuple[int, int]:
    assert choice.match is not None  # of those that claim an image
    return choice.match.distance, -choice.match.nearness


def _join(first: Annotation, again: Choice, image: Path, log: Log) -> None:
    """Join a second entry for an image, of the same annotation file, to the first."""
    log.mend("images listed twice: boxes joined", first.origin, f"{image}")
    first.boxes_xyxy += again.annotation.boxes_xyxy
    first.lost += again.annotation.lost
    first.size = first.size or again.annotation.size
    again.reason = ""
