"""Training arguments: recipes, command line, ultralytics' defaults and our own keys, in one flat dict.

Later wins: ultralytics' defaults, our defaults, the recipe (`cfg/train/*.yaml`), the command line.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from cfg import UserError, find, nearest, read_yaml

OWN_DEFAULTS: dict[str, Any] = {
    "teacher": None,  # weights of the teacher (.pt: ours or ultralytics'); None trains without distillation
    "distill": "attention",  # distillation configuration in cfg/distill, used when there is a teacher
    "adaptive": "stable",  # weights of the loss terms: stable, paper, none, uncertainty
    "teacher_init": True,  # start the student from the teacher's tensors where name and shape match
    "weights": None,  # start from these weights where name and shape match (ours, ultralytics', YOLOv5's)
    "auto_anchors": True,  # refit the anchors when the best possible recall on the training boxes is below 0.98
    "tensorboard": False,  # write TensorBoard events to the run folder
}
ALIASES = {"cfg": "model"}
RESUMABLE = ("device", "workers", "cache", "patience", "batch", "imgsz", "save_period", "val", "plots", "time", "save_dir", "tensorboard")
DEFAULT_RECIPE = "paper"


def read_command_line(tokens: list[str], known: set[str]) -> dict[str, Any]:
    """Read `--key value`, `--key=value`, `--flag` and `key=value` into a dict.

    Args:
        tokens: command line without the program's name.
        known: every name that may be given; `-` and `_` are the same.

    Raises:
        UserError: an unknown name (with the nearest known one) or a stray value.
    """
    given: dict[str, Any] = {}
    position = 0
    while position < len(tokens):
        token = tokens[position]
        position += 1
        name, has_value, value = token.partition("=")
        if not token.startswith("--") and not has_value:
            raise UserError(f"unexpected '{token}'; expected --name value or name=value")
        name = name.removeprefix("--").replace("-", "_")
        if not has_value:
            follows = position < len(tokens) and not _is_name(tokens[position], known)
            value, position = (tokens[position], position + 1) if follows else ("True", position)
        if name not in known:
            raise UserError(f"unknown argument '{name}'{nearest(name, known)} (list: train.py --help)")
        given[ALIASES.get(name, name)] = _value(value)
    return given


def _is_name(token: str, known: set[str]) -> bool:
    return token.startswith("--") or token.partition("=")[0].replace("-", "_") in known and "=" in token


def _value(text: str) -> Any:
    """A number, bool, None or list as YAML reads it (1e-3 too, which YAML takes for text), else the text itself."""
    if text in ("None", "none"):
        return None
    try:
        return float(text) if "e" in text.lower() and "=" not in text else yaml.safe_load(text)
    except (ValueError, yaml.YAMLError):
        try:
            return yaml.safe_load(text)
        except yaml.YAMLError:
            return text


def known_names() -> set[str]:
    """Every argument train.py takes."""
    import models.environment  # noqa: F401
    from ultralytics.utils import DEFAULT_CFG_KEYS

    return set(DEFAULT_CFG_KEYS) | set(OWN_DEFAULTS) | set(ALIASES) | {"recipe", "info", "master_port"}


def complete(given: dict[str, Any]) -> dict[str, Any]:
    """Add the recipe to the arguments given and make paths absolute.

    Raises:
        UserError: no model or data set, an unknown recipe, or a recipe with an unknown name.
    """
    given = dict(given)
    recipe_path = find("train", given.pop("recipe", None) or DEFAULT_RECIPE)
    recipe = read_yaml(recipe_path)
    known = known_names()
    for name in recipe:
        if name not in known:
            raise UserError(f"{recipe_path.name}: unknown argument '{name}'{nearest(name, known)}")
    settings = OWN_DEFAULTS | recipe | given
    for name, flag in (("model", "--cfg s-model.yaml"), ("data", "--data neu-det.yaml")):
        if not settings.get(name):
            raise UserError(f"{name}: none given; say for example {flag}")
    # Absolute, because ultralytics moves relative projects elsewhere when it runs under pytest.
    settings["project"] = str(Path(settings.get("project") or "runs/train").resolve())
    settings["name"] = settings.get("name") or "exp"
    return settings
