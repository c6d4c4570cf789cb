"""Detections of a whole run as files: YOLO labels, JSON, CSV, COCO. Each is written image by image and closed validly.

Nothing here grows with the number of images: a JSON file with two lists keeps the second in a temporary file until the
end. `close` may be called at any moment (after Ctrl-C too) and leaves complete files.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import IO, Any, Protocol

import numpy as np

from inspection.rules import Verdict, undefined

# A name in another encoding is written escaped; Python reads it back from JSON as the same name.
TEXT: dict[str, Any] = {"encoding": "utf-8", "errors": "backslashreplace"}


@dataclass(frozen=True)
class Detections:
    """What was found in one image.

    Attributes:
        path: the file or stream.
        relative: path that names its outputs, unique within the run up to the extension.
        frame: frame number from 1, None for an image.
        height, width: of the image, in pixels.
        boxes_xyxy: (n, 4) corners in pixels of the image.
        scores: (n,) from 0 to 1.
        classes: (n,) class indices.
        verdict: on the image, where there is a decision plan.
        address: of an image that lies in a store; empty for a path.
    """

    path: Path
    relative: PurePath
    frame: int | None
    height: int
    width: int
    boxes_xyxy: np.ndarray
    scores: np.ndarray
    classes: np.ndarray
    verdict: Verdict | None = None
    address: str = ""

    @property
    def title(self) -> str:
        """How result files call the image."""
        return self.address or self.relative.as_posix()

    @property
    def decision(self) -> dict[str, Any]:
        """The verdict as fields of a result file; none where there is no plan."""
        if self.verdict is None:
            return {}
        code, score = self.verdict.code, round(self.verdict.score, 5)
        return {"verdict": code.name, "verdict_code": int(code), "rule": self.verdict.rule, "verdict_score": score}


class Writer(Protocol):
    """One kind of result file."""

    def add(self, found: Detections) -> None:
        """Write one image's detections."""

    def note(self, found: Detections, reason: str) -> None:
        """Note that the file of an image, which was added, was read in part only."""

    def skip(self, source: Path | str, reason: str) -> None:
        """Note a file that could not be read, or frames that a video or stream has lost."""

    def close(self) -> None:
        """Complete the file; to be called once."""


def output_stem(path: Path, relative: PurePath, siblings: Iterable[str]) -> PurePath:
    """Return the output path without its extension, or with it where another file of that folder has the same stem.

    Args:
        path: the source file.
        relative: its path below the run folder.
        siblings: extensions with which a file of the same stem would be a source too.

    The name of a stream, which is no file, is returned as it is: a dot in it starts no extension.
    """
    if not path.is_file():
        return relative
    root = str(path).removesuffix(path.suffix)
    # Plain strings: some forty places are looked at for each image, and paths take ten times as long.
    others = (root + end for suffix in siblings for end in (suffix, suffix.upper()) if end != path.suffix)
    # samefile: x.JPG is x.jpg on a file system that ignores case
    taken = bool(path.suffix) and any(os.path.exists(other) and not os.path.samefile(other, path) for other in others)
    return relative if taken else relative.with_suffix("")


class JsonLists:
    """A JSON object with some fixed fields and some lists that grow item by item.

    Args:
        path: the file.
        header: fixed fields, written first.
        lists: names of the lists, at least one. The first goes straight to the file, the others by a temporary file.
    """

    def __init__(self, path: Path, header: dict[str, Any], lists: tuple[str, ...]) -> None:
        self.file: IO[str] = path.open("w", **TEXT)
        self.parts: dict[str, IO[str]] = {lists[0]: self.file}
        for name in lists[1:]:
            self.parts[name] = tempfile.TemporaryFile("w+", **TEXT, dir=path.parent)  # noqa: SIM115 (until `close`)
        self.started: set[str] = set()
        fields = [f"{json.dumps(key)}: {json.dumps(value, ensure_ascii=False)},\n" for key, value in header.items()]
        self.file.write("{" + "".join(fields) + f"{json.dumps(lists[0])}: [\n")

    def append(self, name: str, entry: dict[str, Any]) -> None:
        """Add one entry to the list of that name."""
        text = json.dumps(entry, ensure_ascii=False)
        self.parts[name].write(f",\n{text}" if name in self.started else text)
        self.started.add(name)

    def close(self) -> None:
        """Add the further lists and the closing brackets."""
        with self.file:
            for name, part in self.parts.items():
                if part is not self.file:
                    self.file.write(f"\n],\n{json.dumps(name)}: [\n")
                    part.seek(0)
                    shutil.copyfileobj(part, self.file)
                    part.close()
            self.file.write("\n]}\n")


