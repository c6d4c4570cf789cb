"""Ground truth and detections of a validation as one file, for statistics that need every image's own boxes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cfg import UserError
from engine.validation.coco_metrics import Boxes


def save_boxes(path: str | Path, files: Sequence[str], truths: Sequence[Boxes], found: Sequence[Boxes],
               facts: Mapping[str, Any] | None = None) -> None:  # fmt: skip
    """Write a compressed .npz.

    Args:
        path: the file to write; its folder must be there.
        files: the images, in the order of the other two.
        truths, found: ground truth and detections per image, in original pixels.
        facts: how the images were looked at, in plain types.

    Raises:
        UserError: the file cannot be written.
    """
    arrays: dict[str, Any] = {"files": np.array([Path(file).name for file in files]), "paths": np.array([str(file) for file in files])}
    arrays["facts"] = np.array(json.dumps(dict(facts or {})))
    for kind, images in (("truth", truths), ("found", found)):
        arrays[f"{kind}_counts"] = np.array([len(image.classes) for image in images], dtype=np.int64)
        boxes = [np.asarray(image.boxes_xyxy, dtype=np.float32).reshape(-1, 4) for image in images]
        arrays[f"{kind}_boxes_xyxy"] = np.concatenate([np.zeros((0, 4), np.float32), *boxes])
        classes = [np.asarray(image.classes).reshape(-1).astype(np.int32) for image in images]
        arrays[f"{kind}_classes"] = np.concatenate([np.zeros(0, np.int32), *classes])
    scores = [np.asarray(image.scores, dtype=np.float32) for image in found]
    arrays["found_scores"] = np.concatenate([np.zeros(0, np.float32), *scores])
    try:
        with open(path, "wb") as file:
            np.savez_compressed(file, **arrays)
    except OSError as error:
        raise UserError(f"{path}: cannot be written ({error.strerror}); choose another file") from None


def load_boxes(path: str | Path) -> tuple[list[str], list[Boxes], list[Boxes]]:
    """Read what `save_boxes` wrote: image names, ground truth and detections per image."""
    with np.load(path, allow_pickle=False) as content:
        arrays = dict(content)
    truths, found = (_split(arrays, kind) for kind in ("truth", "found"))
    return arrays["files"].tolist(), truths, found


def load_facts(path: str | Path) -> tuple[list[str], dict[str, Any]]:
    """The images' paths, and how they were looked at; empty for files of earlier versions."""
    with np.load(path, allow_pickle=False) as content:
        paths = content["paths" if "paths" in content else "files"].tolist()
        facts: dict[str, Any] = json.loads(str(content["facts"])) if "facts" in content else {}
    return paths, facts


def _split(arrays: dict[str, np.ndarray], kind: str) -> list[Boxes]:
    ends = np.cumsum(arrays[f"{kind}_counts"])[:-1]
    names = ("boxes_xyxy", "classes", "scores")
    parts = [np.split(arrays[f"{kind}_{name}"], ends) for name in names if f"{kind}_{name}" in arrays]
    return [Boxes(*image) for image in zip(*parts, strict=True)]
