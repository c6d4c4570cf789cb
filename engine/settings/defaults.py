"""Every training argument with its default: ultralytics' and ours."""

from __future__ import annotations

import importlib.util
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

from cfg import UserError, read_yaml
from engine.settings.parts import PARTS

ALIASES = {"cfg": "model"}
TEXT = ("model", "data", "teacher", "unlabelled", "distill", "adaptive", "weights", "recipe", "project", "name", "save_dir",
        "optimizer", "split")  # fmt: skip
# What ultralytics does not know, or has another default for.
OWN_DEFAULTS: dict[str, Any] = {x.name: x.default for part in PARTS.values() for x in fields(part) if x.metadata.get("ours")}


def defaults() -> dict[str, Any]:
    """Every training argument with its default: ultralytics' and ours."""
    return _host_defaults() | OWN_DEFAULTS


@cache
def _host_defaults() -> dict[str, Any]:
    """Ultralytics' defaults, from its file: importing it takes seconds, and a misspelt argument should be reported at once."""
    spec = importlib.util.find_spec("ultralytics")
    if spec is None or spec.origin is None:
        raise UserError("expected the package ultralytics to be installed; pip install -r requirements.txt")
    host = read_yaml(Path(spec.origin).parent / "cfg/default.yaml")
    return {name: None if value == "None" else value for name, value in host.items()}


def known_names() -> set[str]:
    """Every argument train.py takes."""
    return set(defaults()) | set(ALIASES) | {"recipe", "info", "save_dir"}
