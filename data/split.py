"""`python -m data.split --source DIR --out DIR --ratios 8:1:1`: divide a data set; copies of one image stay together.

Images are grouped first (identical pixels, or the same stem before an augmentation suffix), then whole groups are dealt
to the parts by iterative stratification (Sechidis et al. 2011, algorithm 1), rarest class first.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cfg import UserError, guard, read_lines
from cfg.class_names import shown
from cfg.command_line import read_arguments
from data.dataset import resolve
from data.earlier import leave_out_earlier
from data.files import find_images
from data.images import inspect_image
from data.labels import LABEL_ERRORS, read_labels
from data.layout import PARTS, DatasetWriter, keep_apart, label_path, staging, unique_stems

# Stem up to the first suffix that an augmentation tool appended: ours (`__flip`), Roboflow's, the usual `_aug3`.
COPY_PATTERN = r"(.+?)(?:__.*|\.rf\..*|[_-]aug.*)?$"


def group_images(images: Sequence[Path], pattern: str | None = COPY_PATTERN) -> np.ndarray:
    """Return the group index (n,) of each image; images of one group must not be separated.

    Args:
        images: image files; those with identical pixels share a group.
        pattern: images whose stems match with equal first group (or whole match) share a group too, in any folder,
            where that part is shorter than one of their stems (`a`, `a__flip`; not two images both called `a`).
            ``None``: pixels only.

    Raises:
        UserError: an image cannot be read, or `pattern` is no regular expression.
    """
    parent = list(range(len(images)))

    def root(i: int) -> int:
        while parent[i] != i:
            i = parent[i]
        return i

    first: dict[tuple[str, str | bytes], int] = {}
    prefixes = _prefixes(images, pattern)
    for i, image in enumerate(images):
        try:
            keys: list[tuple[str, str | bytes]] = [("pixels", inspect_image(image).digest)]
        except ValueError as error:
            raise UserError(f"{image}: {error}; repair or remove it (`python -m data.check` finds all)") from None
        if prefix := prefixes[i]:
            keys.append(("stem", prefix))
        for key in keys:
            parent[root(i)] = root(first.setdefault(key, i))
    return np.unique([root(i) for i in range(len(images))], return_inverse=True)[1]


def _prefixes(images: Sequence[Path], pattern: str | None) -> list[str | None]:
    """Return for each image the part of its stem that it shares with its copies, ``None`` where it has none."""
    try:
        regex = re.compile(pattern) if pattern else None
    except re.error as error:
        raise UserError(f"--group: expected a regular expression, got '{pattern}' ({error}); correct it") from None
    if regex is None:
        return [None] * len(images)
    matches = [regex.match(image.stem) for image in images]
    found = [m and (m.group(1) if regex.groups else m.group(0)) for m in matches]
    shortened = {prefix for prefix, image in zip(found, images) if prefix != image.stem}
    return [prefix if prefix in shortened else None for prefix in found]


def stratify(presence: np.ndarray, ratios: Sequence[float], seed: int = 0) -> np.ndarray:
    """Deal groups to parts so that every class is spread by the ratios. Returns the part index (g,) of each group.

    Args:
        presence: (g, k) number of images of group g that hold class k; the last column counts all its images.
        ratios: (p,) wanted shares, any positive scale.
        seed: decides ties and the order among equal groups.
    """
    rng = np.random.default_rng(seed)
    share = np.asarray(ratios, dtype=np.float64) / np.sum(ratios)
    wanted = share[:, None] * presence.sum(0)  # (p, k) still to be filled
    part = np.full(len(presence), -1)
    order = rng.permutation(len(presence))
    order = order[np.argsort(-presence[order, -1], kind="stable")]  # large groups first: small ones level out
    while (part < 0).any():
        left = presence[part < 0].sum(0)
        kinds = np.flatnonzero(left)
        kind = kinds[np.argmin(left[kinds])]  # the rarest class that is left; the column of all images comes last
        for group in order[(part[order] < 0) & (presence[order, kind] > 0)]:
            target = np.lexsort((rng.random(len(share)), wanted[:, -1], wanted[:, kind]))[-1]
            part[group] = target
            wanted[target] -= presence[group]
    return part


def read_ratios(text: str) -> dict[str, float]:
    """Turn `8:1:1` (train, val, test) or `8:2` (train, val) into shares. Raises `UserError` for anything else."""
    try:
        values = [float(v) for v in text.split(":")]
        if len(values) not in (2, 3) or not all(np.isfinite(values)) or min(values) < 0 or min(values[:2]) <= 0:
            raise ValueError
    except ValueError:
        raise UserError(f"--ratios: expected train:val[:test] such as 8:1:1 or 8:2, got '{text}'") from None
    return {part: value for part, value in zip(PARTS, values) if value > 0}


def read_group(words: Sequence[str] | None) -> str | None:
    """Return the pattern for `--group hash` (none), `--group prefix REGEX`, or the default. Raises `UserError`."""
    if words is None:
        return COPY_PATTERN
    if list(words) == ["hash"]:
        return None
    if len(words) == 2 and words[0] == "prefix":
        return words[1]
    raise UserError(f"--group: expected 'hash' or 'prefix REGEX', got '{' '.join(words)}'")


def read_names(source: Path, given: str | None) -> list[str]:
    """Return class names: `--names`, `data.yaml`, or `classes.txt` in the source or beside its labels (labelImg).

    Raises:
        UserError: there is none of them, or a name is missing or repeated.
    """
    lists = [source / "classes.txt", source / "labels" / "classes.txt"]
    if given:
        names, where = [name.strip() for name in given.split(",") if name.strip()], "--names"
    elif (source / "data.yaml").is_file():
        return list(resolve(source / "data.yaml", require=())["names"].values())
    elif found := [path for path in lists if path.is_file()]:
        names, where = _class_list(found[0]), f"{found[0]}"
    else:
        raise UserError(f"{source}: expected data.yaml or classes.txt with class names, got neither; "
                        "give --names a,b,c")
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(f"{where}: expected distinct class names, got '{twice[0]}' twice; rename one")
    return names


def _class_list(path: Path) -> list[str]:
    """Return the names of a class list, whose line numbers are the class indices: an empty line would shift them."""
    names = read_lines(path)
    while names and not names[-1]:
        names.pop()
    if "" in names:
        raise UserError(f"{path}: expected a class name on every line, got line {names.index('') + 1} empty; "
                        "give the class a name, or remove the line")
    return names


def split(source: Path, out: Path, ratios: dict[str, float], seed: int = 0, pattern: str | None = COPY_PATTERN,
          names: str | None = None, link: bool = False, overwrite: bool = False) -> dict[str, np.ndarray]:
    """Write a divided copy of a data set. Returns for each part the images with each class and all images (k + 1,).

    Raises:
        UserError: no images, an unreadable image or label, too few images for the parts, or `out` cannot be written.
    """
    keep_apart(source, out)
    base = source / "images" if find_images(source / "images") else source
    images = leave_out_earlier(find_images(base), base, out)
    if not images:
        raise UserError(f"{source}: expected images in {source / 'images'}, got none; check --source")
    class_names = read_names(source, names)
    rows = [_rows(image, len(class_names)) for image in images]
    presence = np.zeros((len(images), len(class_names) + 1), dtype=np.int64)
    for i, boxes in enumerate(rows):
        presence[i, boxes[:, 0].astype(int)] = 1
        presence[i, -1] = 1
    groups = group_images(images, pattern)
    per_group = np.zeros((groups.max() + 1, presence.shape[1]), dtype=np.int64)
    np.add.at(per_group, groups, presence)
    part = stratify(per_group, list(ratios.values()), seed)[groups]
    labels = list(ratios)
    if empty := [labels[i] for i in range(len(labels)) if not (part == i).any()]:
        raise UserError(f"{source}: expected enough images for every part, got {len(images)} in {groups.max() + 1} "
                        f"groups, none for {', '.join(empty)}; use other --ratios, --group or more images")
    with staging(out, overwrite) as folder:
        writer = DatasetWriter(folder, class_names, link)
        keys = [image.relative_to(base).with_suffix("").as_posix() for image in images]
        for image, stem, index, boxes in zip(images, unique_stems(keys), part, rows):
            writer.add(image, labels[index], stem, boxes)
        writer.finish(f"divided {':'.join(f'{v:g}' for v in ratios.values())}, seed {seed}")
    return {name: presence[part == i].sum(0) for i, name in enumerate(labels)}


def _rows(image: Path, nc: int) -> np.ndarray:
    path = label_path(image)
    if not path.exists():
        return np.zeros((0, 5))
    labels = read_labels(path, nc)
    for problem in labels.problems:
        if problem.code in LABEL_ERRORS:
            raise UserError(f"{path}:{problem.line}: {problem.text}")
    return labels.rows


def main(argv: list[str] | None = None) -> int:
    """Command line of this module."""
    parser = argparse.ArgumentParser(prog="python -m data.split", description=__doc__.split("\n\n")[0])
    parser.add_argument("--source", type=Path, required=True, help="data set in the YOLO layout (images/, labels/)")
    parser.add_argument("--out", type=Path, required=True, help="new folder")
    parser.add_argument("--ratios", default="8:1:1", help="train:val[:test] (default: 8:1:1)")
    parser.add_argument("--seed", type=int, default=0, help="decides ties (default: 0)")
    parser.add_argument("--group", nargs="+", metavar=("HOW", "REGEX"),
                        help="what stays together: 'hash' (identical pixels) or 'prefix REGEX' (identical pixels or "
                             "equal first group of REGEX in the stem); default: pixels and usual augmentation suffixes")
    parser.add_argument("--names", help="class names in index order, a,b,c, where the source has no data.yaml")
    parser.add_argument("--link", action="store_true", help="link the images instead of copying them")
    parser.add_argument("--overwrite", action="store_true", help="replace the data set in --out")
    options = read_arguments(parser, argv)
    counts = split(options.source, options.out, read_ratios(options.ratios), options.seed, read_group(options.group),
                   options.names, options.link, options.overwrite)
    names = [*map(shown, resolve(options.out, require=())["names"].values()), "all images"]
    width = max(map(len, names))
    print(f"{'images with':{width}}  " + "  ".join(f"{part:>7}" for part in counts))
    for i in range(len(names)):
        print(f"{names[i]:{width}}  " + "  ".join(f"{counts[part][i]:7d}" for part in counts))
    print(f"written: {options.out / 'data.yaml'}")
    return 0


if __name__ == "__main__":
    sys.exit(guard(main))
