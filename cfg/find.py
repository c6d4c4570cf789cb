"""Find and read the YAML files of `cfg/` by short name or by path."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from cfg.errors import UserError, nearest
from cfg.text import read_text
from cfg.yaml_document import load_document

ROOT = Path(__file__).resolve().parent
KINDS = {"models": "model", "data": "data set", "train": "recipe", "distill": "distillation"}  # by folder


def find(kind: str, name: str | Path) -> Path:
    """Return the path of a configuration file.

    Args:
        kind: folder below `cfg/`: ``models``, ``distill``, ``data`` or ``train``.
        name: a path that exists, or a file name below that folder, with or without ``.yaml``.

    Raises:
        UserError: no such file; the message lists where it was looked for and the nearest known name.
    """
    given = Path(name)
    for candidate in (given, Path(f"{given}.yaml")):
        if candidate.is_file():
            return candidate.resolve()
    folder = ROOT / kind
    known = {p.relative_to(folder).as_posix(): p for p in sorted(folder.rglob("*.yaml"))}
    by_name = {p.name: p for p in known.values()} | known
    for key in (str(name), f"{name}.yaml"):
        if key in by_name:
            return by_name[key]
    listed = [key for key in known if "/" not in key]
    folders = sorted({f"{key.partition('/')[0]}/" for key in known if "/" in key})
    hint = "" if given.parent.name else nearest(f"{name}", known)  # a path that is wrong is no misspelt name
    raise UserError(
        f"{KINDS.get(kind, kind)} '{name}' not found: expected a YAML file at that path or one of "
        f"cfg/{kind}: {', '.join(listed + folders) or 'none'}{hint}"
    )


def read_yaml(path: str | Path, as_text: bool = False) -> dict[str, Any]:
    """Read a YAML mapping; `as_text` leaves its values as they are written, where YAML sees numbers, dates or `yes` as True.

    Raises:
        UserError: naming the file when it is unreadable, not YAML or not a mapping.
    """
    try:
        content = load_document(read_text(path), as_text)
    except UserError:
        raise
    except (yaml.YAMLError, RecursionError, ValueError) as error:  # ValueError: also a date such as 2026-99-99
        raise UserError(f"{path}: not valid YAML ({' '.join(str(error).split())}); correct the file") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: expected a YAML mapping (key: value lines), got {'nothing' if content is None else type(content).__name__}")
    return content