class JsonWriter:
    """``results.json``: ``{..., "images": [{image, frame, width, height, detections}], "skipped": [{image, reason}], "notes": [...]}``.

    ``notes`` are of images that were read in part only, as ``skipped``. A detection is ``{class, name, confidence, box: {x1, y1, x2,
    y2}}`` with the box in pixels of the image. With a decision plan an image has ``verdict``, ``verdict_code``, ``rule`` and
    ``verdict_score`` too, and what was skipped has the verdict UNDEFINED.
    """

    def __init__(self, path: Path, names: dict[int, str], header: dict[str, Any], decided: bool = False) -> None:
        self.names, self.decided = names, decided
        self.lists = JsonLists(path, header | {"names": {str(k): v for k, v in names.items()}}, ("images", "skipped", "notes"))

    def add(self, found: Detections) -> None:
        rows = zip(found.boxes_xyxy.tolist(), found.scores.tolist(), found.classes.tolist(), strict=True)
        detections = [
            {
                "class": int(index),
                "name": self.names[int(index)],
                "confidence": round(score, 5),
                "box": dict(zip(("x1", "y1", "x2", "y2"), (round(value, 2) for value in box), strict=True)),
            }
            for box, score, index in rows
        ]
        entry: dict[str, Any] = {"image": found.title, "width": found.width, "height": found.height}
        if found.frame is not None:
            entry["frame"] = found.frame
        self.lists.append("images", entry | found.decision | {"detections": detections})

    def note(self, found: Detections, reason: str) -> None:
        self.lists.append("notes", {"image": found.title, "reason": reason})

    def skip(self, source: Path | str, reason: str) -> None:
        verdict = {"verdict": undefined(reason).code.name, "verdict_code": int(undefined(reason).code)} if self.decided else {}
        self.lists.append("skipped", {"image": str(source), "reason": reason} | verdict)

    def close(self) -> None:
        self.lists.close()


class CsvWriter:
    """``results.csv``: one row for each detection, boxes in pixels; an image without detections has no row.

    With a decision plan (`decided`) each row has the image's verdict, and an image without detections, or one that could not be
    looked at, has a row without a box.
    """

    COLUMNS = ("image", "frame", "class", "name", "confidence", "x1", "y1", "x2", "y2", "width", "height")
    DECIDED = ("verdict", "verdict_code", "rule", "verdict_score")

    def __init__(self, path: Path, names: dict[int, str], decided: bool = False) -> None:
        self.names, self.decided = names, decided
        self.file = path.open("w", **TEXT, newline="")
        self.rows = csv.writer(self.file)
        self.rows.writerow(self.COLUMNS + self.DECIDED * decided)

    def add(self, found: Detections) -> None:
        image, frame = found.title, "" if found.frame is None else found.frame
        verdict, size = list(found.decision.values()), [found.width, found.height]
        for box, score, index in zip(found.boxes_xyxy, found.scores, found.classes, strict=True):
            corners = [f"{value:.2f}" for value in box]
            name = self.names[int(index)]
            self.rows.writerow([image, frame, int(index), name, f"{score:.5f}", *corners, *size, *verdict])
        if self.decided and not len(found.classes):
            self.rows.writerow([image, frame, *[""] * 7, *size, *verdict])

    def note(self, found: Detections, reason: str) -> None:
        """Nothing: its rows have its verdict, which is not OK, and an UNDEFINED one has the reason."""

    def skip(self, source: Path | str, reason: str) -> None:
        """A row for what was not looked at, where every image has a verdict; a table of detections has none."""
        if self.decided:
            code = undefined(reason).code
            self.rows.writerow([str(source), *[""] * 10, code.name, int(code), reason, ""])

    def close(self) -> None:
        self.file.close()


