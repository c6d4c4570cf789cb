#!/usr/bin/env python
"""Heat maps of several models side by side, as in the papers' figures: one picture, rows are images, columns are models.

    python benchmarks/figures.py ts-10 --weights cbam.pt dual.pt --titles CBAM dual --images a.jpg b.jpg
    python benchmarks/figures.py sdd-1 --weights cwd.pt lgd.pt sdd.pt --images a.jpg b.jpg

ts-10: Figure 10 of the T/S paper, the attention modules' own maps: train t-model.yaml with `attention: cbam` and as it is,
alike, and give both. sdd-1: Figure 1 of SDD, LayerCAM of the boxes that each detector finds, beside the labels (blue), which are
read from the label files beside the images.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from cfg import UserError, guard  # noqa: E402

KIND = {"ts-10": "attention", "sdd-1": "layercam"}
SIDE, GAP, LINE = 320, 8, 26  # pixels of an image, between images, of a title


def main() -> int:
    """Draw one figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("figure", choices=tuple(KIND))
    parser.add_argument("--weights", nargs="+", required=True, help="one .pt for each column")
    parser.add_argument("--titles", nargs="+", help="of the columns (default: the models' files)")
    parser.add_argument("--images", nargs="+", required=True)
    parser.add_argument("--conf", type=float, default=0.25, help="lowest score of the boxes explained (default: 0.25)")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, help="picture to write (default: runs/figures/FIGURE.png)")
    options = parser.parse_args()
    titles = options.titles or [Path(file).name for file in options.weights]
    if len(titles) != len(options.weights):
        raise UserError(f"--titles: expected one for each of {len(options.weights)} --weights, got {len(titles)}")
    import cv2
    import numpy as np

    first = _column(options.figure == "sdd-1", options.images)
    columns = [first, *(_maps(file, options, KIND[options.figure]) for file in options.weights)]
    heads = ["labels" if options.figure == "sdd-1" else "image", *titles]
    figure = np.hstack([_stack(title, pictures) for title, pictures in zip(heads, columns, strict=True)])
    out = options.out or Path(f"runs/figures/{options.figure}.png")
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_bytes(cv2.imencode(".png", figure)[1].tobytes())
    print(f"written: {out}")
    return 0


def _column(with_labels: bool, images: list[str]) -> list:
    """The images themselves, with the boxes of their label files."""
    import cv2

    from data.decode import Unreadable
    from data.images import read_pixels
    from data.labels import read_labels
    from data.layout import label_path, rows_to_xyxy

    pictures = []
    for image in images:
        try:
            pixels, labels = read_pixels(Path(image)), label_path(Path(image))
        except Unreadable as error:
            raise UserError(f"--images {image}: {error}; give readable images") from None
        if with_labels and labels.is_file():
            for x1, y1, x2, y2 in rows_to_xyxy(read_labels(labels).rows, pixels.shape[1], pixels.shape[0]).round().astype(int):
                cv2.rectangle(pixels, (x1, y1), (x2, y2), (216, 110, 30), max(1, pixels.shape[0] // 160))
        pictures.append(pixels)
    return pictures


def _maps(weights: str, options: argparse.Namespace, kind: str) -> list:
    """One model's maps over the images, made as detect.py makes them."""
    import tempfile

    from data.images import read_pixels
    from engine.detection.options import DetectOptions
    from engine.detection.predictor import detect

    with tempfile.TemporaryDirectory() as folder:
        sources = {}
        for number, image in enumerate(options.images):
            link = Path(folder) / f"{number}{Path(image).suffix}"
            link.symlink_to(Path(image).resolve())
            sources[number] = str(link)
        detect(DetectOptions(weights=weights, source=list(sources.values()), conf=options.conf, device=options.device, draw=False,
                             heatmap=kind, project=folder, name="run", no_decision=True))  # fmt: skip
        return [read_pixels(next((Path(folder) / "run/heatmaps").glob(f"{number}.*"))) for number in sources]


def _stack(title: str, pictures: list) -> Any:
    """A column: its title, and the images below each other at one width."""
    import cv2
    import numpy as np

    width = SIDE + GAP
    head = np.full((LINE, width, 3), 255, np.uint8)
    cv2.putText(head, title, (2, LINE - 9), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (40, 36, 30), 1, cv2.LINE_AA)
    parts = [head]
    for pixels in pictures:
        small = cv2.resize(pixels, (SIDE, max(1, round(SIDE * pixels.shape[0] / pixels.shape[1]))), interpolation=cv2.INTER_AREA)
        parts.append(cv2.copyMakeBorder(small, 0, GAP, 0, GAP, cv2.BORDER_CONSTANT, value=(255, 255, 255)))
    return np.vstack(parts)


if __name__ == "__main__":
    sys.exit(guard(main))
