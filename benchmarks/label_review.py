#!/usr/bin/env python
"""How many of the first suspects of `data.review` are labels that were damaged on purpose.

Of all boxes 5 % are dropped, 5 % moved (by 0.4 to 1 of their size, IoU below 0.6 with where they were) and 5 % given another
class, in memory; nothing of the data set is changed. A suspect counts as right when it names a damaged label, or a place
from which one was taken. Faults that the labels had before count as wrong.

    python benchmarks/label_review.py --write datasets/damaged --data neu-det.yaml --split train

writes a copy whose part 'train' has the damage of the first seed, to train the model on that reviews it.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from cfg import UserError, guard  # noqa: E402
from data.layout import DatasetWriter, staging, xyxy_to_rows  # noqa: E402
from data.reader import Sample  # noqa: E402
from data.review.part import Reviewed, join, labels_of, look, read_part  # noqa: E402
from data.review.suspects import KINDS, Objects, Suspect, find_suspects, iou  # noqa: E402

SHARE = 0.05
FIRST = (50, 100, 200)
DROP, MOVE, SWAP = "dropped", "moved", "swapped"


class Damaged:
    """An image with damaged labels: `labels`, which of them are damaged (n,), and where boxes are missing (m, 4)."""

    def __init__(self, image: Reviewed, damage: dict[int, str], classes: int, rng: np.random.Generator) -> None:
        boxes, kinds, self.wrong = [], [], []
        given = image.labels
        for index, (box, kind) in enumerate(zip(given.boxes_xyxy, given.classes.tolist(), strict=True)):
            done = damage.get(index)
            if done == DROP:
                continue
            boxes.append(moved(box, image.width, image.height, rng) if done == MOVE else box)
            kinds.append(int(rng.choice([k for k in range(classes) if k != kind])) if done == SWAP else kind)
            self.wrong.append(done is not None)
        self.labels = Objects(np.array(boxes).reshape(-1, 4), np.array(kinds, dtype=int))
        self.left = given.boxes_xyxy[[i for i in damage if damage[i] in (DROP, MOVE)]].reshape(-1, 4)

    def explains(self, suspect: Suspect, found: Objects) -> bool:
        """Whether a suspect is about a damaged label."""
        if suspect.label is not None:
            return self.wrong[suspect.label]
        return bool(len(self.left)) and iou(found.boxes_xyxy[[suspect.found]], self.left).max() >= 0.3


def moved(box_xyxy: np.ndarray, width: int, height: int, rng: np.random.Generator) -> np.ndarray:
    """A box pushed in some direction, inside the image; at least half of each side is kept."""
    size = box_xyxy[2:] - box_xyxy[:2]
    for _ in range(200):
        angle, reach = rng.uniform(0, 2 * np.pi), rng.uniform(0.4, 1.0)
        shift = np.tile(size * (np.cos(angle), np.sin(angle)) * reach, 2)
        pushed = np.clip(box_xyxy + shift, 0, (width, height, width, height))
        if ((pushed[2:] - pushed[:2]) > size / 2).all() and iou(pushed[None], box_xyxy[None])[0, 0] < 0.6:
            return pushed
    return np.concatenate([box_xyxy[:2], box_xyxy[:2] + size / 2])  # as large as the image: a quarter of it


def damage(images: list[Reviewed], classes: int, seed: int) -> list[Damaged]:
    """Damage the labels of all images by the shares above."""
    rng = np.random.default_rng(seed)
    places = [(i, k) for i, image in enumerate(images) for k in range(len(image.labels))]
    count = round(SHARE * len(places))
    chosen: dict[int, dict[int, str]] = {}
    for number, place in enumerate(rng.permutation(len(places))[: 3 * count]):
        image, index = places[place]
        chosen.setdefault(image, {})[index] = (DROP, MOVE, SWAP)[number // count]
    return [Damaged(image, chosen.get(i, {}), classes, rng) for i, image in enumerate(images)]


def labelled(sample: Sample) -> Reviewed:
    """An image with its labels, in which nothing was found."""
    return Reviewed(sample.image, *sample.size, labels_of(sample), Objects(np.zeros((0, 4)), np.zeros(0, dtype=int)), [])


def write_damaged(data: str, split: str, out: Path) -> None:
    """Write a data set that has the labels of `data`, those of `split` with the damage of seed 0. Raises `UserError`."""
    parts = {part: read_part(data, part) for part in dict.fromkeys(("train", "val", split))}
    names = list(parts["train"][0].values())
    if len(names) < 2:
        raise UserError(f"{data}: expected two classes or more, of which labels can be exchanged, got {len(names)}; give other data")
    with staging(out) as folder:
        writer = DatasetWriter(folder, names, link=True)
        for part, (_, reading) in parts.items():
            images = [labelled(sample) for sample in reading.samples]
            labels = [done.labels for done in damage(images, len(names), 0)] if part == split else [one.labels for one in images]
            for number, (one, given) in enumerate(zip(images, labels, strict=True)):
                rows = xyxy_to_rows(given.classes, given.boxes_xyxy, one.width, one.height)
                writer.add(one.image, part, f"{number:05}", rows)
        writer.finish(f"{split} with damaged labels")


def rank(images: list[Reviewed], classes: int, seed: int) -> tuple[np.ndarray, list[str]]:
    """Whether each suspect is right, most suspicious first, and its kind."""
    done = damage(images, classes, seed)
    suspects = find_suspects([d.labels for d in done], [image.found for image in images], classes)
    right = np.array([done[s.image].explains(s, images[s.image].found) for s in suspects])
    return right, [s.kind for s in suspects]


def main() -> int:
    """Run the comparison; print one row per seed and the mean."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", help="the model that reviews")
    parser.add_argument("--detections", help="instead of --weights: boxes of val.py --detections")
    parser.add_argument("--data", required=True)
    parser.add_argument("--split", default="val", choices=("train", "val", "test"))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--write", type=Path, help="new folder: write the data set with the damage of seed 0, review nothing")
    options = parser.parse_args()
    if options.write:
        write_damaged(options.data, options.split, options.write)
        return 0
    if bool(options.weights) == bool(options.detections):
        parser.error("expected one of --weights and --detections")
    names, reading = read_part(options.data, options.split)
    with tempfile.TemporaryDirectory() as folder:
        boxes = options.detections or look(options.weights, options.data, options.split, Path(folder))
        images = join(reading, boxes, len(names))
    rows, kinds = [], dict.fromkeys(KINDS, 0.0)
    total = sum(len(image.labels) for image in images)
    print(f"{len(images)} images, {total} labels, {3 * round(SHARE * total)} damaged; precision of the first suspects")
    print("seed  " + "  ".join(f"{n:>6}" for n in FIRST))
    for seed in range(options.seeds):
        right, told = rank(images, len(names), seed)
        rows.append([right[:n].mean() for n in FIRST])
        for kind in told[: FIRST[1]]:
            kinds[kind] += 1 / options.seeds
        print(f"{seed:4}  " + "  ".join(f"{value:6.2f}" for value in rows[-1]), flush=True)
    print("mean  " + "  ".join(f"{value:6.2f}" for value in np.mean(rows, 0)))
    print(f"of the first {FIRST[1]}: " + ", ".join(f"{kind} {count:.0f}" for kind, count in kinds.items()))
    return 0


if __name__ == "__main__":
    sys.exit(guard(main))
