"""Find a data set from its YAML (`resolve`) and check the labels before a run starts (`validate`)."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cfg import UserError, find, nearest, read_yaml
from data.class_names import class_names
from data.files import list_images
from data.images import image_size
from data.labels import LABEL_ERRORS, Problem, read_labels
from data.layout import PARTS, keep_apart, label_path

VALIDATION = ("validation", "valid")  # what other tools call the part `val`
WHAT = {"train": "training images", "val": "validation images", "test": "test images"}


@dataclass(frozen=True)
class DataSummary:
    """What a data set holds: class names by index, and per part (train, val, test) its folders and counts.

    `boxes_per_class` has shape (nc,) for each part; `background` counts images without boxes.
    """

    names: dict[int, str]
    nc: int
    paths: dict[str, list[Path]]
    images: dict[str, int]
    boxes: dict[str, int]
    background: dict[str, int]
    boxes_per_class: dict[str, np.ndarray]


def data_yaml(data: str | Path) -> Path:
    """Path of a data YAML, which may be given as a path, as a folder with a `data.yaml`, or as the name of one in `cfg/data`."""
    return Path(data) / "data.yaml" if (Path(data) / "data.yaml").is_file() else find("data", data)


def resolve(data: str | Path, require: tuple[str, ...] = ("train", "val")) -> dict[str, Any]:
    """Return the content of a data YAML with absolute paths, `names` as {index: name} and `nc`.

    `path` may be absolute; a relative one is looked for from the current directory, then beside the YAML. Without
    `path` everything is relative to the YAML. `TANDEM_DATASETS` takes the place of a leading `datasets`. A `download`
    key is dropped: nothing is fetched or run.

    Args:
        data: YAML path, folder with a `data.yaml`, or short name of a file in `cfg/data`.
        require: parts that must be named and exist.

    Raises:
        UserError: no such YAML, wrong `names`/`nc`, or a required part is not named or not there.
    """
    file = data_yaml(data)
    content = read_yaml(file)
    content.pop("download", None)
    content["names"] = class_names(file, content)
    content["nc"] = len(content["names"])
    root = _root(file, content.get("path"))
    content["path"] = str(root)
    for other in VALIDATION:
        if content.get(other) and not content.get("val"):
            content["val"] = content.pop(other)
    for part in PARTS:
        if content.get(part):
            content[part] = _absolute(file, part, content[part], root)
        elif part in require:
            raise UserError(f"{file}: expected a key '{part}' with the {WHAT[part]}, got none"
                            f"{nearest(part, [k for k in content if k not in PARTS])}; add it, or divide the data "
                            "set with `python -m data.split`")
    for part in require:
        for path in part_paths(content, part):
            if not path.exists():
                raise UserError(f"{file}: {missing_text(content, part, path)}")
    return content


def part_paths(content: dict[str, Any], part: str) -> list[Path]:
    """Return the folders or list files of one part of a resolved data YAML; empty when the part is not named."""
    value = content.get(part) or []
    return [Path(value)] if isinstance(value, str) else [Path(v) for v in value]


def keep_all_apart(content: dict[str, Any], out: Path) -> None:
    """Refuse (`UserError`) an output folder that holds anything of a resolved data YAML: replacing it would destroy that.

    Images count where they are listed, and where links to them lead.
    """
    images = [image for part in PARTS for image in _present(part_paths(content, part))]
    for place in {Path(content["path"])} | {folder for image in images for folder in (image.parent, image.resolve().parent)}:
        keep_apart(place, out)


def first_shape(part: str | list[str]) -> tuple[int, int]:
    """Height and width in pixels of the first readable image of a part of a resolved data YAML (a path or several).

    Raises:
        UserError: none can be read.
    """
    for entry in [part] if isinstance(part, str) else part:
        for image in list_images(Path(entry)):
            try:
                width, height = image_size(image)
            except ValueError:  # data.check says which and why; training leaves it out
                continue
            return height, width
    raise UserError(f"{part}: expected an image that can be read, got none; `python -m data.check` says why")


def missing_text(content: dict[str, Any], part: str, path: Path) -> str:
    """Say in one line which folder is missing, where it was expected, and how a person gets it."""
    fix = " ".join(str(content.get("download_help") or "").split())
    if root := os.environ.get("TANDEM_DATASETS"):
        fix = re.sub(r"(?<![\w/])datasets/", lambda _: f"{root.rstrip('/')}/", fix)  # the commands, not the addresses
    fix = fix or f"correct 'path' or '{part}' in the YAML, or put the images there"
    return f"{WHAT[part]} not found: expected {path}; {fix}"


def _root(file: Path, path: Any) -> Path:
    if path is None:
        return file.parent.resolve()
    given, datasets = Path(str(path)).expanduser(), os.environ.get("TANDEM_DATASETS")
    if datasets and given.parts[:1] == ("datasets",):
        return Path(datasets, *given.parts[1:]).resolve()
    beside = file.parent / given
    return (beside if not given.exists() and beside.exists() else given).resolve()


def _absolute(file: Path, part: str, value: Any, root: Path) -> str | list[str]:
    entries = value if isinstance(value, list) else [value]
    if not all(isinstance(entry, str) for entry in entries):
        raise UserError(f"{file}: expected '{part}' to be a folder, a list file or a list of them, got {value!r}")
    paths = [_placed(root, entry) for entry in entries]
    return paths if isinstance(value, list) else paths[0]


def _placed(root: Path, entry: str) -> str:
    """An entry as an absolute path. Downloads of Roboflow say `../train/images` for a folder beside the YAML."""
    entry = entry.strip()
    path = os.path.normpath(root / entry)
    beside = os.path.normpath(root / entry.removeprefix("../"))
    return beside if not os.path.exists(path) and os.path.exists(beside) else path


def validate(data: str | Path) -> DataSummary:
    """Read every label file of a data set, fast and without opening an image, and refuse what cannot be trained on.

    Raises:
        UserError: folders missing, no images, a label line with an error (`data.labels.LABEL_ERRORS`: ultralytics
            would drop the whole image without a word), or no boxes in the training part.
    """
    content = resolve(data)
    nc, parts = content["nc"], [p for p in PARTS if content.get(p)]
    paths = {part: part_paths(content, part) for part in parts}
    images, background, per_class = {}, {}, {}
    errors: list[tuple[Path, Problem]] = []
    for part in parts:
        files = _present(paths[part])
        if not files and part != "test":
            raise UserError(f"{data}: {WHAT[part]}: expected images in {paths[part][0]}, got none; put them there")
        per_class[part], background[part], found = _count(files, nc)
        images[part], errors = len(files), errors + found
    if errors:
        (path, problem), faulty = errors[0], len({path for path, _ in errors})
        more = f" ({len(errors)} such problems in {faulty} files: `python -m data.check --data {data}`)"
        place = f"{path}:{problem.line}" if problem.line else f"{path}"
        raise UserError(f"{place}: {problem.text}{more if len(errors) > 1 else ''}")
    boxes = {part: int(counts.sum()) for part, counts in per_class.items()}
    if not boxes["train"]:
        example = label_path(list_images(paths["train"][0])[0])
        raise UserError(f"{data}: expected boxes in the training part, got none in {images['train']} images; labels "
                        f"are looked for as in {example}")
    return DataSummary(content["names"], nc, paths, images, boxes, background, per_class)


def with_and_without(content: dict[str, Any], part: str) -> tuple[int, int]:
    """How many images of a part have boxes, and how many have none, without opening one; `content` is of `resolve`."""
    files = _present(part_paths(content, part))
    background = _count(files, content["nc"])[1]
    return len(files) - background, background


def _present(entries: list[Path]) -> list[Path]:
    """The images of those folders and list files that are there."""
    return [image for entry in entries if entry.exists() for image in list_images(entry)]


def _count(files: list[Path], nc: int) -> tuple[np.ndarray, int, list[tuple[Path, Problem]]]:
    """Return boxes per class (nc,), the number of images without boxes, and [(label file, problem)]."""
    counts, background, errors = np.zeros(nc, dtype=np.int64), 0, []
    for image in files:
        path = label_path(image)
        if not path.exists():
            background += 1
            continue
        labels = read_labels(path, nc)
        errors += [(path, p) for p in labels.problems if p.code in LABEL_ERRORS]
        counts += np.bincount(labels.rows[:, 0].astype(int), minlength=nc)[:nc]
        background += not len(labels.rows)
    return counts, background, errors