class CocoWriter:
    """``coco.json``: COCO ``images``, ``categories`` and ``annotations``, each annotation with its ``score``.

    Image and annotation ids count from 1, ``category_id`` is the class index (from 0), ``bbox`` is x, y, width, height
    in pixels from the top left corner.
    """

    def __init__(self, path: Path, names: dict[int, str], header: dict[str, Any]) -> None:
        categories = [{"id": int(index), "name": name} for index, name in names.items()]
        self.lists = JsonLists(path, {"info": header, "categories": categories}, ("images", "annotations"))
        self.images = self.annotations = 0

    def add(self, found: Detections) -> None:
        self.images += 1
        image = {"id": self.images, "file_name": found.title}
        image |= {"width": found.width, "height": found.height} | found.decision
        self.lists.append("images", image if found.frame is None else image | {"frame": found.frame})
        rows = zip(found.boxes_xyxy.tolist(), found.scores.tolist(), found.classes.tolist(), strict=True)
        for (x1, y1, x2, y2), score, index in rows:
            self.annotations += 1
            entry: dict[str, Any] = {"id": self.annotations, "image_id": self.images, "category_id": int(index)}
            entry["bbox"] = [round(value, 2) for value in (x1, y1, x2 - x1, y2 - y1)]
            entry |= {"area": round((x2 - x1) * (y2 - y1), 2), "iscrowd": 0, "score": round(score, 5)}
            self.lists.append("annotations", entry)

    def note(self, found: Detections, reason: str) -> None:
        """Nothing: COCO has no place for it."""

    def skip(self, source: Path | str, reason: str) -> None:
        """Nothing: an image that was not looked at is no image of the result."""

    def close(self) -> None:
        self.lists.close()


class LabelWriter:
    """``labels/SUB/FOLDER/NAME.txt``: one line ``class x y width height [confidence]`` for each detection.

    Centre and size are fractions of the image. An image without detections has no file, as in ultralytics.

    Args:
        folder: the ``labels`` folder.
        suffixes: extensions of sources, to tell ``a.jpg`` from ``a.png`` beside it (see `output_stem`).
        with_confidence: add the sixth column.
    """

    def __init__(self, folder: Path, suffixes: Iterable[str], with_confidence: bool) -> None:
        self.folder, self.suffixes, self.with_confidence = folder, tuple(sorted(suffixes)), with_confidence
        folder.mkdir(parents=True, exist_ok=True)

    def add(self, found: Detections) -> None:
        stem = output_stem(found.path, found.relative, self.suffixes)
        name = stem.name if found.frame is None else f"{stem.name}_{found.frame}"
        file = self.folder / stem.parent / f"{name}.txt"
        if not len(found.classes):
            file.unlink(missing_ok=True)  # of an earlier run in the same folder
            return
        file.parent.mkdir(parents=True, exist_ok=True)
        lines = [
            " ".join([str(int(index)), *(f"{v:.6f}" for v in row), *([f"{score:.5f}"] if self.with_confidence else [])])
            for row, score, index in zip(xywh_fraction(found), found.scores, found.classes, strict=True)
        ]
        file.write_text("\n".join(lines) + "\n", encoding="utf-8")

    def note(self, found: Detections, reason: str) -> None:
        """Nothing: a label file has no place for it."""

    def skip(self, source: Path | str, reason: str) -> None:
        """Nothing: no label file is also what says that an image was not labelled."""

    def close(self) -> None:
        """Nothing is left open."""


def xywh_fraction(found: Detections) -> np.ndarray:
    """Return (n, 4) box centres and sizes as fractions of the image's width and height."""
    x1, y1, x2, y2 = found.boxes_xyxy.reshape(-1, 4).T
    fractions: np.ndarray = np.stack([(x1 + x2) / 2, (y1 + y2) / 2, x2 - x1, y2 - y1], axis=1)
    fractions = fractions / np.array([found.width, found.height, found.width, found.height])
    return fractions
