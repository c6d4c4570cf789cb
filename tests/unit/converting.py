"""Sources for converters, made by hand, and what came out of them: which image got which boxes."""

import contextlib
import io
import json
import os
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from data.convert.__main__ import main
from data.dataset import resolve

SIZE = (100, 50)  # width, height of every image that is not said to be another
BOX = (10, 10, 30, 20)  # of every annotation that is not said to be another
ROW = [0.2, 0.3, 0.2, 0.2]  # its row in a label file


def picture(path: Path, width: int = SIZE[0], height: int = SIZE[1]) -> Path:
    """Write an image that differs from all others: its name is drawn into its noise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(list(os.fsencode(path))).integers(0, 255, (height, width, 3), dtype=np.uint8)
    path.write_bytes(cv2.imencode(path.suffix, noise)[1].tobytes())
    return path


def voc(name: str, label: str = "pit", box: tuple = BOX, more: str = "", head: str = "") -> str:
    """Return the text of a VOC annotation with one object; `more` is added to the objects, `head` before them."""
    x1, y1, x2, y2 = box
    return (f"<annotation><filename>{name}</filename>{head}<object><name>{label}</name><bndbox><xmin>{x1}</xmin>"
            f"<ymin>{y1}</ymin><xmax>{x2}</xmax><ymax>{y2}</ymax></bndbox></object>{more}</annotation>")


def labelme(name: str, label: str = "pit", box: tuple = BOX, **more) -> str:
    """Return the text of a labelme annotation with one rectangle; `more` are other keys of the file."""
    shape = {"label": label, "points": [list(box[:2]), list(box[2:])], "shape_type": "rectangle"}
    return json.dumps({"shapes": [shape], "imagePath": name, "imageData": None} | more)


def coco(images: list, notes: list, categories: list | None = None) -> str:
    """Return the text of a COCO file; an image may be its name (the ids count from 1), a note (image id, class id)."""
    images = [{"id": i, "file_name": e} if isinstance(e, str) else e for i, e in enumerate(images, 1)]
    notes = [{"id": i, "image_id": n[0], "category_id": n[1], "bbox": [10, 10, 20, 10]} if isinstance(n, tuple) else n
             for i, n in enumerate(notes, 1)]
    categories = [{"id": 1, "name": "pit"}] if categories is None else categories
    return json.dumps({"images": images, "annotations": notes, "categories": categories})


def put(path: Path, text: str | bytes) -> Path:
    """Write a file and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


@dataclass
class Converted:
    """Exit status, what was printed, and for each image (its path in the source, or in `out` when it is not
    there) the (class name, centre x, centre y, width, height) of its boxes."""

    status: int
    said: str
    boxes: dict[str, list[tuple]]

    @property
    def labels(self) -> dict[str, list[str]]:
        """Return the class names of each image's boxes."""
        return {image: [row[0] for row in rows] for image, rows in self.boxes.items()}


def convert(kind: str, source: Path, *more: str, out: Path | None = None) -> Converted:
    """Run the command line on a source; `out` is a folder beside it unless given."""
    out = out or source.parent / "out"
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        status = main(["--format", kind, "--source", str(source), "--out", str(out), "--overwrite", *more])
    names = resolve(out, require=())["names"]
    files = sorted((p for p in source.rglob("*") if p.is_file()), key=lambda p: len(p.parts), reverse=True)
    originals = {p.read_bytes(): p.relative_to(source).as_posix() for p in files}  # not its copy in a data set below
    boxes = {}
    for image in sorted((out / "images").rglob("*.*")):
        label = Path(str(image.with_suffix(".txt")).replace("/images/", "/labels/"))
        rows = [line.split() for line in label.read_text().splitlines()]
        name = originals.get(image.read_bytes(), f"out/{image.name}")
        boxes[name] = [(names[int(row[0])], *map(float, row[1:])) for row in rows]
    return Converted(status, said.getvalue(), boxes)
