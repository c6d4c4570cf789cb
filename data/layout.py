"""The YOLO layout on disk: which label file belongs to which image, and writing a new data set."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from cfg import UserError
from data.images import write_pixels
from data.labels import read_labels

PARTS = ("train", "val", "test")
HEADER = "# Tandem: "  # first line of every `data.yaml` that we write; data/earlier.py knows our data sets by it


def label_path(image: Path) -> Path:
    """Return the label file of an image: the last folder called `images` becomes `labels`, the suffix `.txt`."""
    parts = list(image.parts)
    for i in range(len(parts) - 2, -1, -1):
        if parts[i] == "images":
            parts[i] = "labels"
            break
    return Path(f"{os.path.splitext(Path(*parts))[0]}.txt")  # with_suffix refuses what is no file name


def label_rows(image: Path) -> np.ndarray:
    """Return the label rows (n, 5) of an image; none without a label file."""
    file = label_path(image)
    return read_labels(file).rows if file.exists() else np.zeros((0, 5))


def unique_stems(keys: Sequence[str]) -> list[str]:
    """Turn image keys (relative paths without suffix) into distinct file stems, short where that is unambiguous.

    A key whose last component occurs more than once keeps its folders, joined by `_`; a number settles what is left.
    """
    last = [key.rsplit("/", 1)[-1] for key in keys]
    counts: dict[str, int] = {}
    for name in last:
        counts[name] = counts.get(name, 0) + 1
    stems, used = [], set()
    for key, name in zip(keys, last):
        stem = base = name if counts[name] == 1 else key.replace("/", "_")
        number = 1
        while stem in used:
            number += 1
            stem = f"{base}_{number}"
        used.add(stem)
        stems.append(stem)
    return stems


def xyxy_to_rows(classes: np.ndarray, boxes_xyxy: np.ndarray, width: int, height: int) -> np.ndarray:
    """Return label rows (n, 5): class, centre x, centre y, width, height as fractions, from boxes (n, 4) in pixels."""
    boxes = np.asarray(boxes_xyxy, dtype=np.float64).reshape(-1, 4) / (width, height, width, height)
    centre, size = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    return np.column_stack([np.asarray(classes, dtype=np.float64).reshape(-1), centre, size])


def rows_to_xyxy(rows: np.ndarray, width: int, height: int) -> np.ndarray:
    """Return boxes (n, 4) `x1 y1 x2 y2` in pixels from label rows (n, 5) in fractions of the image."""
    rows = rows.reshape(-1, 5)
    half = rows[:, 3:5] / 2
    return np.column_stack([rows[:, 1:3] - half, rows[:, 1:3] + half]) * (width, height, width, height)


class DatasetWriter:
    """Writes images, labels and `data.yaml` into one folder, which `staging` makes appear only when it is complete."""

    def __init__(self, folder: Path, names: Sequence[str], link: bool = False) -> None:
        self.folder, self.names, self.link = folder, list(names), link
        self.parts: set[str] = set()

    def add(self, image: Path, part: str, stem: str, rows: np.ndarray) -> None:
        """Copy (or link) an image file and write its label rows (n, 5)."""
        target = self._place(part, stem, image.suffix.lower(), rows)
        if self.link:
            target.symlink_to(image.resolve())
        else:
            shutil.copyfile(image, target)

    def add_pixels(self, pixels: np.ndarray, suffix: str, part: str, stem: str, rows: np.ndarray) -> None:
        """Encode pixels (H, W) or (H, W, 3) in BGR order, and write their label rows (n, 5)."""
        write_pixels(self._place(part, stem, suffix, rows), pixels)

    def _place(self, part: str, stem: str, suffix: str, rows: np.ndarray) -> Path:
        if part not in self.parts:
            for kind in ("images", "labels"):
                (self.folder / kind / part).mkdir(parents=True, exist_ok=True)
            self.parts.add(part)
        label = self.folder / "labels" / part / f"{stem}.txt"
        assert not label.exists(), f"two images called {stem} in one part"
        text = "".join(f"{int(r[0])} {r[1]:.6f} {r[2]:.6f} {r[3]:.6f} {r[4]:.6f}\n" for r in rows.reshape(-1, 5))
        label.write_text(text, encoding="utf-8")
        return self.folder / "images" / part / f"{stem}{suffix}"

    def finish(self, comment: str) -> None:
        """Write `data.yaml`; it names no `path`, so the folder may be moved (parts are relative to the YAML)."""
        content: dict[str, Any] = {part: f"images/{part}" for part in PARTS if part in self.parts}
        content["names"] = dict(enumerate(self.names))
        text = f"{HEADER}{comment}\n" + yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
        (self.folder / "data.yaml").write_text(text, encoding="utf-8")


@contextmanager
def staging(out: str | Path, overwrite: bool = False) -> Iterator[Path]:
    """Give a hidden folder beside `out` to write into; it is renamed to `out` at the end, or removed after an error.

    Raises:
        UserError: `out` holds something (and `overwrite` is false or it is no data set), or the disk refuses.
    """
    out = Path(out).resolve()
    if out.exists() and not (out.is_dir() and not any(out.iterdir())):
        if not overwrite:
            got = "one with content" if out.is_dir() else "a file"
            raise UserError(f"{out}: expected a new or empty folder, got {got}; "
                            "choose another --out, or replace it with --overwrite")
        if not (out / "data.yaml").is_file():
            raise UserError(f"{out}: --overwrite replaces only a data set (a folder with data.yaml); "
                            "remove the folder yourself or choose another --out")
    partial, old = (out.parent / f".{out.name}.{kind}-{os.getpid()}" for kind in ("partial", "old"))
    try:
        partial.mkdir(parents=True)
        yield partial
        if out.exists():
            out.rename(old)
        partial.rename(out)
    except OSError as error:
        raise UserError(f"{out}: the data set could not be written ({error}); check space and permissions") from error
    finally:
        if old.exists() and not out.exists():
            old.rename(out)  # what was there before stays, where the new one could not take its place
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def keep_apart(source: Path, out: Path) -> None:
    """Refuse (`UserError`) an output folder that is the source or contains it: replacing it would destroy that."""
    source, out = source.resolve(), Path(out).resolve()
    if out == source or out in source.parents:
        raise UserError(f"{out}: expected an output folder apart from the source {source}; choose another --out")
