"""Suspicious images for labelling programs: Label Studio, COCO and labelme. Boxes are plain; nothing of the data set is changed."""

from __future__ import annotations

import json
import os
import shutil
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.sax.saxutils import quoteattr

from data.convert.labelme import IGNORED
from data.layout import unique_stems
from data.review.part import Reviewed
from data.review.suspects import Objects, Suspect
from data.review.table import evidence

LOCAL = "/data/local-files/?d="  # how Label Studio serves files of its own machine


def by_image(suspects: Iterable[Suspect]) -> dict[int, list[Suspect]]:
    """Return the suspects of each image, in the order of the images' worst ones."""
    groups: dict[int, list[Suspect]] = defaultdict(list)
    for suspect in suspects:
        groups[suspect.image].append(suspect)
    return dict(groups)


def worst(suspects: Sequence[Suspect]) -> float:
    """The highest suspicion of an image, 0 for one without suspects."""
    return round(max((suspect.suspicion for suspect in suspects), default=0.0), 4)


def label_studio(folder: Path, groups: Mapping[int, list[Suspect]], images: Sequence[Reviewed], names: Mapping[int, str],
                 model: str, conf: float) -> None:  # fmt: skip
    """Write ``label-studio.json`` (tasks: labels as annotations, found boxes as predictions) and ``label-studio.xml``.

    Images are named for Label Studio's local storage, with the root folder of the file system as its document root.

    Args:
        model: the predictions' `model_version`.
        conf: lowest score of a found box that is written.
    """
    tasks = []
    for index, suspects in groups.items():
        image = images[index]
        shown_boxes = image.found.scores >= conf
        found = Objects(*(values[shown_boxes] for values in (image.found.boxes_xyxy, image.found.classes, image.found.scores)))
        address = LOCAL + quote(os.fsencode(image.image.resolve().relative_to(image.image.resolve().anchor)))
        tasks.append({
            "data": {"image": address, "suspicion": worst(suspects),
                     "evidence": "; ".join(evidence(suspect, image, names) for suspect in suspects)},
            "annotations": [{"result": _rectangles(image, image.labels, names, "label")}],
            "predictions": [{"model_version": model, "score": round(float(found.scores.max(initial=0.0)), 4),
                             "result": _rectangles(image, found, names, "found")}],
        })  # fmt: skip
    _write(folder / "label-studio.json", tasks)
    labels = "".join(f"\n    <Label value={quoteattr(name)}/>" for name in names.values())
    view = f'<View>\n  <Image name="image" value="$image"/>\n  <RectangleLabels name="label" toName="image">{labels}\n'
    (folder / "label-studio.xml").write_text(f"{view}  </RectangleLabels>\n</View>\n", encoding="utf-8")


def _rectangles(image: Reviewed, objects: Objects, names: Mapping[int, str], prefix: str) -> list[dict[str, Any]]:
    """Boxes as Label Studio's `rectanglelabels`: corner and size in percent of the image."""
    rectangles = []
    for number, (box, index) in enumerate(zip(objects.boxes_xyxy.tolist(), objects.classes.tolist(), strict=True)):
        x1, x2 = (100.0 * min(max(x / image.width, 0.0), 1.0) for x in box[0::2])
        y1, y2 = (100.0 * min(max(y / image.height, 0.0), 1.0) for y in box[1::2])
        value = {"x": x1, "y": y1, "width": x2 - x1, "height": y2 - y1, "rotation": 0}
        entry = {"id": f"{prefix}-{number}", "type": "rectanglelabels", "from_name": "label", "to_name": "image",
                 "original_width": image.width, "original_height": image.height, "image_rotation": 0,
                 "value": value | {"rectanglelabels": [names[int(index)]]}}  # fmt: skip
        if len(objects.scores):
            entry["score"] = round(float(objects.scores[number]), 4)
        rectangles.append(entry)
    return rectangles


