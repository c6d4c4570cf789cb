"""`python -m data.review --weights best.pt --data data.yaml`: labels that a model disagrees with, most suspicious first.

Writes suspects.csv and contact sheets, and on request the images for Label Studio, COCO or labelme. Labels are never changed.
A model that was trained on these labels has learned some of their mistakes: a model of other images finds more.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections import Counter
from pathlib import Path

from cfg import UserError, guard
from cfg.command_line import read_arguments
from data.layout import PARTS
from data.reader import Reading
from data.review.exports import by_image, coco, label_studio, labelme
from data.review.part import join, look, read_part
from data.review.sheets import write_sheets
from data.review.suspects import KINDS, find_suspects
from data.review.table import write_table

FORMATS = ("labelstudio", "coco", "labelme")
MEANING = {"missing": "no label", "extra": "label without object", "class": "wrong class", "box": "badly placed box"}


def parse(argv: list[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(prog="python -m data.review", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)  # fmt: skip
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--weights", help=".pt, .onnx, .torchscript or an OpenVINO folder; val.py runs it")
    source.add_argument("--detections", metavar="FILE", help="instead of --weights: boxes that val.py --detections wrote")
    parser.add_argument("--data", required=True, help="data YAML, or its short name in cfg/data")
    parser.add_argument("--split", default="train", choices=PARTS, help="part to review (default: train)")
    parser.add_argument("--out", type=Path, help="new folder (default: runs/review/exp, numbered when it exists)")
    parser.add_argument("--first", type=int, default=200, metavar="N",
                        help="suspects on the contact sheets and in exports (default: 200)")
    parser.add_argument("--export", nargs="+", default=[], choices=FORMATS, help="also write for these programs")
    parser.add_argument("--all-images", action="store_true",
                        help="export all images of the part, so that the set which is read back is complete")
    parser.add_argument("--conf", type=float, default=0.25, help="confidence threshold of detections in exports (default: 0.25)")
    parser.add_argument("--imgsz", help="input size of the model (default: as trained or exported)")
    parser.add_argument("--device", help="cpu or a GPU number (default: first GPU, else cpu)")
    parser.add_argument("--map-classes", action="store_true", help="pair the model's classes with the data's by name")
    options = read_arguments(parser, argv)
    if options.first < 1:
        parser.error(f"--first: expected a number of at least 1, got {options.first}")
    if not 0 <= options.conf <= 1:
        parser.error(f"--conf: expected a number from 0 to 1, got {options.conf}")
    return options


def main(argv: list[str] | None = None) -> int:
    """Command line of this module. Returns 1 when images had to be left out."""
    options = parse(argv)
    names, reading = read_part(options.data, options.split)
    folder = _new_folder(options.out)
    try:
        _review(options, names, reading, folder)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written ({error.strerror or error}); choose another --out") from None
    for sample in reading.left_out:
        print(f"left out {sample.image}: {sample.reason}")
    return 1 if reading.left_out else 0


def _review(options: argparse.Namespace, names: dict[int, str], reading: Reading, folder: Path) -> None:
    boxes = options.detections
    if not boxes:
        print(f"looking at {len(reading.samples)} images of '{options.split}' with {options.weights}", flush=True)
        more = [f"--{name}={value}" for name in ("imgsz", "device") if (value := getattr(options, name))]
        boxes = look(options.weights, options.data, options.split, folder, more + ["--map-classes"] * options.map_classes)
    images = join(reading, boxes, len(names))
    suspects = find_suspects([image.labels for image in images], [image.found for image in images], len(names))
    write_table(folder / "suspects.csv", suspects, images, names)
    chosen = by_image(suspects[: options.first])
    sheets = write_sheets(folder, chosen, images, names)
    exported = chosen | {i: [] for i in range(len(images)) if options.all_images and i not in chosen}
    if "labelstudio" in options.export:
        label_studio(folder, exported, images, names, _version(options), options.conf)
    if "coco" in options.export:
        coco(folder, exported, images, names, options.conf)
    if "labelme" in options.export:
        labelme(folder, exported, images, names)
    counts = Counter(suspect.kind for suspect in suspects[: options.first])
    told = ", ".join(f"{counts[kind]} {kind} ({MEANING[kind]})" for kind in KINDS if counts[kind]) or "none"
    print(f"{len(images)} images, {sum(len(image.labels) for image in images)} labels, {len(suspects)} suspects; "
          f"first {min(options.first, len(suspects))}: {told}")  # fmt: skip
    print(f"written: {folder / 'suspects.csv'}, {sheets} contact sheets" + "".join(f", {name}" for name in options.export))
    if "labelme" in options.export:
        print(f"after editing: python -m data.convert --format labelme --source {folder / 'labelme'} --out datasets/corrected")


def _version(options: argparse.Namespace) -> str:
    """What Label Studio calls the model: the file's name, and the start of its digest where it is one file."""
    path = Path(options.weights or options.detections)
    return f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()[:12]}" if path.is_file() else path.name


def _new_folder(out: Path | None) -> Path:
    """Make the folder of this review. Raises `UserError` when it holds something, or cannot be made."""
    folder, number = out or Path("runs/review/exp"), 1
    while out is None and folder.exists():
        number += 1
        folder = Path(f"runs/review/exp-{number}")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise UserError(f"--out: expected a new or empty folder, got {folder}, which holds something; choose another")
    except OSError as error:
        raise UserError(f"--out {folder}: cannot be made ({error.strerror}); choose another") from None
    return folder


if __name__ == "__main__":
    sys.exit(guard(main))
