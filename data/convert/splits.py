"""Split lists: text files that name the images of a part, one a line."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cfg import UserError
from data.convert.base import Log, Record
from data.convert.names import WORSE, Catalogue, Name, parse_name
from data.files import read_list

WHOLE = "all"  # the part that holds everything when no split is given


@dataclass(frozen=True)
class Entry:
    """One line of the list of a part: the record that it names, by which name, and how far from the record's own."""

    part: str
    path: Path
    line: str
    record: int
    name: Name
    distance: int


def assign_parts(records: Sequence[Record], splits: dict[str, Path], log: Log) -> list[Record]:
    """Give every record its part from the split lists and return those that are listed.

    A line names an image by path or name, with or without suffix; text after a blank is ignored when the whole line
    names nothing (DeepPCB's and VOC's lists have a second column).

    Raises:
        UserError: unreadable list, a list none of whose lines is known, an ambiguous name, an image in two lists.
    """
    lists = {part: path for part, path in splits.items() if path.suffix.lower() != ".json"}
    if not lists:
        for record in records:
            record.part = record.part or WHOLE
        return list(records)
    for record in records:
        record.part = None
    images = Catalogue({i: parse_name(r.key + (r.image.suffix if r.image else "")) for i, r in enumerate(records)})
    by_record: dict[int, list[Entry]] = defaultdict(list)
    for part, path in lists.items():
        for entry in _entries(part, path, images, log):
            by_record[entry.record].append(entry)
    for number, named in by_record.items():
        records[number].part = _part(named, log)
    return [record for record in records if record.part]


def _entries(part: str, path: Path, images: Catalogue[int], log: Log) -> list[Entry]:
    lines = read_list(path)
    entries = [_entry(part, path, line, images) for line in dict.fromkeys(lines)]
    if not any(entries):
        raise UserError(f"{path}: expected names of images below the source, got '{(lines or [''])[0]}', which "
                        "like all lines names none; check --source and the list")
    for line, entry in zip(dict.fromkeys(lines), entries):
        if not entry:
            log.skip(path, f"'{line}' names no usable image")
    return [entry for entry in entries if entry]


def _entry(part: str, path: Path, line: str, images: Catalogue[int]) -> Entry | None:
    """Return what a line names, ``None`` when it names no image."""
    for text in (line, line.split()[0]):
        name = parse_name(text)
        found = images.closest(name)
        found = [i for i in found if images.names[i].folders == name.folders] or found  # the whole path
        if len(found) > 1:
            raise UserError(f"{path}: expected a distinct name, got '{line}', which {len(found)} images have; "
                            "write the path below the source, with its suffix")
        if found:
            return Entry(part, path, line, found[0], name, images.distance(name, found[0]))
    return None


def _part(named: list[Entry], log: Log) -> str | None:
    """Return the part of one image from the lines that name it; a namesake in another folder does not count."""
    least = min(entry.distance for entry in named)
    closest = [entry for entry in named if entry.distance == least]
    if least and len({entry.name.parts for entry in closest}) > 1:
        closest = []
    elif least >= WORSE:
        log.mend("split lists: names in another case or with another suffix", closest[0].path, closest[0].line)
    for entry in named:
        if entry not in closest:
            log.skip(entry.path, f"'{entry.line}' names no usable image")
    parts = list(dict.fromkeys(entry.part for entry in closest))
    if len(parts) > 1:
        raise UserError(f"{closest[-1].path}: expected distinct splits, got '{closest[-1].line}' in {parts[0]} too; "
                        "remove one")
    return parts[0] if parts else None