def coco(folder: Path, groups: Mapping[int, list[Suspect]], images: Sequence[Reviewed], names: Mapping[int, str],
         conf: float) -> None:  # fmt: skip
    """Write the labels as ``coco.json`` and the found boxes as ``coco-found.json``, a list of COCO's results format."""
    content: dict[str, list[Any]] = {"images": [], "annotations": [], "results": []}
    for number, index in enumerate(groups, 1):
        image = images[index]
        content["images"].append({"id": number, "file_name": str(image.image), "width": image.width, "height": image.height,
                                  "suspicion": worst(groups[index])})  # fmt: skip
        for entry in _coco_boxes(image.labels, number):
            content["annotations"].append({"id": len(content["annotations"]) + 1, "iscrowd": 0} | entry)
        content["results"] += [entry for entry in _coco_boxes(image.found, number) if entry["score"] >= conf]
    categories = [{"id": index, "name": name} for index, name in names.items()]
    _write(folder / "coco-found.json", content.pop("results"))
    _write(folder / "coco.json", {"categories": categories} | content)


def _coco_boxes(objects: Objects, image_id: int) -> Iterable[dict[str, Any]]:
    for number, (box, index) in enumerate(zip(objects.boxes_xyxy.tolist(), objects.classes.tolist(), strict=True)):
        x1, y1, x2, y2 = box
        entry = {"image_id": image_id, "category_id": int(index), "bbox": [x1, y1, x2 - x1, y2 - y1],
                 "area": (x2 - x1) * (y2 - y1)}  # fmt: skip
        yield entry if not len(objects.scores) else entry | {"score": round(float(objects.scores[number]), 5)}


def labelme(folder: Path, groups: Mapping[int, list[Suspect]], images: Sequence[Reviewed], names: Mapping[int, str]) -> None:
    """Write ``labelme/NAME.json`` beside a link to (where links are not possible: a copy of) its image.

    Labels are rectangles whose description says what is suspicious of them. A missing label is a rectangle called
    `__ignore__`, labelme's own word for what is left out: it counts when a person gives it a class.
    Read back with `python -m data.convert --format labelme`.
    """
    folder = folder / "labelme"
    folder.mkdir()
    chosen = [images[index] for index in groups]
    stems = unique_stems([image.image.with_suffix("").as_posix().lstrip("/") for image in chosen])
    for stem, image, suspects in zip(stems, chosen, groups.values(), strict=True):
        picture = folder / f"{stem}{image.image.suffix}"
        try:
            picture.symlink_to(image.image.resolve())
        except OSError:
            shutil.copyfile(image.image, picture)
        _write(folder / f"{stem}.json", {
            "version": "5.5.0", "flags": {}, "shapes": _shapes(image, suspects, names), "imagePath": picture.name,
            "imageData": None, "imageHeight": image.height, "imageWidth": image.width,
        })  # fmt: skip


def _shapes(image: Reviewed, suspects: Sequence[Suspect], names: Mapping[int, str]) -> list[dict[str, Any]]:
    told = {suspect.label: evidence(suspect, image, names) for suspect in suspects if suspect.label is not None}
    labels = zip(image.labels.boxes_xyxy.tolist(), image.labels.classes.tolist(), strict=True)
    shapes = [_shape(names[int(index)], box, told.get(i, "")) for i, (box, index) in enumerate(labels)]
    for suspect in suspects:
        if suspect.label is None:
            box = image.found.boxes_xyxy[suspect.found].tolist()
            shapes.append(_shape(IGNORED, box, evidence(suspect, image, names)))
    return shapes


def _shape(label: str, box_xyxy: list[float], description: str) -> dict[str, Any]:
    x1, y1, x2, y2 = box_xyxy
    return {"label": label, "points": [[x1, y1], [x2, y2]], "group_id": None, "description": description,
            "shape_type": "rectangle", "flags": {}, "mask": None}  # fmt: skip


def _write(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=1, ensure_ascii=False), encoding="utf-8", errors="backslashreplace")
