"""What detect.py finds in the images of a labelled set: thresholds are chosen on the boxes that will be decided about."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path, PurePath

import torch

from cfg import UserError
from engine.detection.detect_run import detections
from engine.detection.options import IOU, DetectOptions
from engine.detection.predictor import look
from engine.detection.settled import cut, settle
from engine.detection.sources import MediaSource
from engine.validation.coco_metrics import Boxes, as_found
from engine.weights import open_backend
from inspection.evidence import Image
from inspection.plan import Plan
from inspection.rules import Found
from inspection.tiles import Tiling

FLOOR = 0.001  # boxes with lower scores are not kept: an image without others counts as one in which nothing is found


class Listed:
    """Files in the given order, as `MediaSource` takes them."""

    def __init__(self, files: Sequence[str]) -> None:
        self.files, self.total = files, len(files)

    def __iter__(self) -> Iterator[tuple[Path, PurePath]]:
        for file in self.files:
            yield Path(file), PurePath(Path(file).name)


def find_images(
    weights: Path, files: Sequence[str], truths: Sequence[Boxes], groups: Sequence[str], device: torch.device, imgsz: int,
    precision: str, iou: float = IOU, tiling: Tiling | None = None,
) -> list[Image]:  # fmt: skip
    """Run detect.py's own path over labelled images.

    Args:
        files, truths, groups: the images, their labels in original pixels, and the unit of each ("" for its own).
        imgsz: input size; an export with a fixed size keeps its own.
        tiling: tiles in which the images are looked at; None for whole images.
        iou: overlap above which boxes are one object.

    Raises:
        UserError: an image can no longer be read, or the network's output for it is no numbers.
    """
    tile, overlap = (tiling.side, tiling.overlap) if tiling else (None, None)
    options = DetectOptions(str(weights), [], [imgsz], conf=FLOOR, iou=iou, precision=precision, tile=tile, overlap=overlap)
    source = MediaSource(Listed(files), _unreadable, lambda path, reason: None)
    backend, trained = open_backend(weights, device, precision)
    settled = settle(options, backend, trained, None)
    results = look(backend, cut(source, settled), settled)
    images = []
    for file, truth, group, result in zip(files, truths, groups, results, strict=True):
        if result.fault:
            raise UserError(f"{file}: {result.fault}; with --half use --precision fp32, or look for damaged weights")
        found = detections(result.cpu().numpy(), result.item)
        images.append(Image(file, found.height, found.width, as_found(truth), Found(found.boxes_xyxy, found.scores, found.classes), group))
    return images


def _unreadable(path: Path | str, reason: str) -> None:
    raise UserError(f"{path}: {reason}; it could be read when the run began")


def check_regions(plan: Plan, images: Sequence[Image]) -> None:
    """Raise `UserError` when regions in pixels are for images of another size than one of `images`."""
    regions = plan.regions
    for image in images if regions.width else ():
        if (image.width, image.height) != (regions.width, regions.height):
            raise UserError(f"decision plan: regions: expected images of {regions.width} x {regions.height} pixels, got {image.name} of "
                            f"{image.width} x {image.height}; give the regions for this size, or unit: relative")  # fmt: skip
