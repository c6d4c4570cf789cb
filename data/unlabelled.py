"""Images without labels: which they are, the tenth that is held out, and the files that name them to a run."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from cfg import UserError
from data.dataset import part_paths, resolve
from data.decode import Unreadable
from data.files import list_images
from data.images import inspect_image

UNLABELLED = "unlabelled"  # key of the run's data YAML: where its images are from; no label is read
HELD_OUT = 10  # one image of so many, in the order of their names


def find_unlabelled(where: str | Path) -> list[Path]:
    """The images of a folder, of a list file, or of the training part of a data set (its YAML, or its folder).

    Raises:
        UserError: there is no such thing, or it has fewer than two images.
    """
    place = Path(where)
    if place.suffix in (".yaml", ".yml") or (place / "data.yaml").is_file():
        entries = part_paths(resolve(where, require=("train",)), "train")
    elif place.exists():
        entries = [place]
    else:
        raise UserError(f"--unlabelled {where}: no such folder; give a folder of images, a list file or a data YAML")
    images = [Path(os.path.abspath(image)) for entry in entries for image in list_images(entry)]
    if len(images) < 2:
        got = f"only {images[0].name}" if images else "none"
        raise UserError(f"--unlabelled {where}: expected two images or more, got {got}; give a folder that has some")
    return images


def hold_out(images: Sequence[Path]) -> tuple[list[Path], list[Path]]:
    """Divide images into those to train on and every tenth, to judge by: tenths that begin with one that can be read."""
    readable = (i for i, image in enumerate(images[:HELD_OUT]) if _is_readable(image))
    first = next(readable, 0)
    return [x for i, x in enumerate(images) if i % HELD_OUT != first], list(images[first::HELD_OUT])


def _is_readable(image: Path) -> bool:
    try:
        inspect_image(image)
    except Unreadable:
        return False
    return True


def write_unlabelled(folder: Path, where: str | Path, images: Sequence[Path], names: Mapping[int, str]) -> None:
    """Write to a run's folder which images it learns from (`train.txt`), which it holds out (`val.txt`), and `data.yaml`.

    A resumed run reads these lists, and not the place they are from, which may have got more images by then.

    Args:
        where: what was searched, for the record.
        names: classes of the student.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for part, chosen in zip(("train", "val"), hold_out(images)):
        (folder / f"{part}.txt").write_bytes(b"".join(os.fsencode(image) + b"\n" for image in chosen))
    content: dict[str, Any] = {part: str((folder / f"{part}.txt").resolve()) for part in ("train", "val")}
    content |= {"names": dict(names), UNLABELLED: str(where)}
    (folder / "data.yaml").write_text(yaml.safe_dump(content, sort_keys=False, allow_unicode=True), encoding="utf-8")
