"""COCO detection JSON: `images`, `annotations` with `bbox` [x, y, width, height] in pixels, `categories` (Lin 2014)."""

from __future__ import annotations

import argparse
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cfg import UserError
from data.convert.base import Annotation, Box, Corners, Reader, class_name, pixels, register

LISTS = ("images", "annotations", "categories")


@register("coco")
class CocoReader(Reader):
    """Reads one JSON file for each part (`--splits train=train.json val=val.json`) or one for all (`--annotations`).

    Ids count within a file; classes are identified by name, so that each file may number them in its own way.
    """

    @staticmethod
    def add_arguments(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--annotations", type=Path, metavar="FILE",
                            help="the JSON file, where --splits names none (default: the only one below the source)")

    def read(self) -> Iterator[Annotation]:
        files = {part: path for part, path in self.options.splits.items() if path.suffix.lower() == ".json"}
        self.used: set[str] = set()
        for part, path in (files or {None: self._single()}).items():
            content = self._load(path)
            categories = self._categories(content["categories"], path)
            boxes, lost = self._boxes(content, categories, path)
            yield from self._images(content["images"], boxes, lost, path, part)
        for name in self.classes:
            if name not in self.used:
                self.log.mend("categories without a box: kept as classes", path, name)

    def _single(self) -> Path:
        given: Path | None = self.options.annotations
        if given:
            return given
        found = self.files(".json")
        if len(found) > 1:
            found = [path for path in found if self._is_coco(path)]
        if len(found) != 1:
            names = f": {', '.join(path.name for path in found[:3])}" if found else ""
            raise UserError(f"{self.source}: expected one COCO JSON file, got {len(found)}{names}; name them with "
                            "--annotations FILE or --splits train=FILE val=FILE")
        return found[0]

    def _is_coco(self, path: Path) -> bool:
        try:
            content = self.json(path)
        except (OSError, ValueError):
            return False
        return isinstance(content, dict) and all(isinstance(content.get(key), list) for key in LISTS)

    def _load(self, path: Path) -> dict[str, list[Any]]:
        try:
            content = self.json(path)
        except (OSError, ValueError) as error:
            raise UserError(f"{path}: expected a COCO JSON file, got one that cannot be read ({error}); correct it "
                            "or give another") from None
        if isinstance(content, dict) and all(isinstance(content.get(key), list) for key in LISTS):
            return content
        got = f"the keys {', '.join(map(str, list(content)[:6]))}" if isinstance(content, dict) else \
            f"a {type(content).__name__}"
        raise UserError(f"{path}: expected a COCO JSON file with the lists {', '.join(LISTS)}, got {got}; give a "
                        "detection file")

    def _categories(self, entries: list[Any], path: Path) -> dict[str, str]:
        """Return class names by id, and add them to `classes` in the order of the ids."""
        names: dict[str, str] = {}
        doubtful = set()
        for entry in entries:
            entry = entry if isinstance(entry, dict) else {}
            key, name = _key(entry.get("id")), class_name(entry.get("name"))
            if key is None or not name:
                self.log.lose("categories without an id or a name", path, str(entry)[:80])
            elif names.setdefault(key, name) != name:
                self.log.lose("category ids with two names", path, f"{key}: '{names[key]}' and '{name}'")
                doubtful.add(key)
        order = sorted(names, key=int) if all(map(str.isdecimal, names)) else list(names)
        for name, count in Counter(names.values()).items():
            if count > 1:
                ids = ", ".join(key for key in order if names[key] == name)
                self.log.mend("categories of one name joined", path, f"'{name}' has the ids {ids}")
        self.classes = tuple(dict.fromkeys((*self.classes, *(names[key] for key in order))))
        return {key: name for key, name in names.items() if key not in doubtful}

    def _boxes(self, content: dict[str, list[Any]], categories: dict[str, str],
               path: Path) -> tuple[dict[str, list[Box]], Counter[str]]:
        """Return boxes by image id, and how many annotations of an image have none.

        Raises:
            UserError: no annotation of the file can be used.
        """
        boxes: dict[str, list[Box]] = defaultdict(list)
        lost: Counter[str] = Counter()
        images = {_key(entry.get("id")) for entry in content["images"] if isinstance(entry, dict)} - {None}
        for note in content["annotations"]:
            image = _key(note.get("image_id")) if isinstance(note, dict) else None
            if image is None or image not in images:
                self.log.lose("annotations of unknown images", path, _short(note))
            elif box := self._box(note, categories, path):
                boxes[image].append(box)
            else:
                lost[image] += 1
        if content["annotations"] and not boxes:
            (kind, ((_, first), *_)), *_ = self.log.lost.items() or self.log.mended.items()
            raise UserError(f"{path}: expected annotations with image_id, a known category_id and bbox [x, y, width, "
                            f"height], got none that can be used: {kind}: {first}; correct the file")
        self.used |= {name for group in boxes.values() for name, _ in group}
        return boxes, lost

    def _box(self, note: dict[str, Any], categories: dict[str, str], path: Path) -> Box | None:
        """Return class and box of an annotation; ``None``, and a note in the log, where it has none."""
        if str(note.get("iscrowd") or 0).lower() not in ("0", "false"):
            self.log.mend("crowd regions dropped", path, f"annotation {note.get('id')}")
            return None
        name = categories.get(_key(note.get("category_id")) or "")
        if name is None:
            self.log.lose("annotations of unknown categories", path, _short(note))
            return None
        box = _bbox(note.get("bbox"))
        if box and box[0] != box[2] and box[1] != box[3]:
            return name, box
        if around := _polygon_box(note.get("segmentation")):
            self.log.mend("boxes taken from polygons", path, f"annotation {note.get('id')}: {name}")
            return name, around
        if not box:
            self.log.lose("annotations without a bbox", path, _short(note))
        return box and (name, box)

    def _images(self, entries: list[Any], boxes: dict[str, list[Box]], lost: Counter[str], path: Path,
                part: str | None) -> Iterator[Annotation]:
        names: dict[str | None, set[str]] = defaultdict(set)
        for entry in entries:
            if isinstance(entry, dict):
                names[_key(entry.get("id"))].add(str(entry.get("file_name")))
        last = path.stem.rsplit("_", 1)[-1]  # instances_train2017.json is about train2017/
        folders = tuple(dict.fromkeys(f"{base}{name}" for name in ("", part, last) if name is not None
                                      for base in ("images/", "")))
        for entry in entries:
            name = entry.get("file_name") if isinstance(entry, dict) else None
            if not isinstance(name, str) or not name.strip():
                self.log.skip(path, f"expected every image to have an id and a file_name, got {_short(entry)}")
                continue
            key = _key(entry.get("id"))
            if key is None or len(names[key]) > 1:
                why = "has no id" if key is None else f"shares the id {key} with {len(names[key]) - 1} other images"
                self.log.skip(Path(name), f"{why} in {path.name}", name)
                continue
            yield Annotation(path, boxes.pop(key, []), name, folders=folders, part=part, lost=lost.pop(key, 0),
                             size=pixels(entry.get("width"), entry.get("height")))


def _key(value: Any) -> str | None:
    """Return an id as text, the same for 7, 7.0, "7" and "007"; ``None`` where it is no id."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    text = f"{int(value)}" if isinstance(value, float) and value.is_integer() else str(value).strip()
    return text.lstrip("0") or "0" if text.isdecimal() else text or None


def _short(entry: Any) -> str:
    return " ".join(str(entry).split())[:80]


def _bbox(value: Any) -> Corners | None:
    """Return (x1, y1, x2, y2) in pixels from [x, y, width, height]; ``None`` for anything else."""
    try:
        x, y, width, height = map(float, value if isinstance(value, list) else ())
    except (OverflowError, TypeError, ValueError):
        return None
    return x, y, x + width, y + height


def _polygon_box(value: Any) -> Corners | None:
    """Return the box around polygons [[x1, y1, x2, y2, ...], ...], or one without the outer brackets."""
    try:
        polygons = value if isinstance(value[0], list) else [value]
        numbers = [[float(v) for v in polygon] for polygon in polygons]
        xs, ys = ([v for polygon in numbers for v in polygon[axis::2]] for axis in (0, 1))
        return min(xs), min(ys), max(xs), max(ys)
    except (IndexError, KeyError, OverflowError, TypeError, ValueError):
        return None
