"""COCO detection JSON: `images`, `annotations` with `bbox` [x, y, width, height] in pixels, `categories` (Lin 2014)."""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cfg import UserError
from data.convert.base import Reader, Record, register


@register("coco")
class CocoReader(Reader):
    """Reads one JSON file for each part (`--splits train=train.json val=val.json`) or one for all (`--annotations`)."""

    @staticmethod
    def add_arguments(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--annotations", type=Path, metavar="FILE",
                            help="the JSON file, where --splits names none (default: the only one below the source)")

    def read(self) -> Iterator[Record]:
        files = {part: path for part, path in self.options.splits.items() if path.suffix.lower() == ".json"}
        categories: dict[int, str] = {}
        for part, path in (files or {None: self._single()}).items():
            content = _load(path)
            for category in content["categories"]:
                if categories.setdefault(category["id"], str(category["name"])) != str(category["name"]):
                    raise UserError(f"{path}: expected category {category['id']} to be '{categories[category['id']]}' "
                                    f"as in the other file, got '{category['name']}'; make the files agree")
            self.classes = tuple(categories[key] for key in sorted(categories))
            yield from self._records(content, categories, path, part)

    def _single(self) -> Path:
        if self.options.annotations:
            return self.options.annotations
        found = sorted(self.source.rglob("*.json"))
        if len(found) != 1:
            raise UserError(f"{self.source}: expected one COCO JSON file, got {len(found)}; name them with "
                            "--annotations FILE or --splits train=FILE val=FILE")
        return found[0]

    def _records(self, content: dict, categories: dict[int, str], path: Path, part: str | None) -> Iterator[Record]:
        boxes: dict[Any, list] = defaultdict(list)
        for note in content["annotations"]:
            try:
                if note.get("iscrowd"):
                    self.log.mend("crowd regions dropped", path, f"annotation {note.get('id')}")
                    continue
                x, y, width, height = map(float, note["bbox"])
                boxes[note["image_id"]].append((categories[note["category_id"]], (x, y, x + width, y + height)))
            except (AttributeError, KeyError, TypeError, ValueError) as error:
                raise UserError(f"{path}: annotation {str(note)[:80]}: expected image_id, a known category_id and "
                                f"bbox [x, y, width, height] ({error!r}); correct it") from None
        for entry in content["images"]:
            name = str(entry.get("file_name"))
            image = next((p for p in (self.source / name, self.source / "images" / name) if p.is_file()), None)
            image = image or self.index.find(name, self.source / (part or "") / name)
            if image is None:
                self.log.skip(Path(name), f"listed in {path.name}, not found below the source")
                continue
            yield Record(image, self.key(image), boxes.get(entry.get("id"), []), path, part)


def _load(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: expected a COCO JSON file, got one that cannot be read ({error})") from None
    keys = ("images", "annotations", "categories")
    if not isinstance(content, dict) or not all(isinstance(content.get(key), list) for key in keys):
        raise UserError(f"{path}: expected a COCO JSON file with the lists {', '.join(keys)}; give a detection file")
    for key, needed in (("categories", ("id", "name")), ("images", ("id", "file_name"))):
        if not all(isinstance(entry, dict) and all(k in entry for k in needed) for entry in content[key]):
            raise UserError(f"{path}: expected every entry of '{key}' to have {' and '.join(needed)}; correct the file")
    return content
