"""Which images show the same part or lot: a column of a CSV file.

The file has a header and a column `image`: a file's name, or as much of the end of its path as tells it from others (`lot7/a.jpg`).
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path, PurePath

from cfg import UserError, nearest, read_text

IMAGE = "image"
DEFAULT = "groups.csv"  # beside the data YAML


def read_groups(path: Path, column: str) -> dict[str, str]:
    """{image: group} of one column. Raises `UserError` where the file, the column or a value is missing."""
    if not path.is_file():
        raise UserError(f"--group-by {column}: expected a CSV file with the columns {IMAGE} and {column} at {path}, but nothing is there; "
                        "write it, or give its path with --groups")  # fmt: skip
    rows = csv.DictReader(io.StringIO(read_text(path)), skipinitialspace=True)
    known = [name.strip() for name in rows.fieldnames or []]
    rows.fieldnames = known
    for name in (IMAGE, column):
        if name not in known:
            raise UserError(f"{path}: expected a column '{name}', got {', '.join(known) or 'none'}{nearest(name, known)}")
    groups: dict[str, str] = {}
    for number, row in enumerate(rows, start=2):
        image, group = (row[IMAGE] or "").strip().replace("\\", "/"), (row[column] or "").strip()
        if not image or not group:
            raise UserError(f"{path}:{number}: expected an image and its {column}, got '{image}' and '{group}'; fill them in")
        if groups.setdefault(image, group) != group:
            raise UserError(f"{path}:{number}: expected one {column} for each image, got '{groups[image]}' and '{group}' for {image}")
    return groups


def groups_of(files: Sequence[str], groups: dict[str, str], column: str, path: Path) -> list[str]:
    """The group of each file, by its name or the end of its path. Raises `UserError` for a file without one, or with two."""
    found, missing = [], []
    for file in files:
        parts = PurePath(file).as_posix().split("/")
        ends = ["/".join(parts[-n:]) for n in range(1, len(parts) + 1)]
        named = {groups[end] for end in ends if end in groups}
        if len(named) > 1:
            raise UserError(f"{path}: expected one {column} for {file}, got {' and '.join(sorted(named))}; name it with its folder")
        if not named:
            missing.append(file)
        found.append(next(iter(named), ""))
    if missing:
        raise UserError(f"{path}: expected a {column} for every image of the split, got none for {len(missing)} of {len(files)}, the first "
                        f"is {missing[0]}; add them")  # fmt: skip
    return found
