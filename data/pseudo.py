"""`python -m data.pseudo --weights t.pt --data data.yaml --unlabelled FOLDER --out DIR`: training images that a model labels.

Writes a data set: the labelled one, and in its training part the images of the folder that the model is sure about. These have
boxes of `--conf` or more, or none at all. An image with a box from `--doubt` to `--conf` is left out: without that box it
would teach that a defect is none, with it perhaps that a good place is one. Images that the data set has already are left
out, those of its validation and test parts too.

Pseudo-labels: Lee 2013; for detection Sohn et al. 2020 (STAC), who keep every image and drop boxes below one threshold.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from cfg import UserError, guard
from cfg.command_line import refuse_empty
from data.dataset import keep_all_apart, part_paths, resolve, validate
from data.files import list_images
from data.layout import PARTS, DatasetWriter, label_rows, staging, unique_stems, xyxy_to_rows
from data.scripts import run_script
from data.unlabelled import find_unlabelled

CONF = 0.5  # a box is a label from here on
DOUBT = 0.5  # an image is unsure from this share of the confidence on


@dataclass(frozen=True)
class Seen:
    """What a model found in an image: `rows` (n, 5) as in a label file, `scores` (n,)."""

    image: Path
    rows: np.ndarray
    scores: np.ndarray


@dataclass(frozen=True)
class Done:
    """How many images were labelled, how many of them have no box, were unsure, or were in the data set before; (image, reason)
    of those that could not be read.
    """

    labelled: int
    empty: int
    unsure: int
    known: int
    unreadable: list[tuple[str, str]]

    def lines(self) -> Iterator[str]:
        """For people."""
        yield f"labelled {self.labelled} images, {self.labelled - self.empty} with defects and {self.empty} without"
        if self.unsure:
            yield f"left out {self.unsure} images about which the model is not sure"
        if self.known:
            yield f"left out {self.known} images that the data set has already"
        yield from (f"left out {image}: {reason}" for image, reason in self.unreadable)


def pseudo_label(weights: str, data: str | Path, unlabelled: str | Path, out: Path, conf: float = CONF, doubt: float | None = None,
                 more: Sequence[str] = (), link: bool = False, overwrite: bool = False) -> Done:  # fmt: skip
    """Write the data set described above.

    Args:
        weights: of a model whose classes have the data set's names, in any order; detect.py runs it.
        data: of `data.resolve`.
        unlabelled: of `data.unlabelled.find_unlabelled`.
        out: new folder; it appears when it is complete.
        conf, doubt: confidences, see above; `doubt` is half of `conf` where None.
        more: further arguments of detect.py, such as --imgsz.
        link: link images, do not copy them.

    Raises:
        UserError: the data set, the folder or the model cannot be used, or the model is sure about no image.
    """
    doubt = conf * DOUBT if doubt is None else doubt
    if not 0 < doubt <= conf <= 1:
        raise UserError(f"--conf {conf:g} --doubt {doubt:g}: expected 0 < doubt <= conf <= 1; for example --conf 0.5 --doubt 0.25")
    names = list(validate(data).names.values())
    content = resolve(data)
    keep_all_apart(content, out)
    parts = {part: [x for entry in part_paths(content, part) for x in list_images(entry)] for part in PARTS}
    given = find_unlabelled(unlabelled)
    there = [image for image in given if image.is_file()]
    new = unknown(there, [x for images in parts.values() for x in images])
    seen, unreadable = _detect(weights, new, names, doubt, more)
    unreadable += [(str(image), "file is missing") for image in given if not image.is_file()]
    taken = [one for one in seen if ((one.scores < doubt) | (one.scores >= conf)).all()]
    if not taken:
        raise UserError(f"--unlabelled {unlabelled}: expected images about which {weights} is sure, got none of {len(given)}, "
                        f"{len(there) - len(new)} of them in {data}; lower --conf or raise --doubt")  # fmt: skip
    with staging(out, overwrite) as folder:
        writer = DatasetWriter(folder, names, link=link)
        for part, images in parts.items():
            known = [(image, label_rows(image)) for image in images]
            added = [(one.image, one.rows[one.scores >= conf]) for one in taken] if part == "train" else []
            stems = unique_stems([x.with_suffix("").as_posix().lstrip("/") for x, _ in known + added])
            for (image, rows), stem in zip(known + added, stems, strict=True):
                writer.add(image, part, stem, rows)
        writer.finish(f"{Path(data).name}, and {len(taken)} images labelled by {Path(weights).name} from confidence {conf:g} on")
    empty = sum(not (one.scores >= conf).any() for one in taken)
    return Done(len(taken), empty, len(seen) - len(taken), len(there) - len(new), unreadable)


def unknown(images: Sequence[Path], known: Sequence[Path]) -> list[Path]:
    """The images of which no known one has the content."""
    there = [image for image in known if image.is_file()]
    sizes = {image.stat().st_size for image in there}
    digests = {_digest(image) for image in there}
    return [image for image in images if image.stat().st_size not in sizes or _digest(image) not in digests]


def _digest(image: Path) -> bytes:
    return hashlib.sha256(image.read_bytes()).digest()


def _detect(weights: str, images: Sequence[Path], names: Sequence[str], conf: float, more: Sequence[str]) -> tuple[list[Seen], list[tuple[str, str]]]:
    """What a model finds in images, from a confidence on, and which could not be read."""
    if not images:
        return [], []
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        (place / "images.txt").write_bytes(b"".join(os.fsencode(x) + b"\n" for x in images))
        given = {"--weights": weights, "--source": place / "images.txt", "--conf": conf, "--project": place, "--name": "found"}
        run_script("detect.py", ["--save-json", "--no-draw", "--no-decision", *more, *(str(x) for pair in given.items() for x in pair)], place)
        found = json.loads((place / "found/results.json").read_text(encoding="utf-8"))
    theirs = list(found["names"].values())
    if sorted(theirs) != sorted(names):
        raise UserError(f"{weights}: expected a model of the classes {', '.join(names)}, got {', '.join(theirs)}; give one that was trained on them")
    unreadable = [(one["image"], one["reason"]) for one in found["skipped"]]
    lost = {image for image, _ in unreadable}
    read = [x for x in images if str(x) not in lost]
    return [_seen(image, one, names) for image, one in zip(read, found["images"], strict=True)], unreadable


def _seen(image: Path, found: Mapping[str, Any], names: Sequence[str]) -> Seen:
    boxes = found["detections"]
    xyxy = np.array([[one["box"][side] for side in ("x1", "y1", "x2", "y2")] for one in boxes]).reshape(-1, 4)
    kinds = np.array([names.index(one["name"]) for one in boxes], dtype=int)
    return Seen(image, xyxy_to_rows(kinds, xyxy, found["width"], found["height"]), np.array([one["confidence"] for one in boxes]))


def main(argv: list[str] | None = None) -> int:
    """Command line of this module; status 1 when an image could not be read."""
    parser = argparse.ArgumentParser(prog="python -m data.pseudo", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
                                     epilog="Every other argument goes to detect.py: --imgsz 640, --device 0 ...")  # fmt: skip
    parser.add_argument("--weights", required=True, help="the model that labels: .pt, .onnx, .torchscript or an OpenVINO folder")
    parser.add_argument("--data", required=True, help="data YAML of the labelled images")
    parser.add_argument("--unlabelled", required=True, help="folder of images, list file, or data YAML whose training part is meant")
    parser.add_argument("--out", type=Path, required=True, help="new folder")
    parser.add_argument("--conf", type=float, default=CONF, help="boxes from this confidence on are labels (default: 0.5)")
    parser.add_argument("--doubt", type=float, help="images with a box from this confidence up to --conf are left out (default: half of --conf)")
    parser.add_argument("--link", action="store_true", help="link the images, do not copy them")
    parser.add_argument("--overwrite", action="store_true", help="replace the data set in --out")
    words = sys.argv[1:] if argv is None else argv
    refuse_empty(words)
    own, more = parser.parse_known_args(words)
    done = pseudo_label(own.weights, own.data, own.unlabelled, own.out, own.conf, own.doubt, more, own.link, own.overwrite)
    print("\n".join(done.lines()))
    print(f"written: {own.out / 'data.yaml'}")
    return 1 if done.unreadable else 0


if __name__ == "__main__":
    sys.exit(guard(main))
