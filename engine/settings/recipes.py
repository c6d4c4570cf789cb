"""Arguments given + recipe -> all arguments of ours, with absolute paths, checked.

Later wins: ultralytics' defaults, our defaults, the recipe (`cfg/train/*.yaml`), the command line.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cfg import UserError, find, nearest, read_yaml
from engine.settings.checks import check
from engine.settings.defaults import OWN_DEFAULTS, TEXT, known_names
from engine.settings.parts import SHIPPED

DEFAULT_RECIPE = "paper"
FILES = ("model", "data", "teacher", "unlabelled", "distill", "weights")


def complete(given: dict[str, Any]) -> dict[str, Any]:
    """Add the recipe to the arguments given, make paths absolute, and check every value.

    Raises:
        UserError: no model or data set, an unknown recipe, a name nobody knows, or a value of a wrong type or range.
    """
    given = dict(given)
    recipe_path = find("train", given.pop("recipe", None) or DEFAULT_RECIPE)
    recipe = read_yaml(recipe_path)
    known = known_names()
    for source, names in ((f"{recipe_path.name}: ", recipe), ("", given)):
        for name in names:
            if name not in known:
                raise UserError(f"{source}unknown argument '{name}'{nearest(name, known)}")
    settings = OWN_DEFAULTS | recipe | given
    for name, flag in (("model", "--cfg s-model.yaml"), ("data", "--data neu-det.yaml")):
        if not settings.get(name) and not (name == "data" and settings["unlabelled"]):
            raise UserError(f"{name}: none given; for example {flag}")
    for name in TEXT:
        if not isinstance(settings.get(name), (str, type(None))):
            raise UserError(f"{name}: expected a name or path, got {settings[name]!r}; correct it or leave it out")
    if isinstance(settings.get("pretrained"), str):  # ultralytics' name for the same thing
        pretrained = settings.pop("pretrained")
        settings["weights"] = pretrained if settings["weights"] in (None, SHIPPED) else settings["weights"]
    # Absolute: ultralytics moves relative projects elsewhere under pytest, and a run may be resumed from any folder.
    settings["project"] = str(Path(settings.get("project") or "runs/train").resolve())
    settings["name"] = settings.get("name") or "exp"
    settings |= {name: str(Path(settings[name]).resolve()) for name in FILES if _is_here(settings.get(name))}
    if _is_folder(settings["unlabelled"]):
        settings["unlabelled"] = str(Path(settings["unlabelled"]).resolve())
    check(settings)
    return settings


def _is_here(name: Any) -> bool:
    """Whether a file, or a data folder, of this name is there (else it is a short name of something in `cfg/`)."""
    return isinstance(name, str) and (Path(name).is_file() or (Path(name) / "data.yaml").is_file())


def _is_folder(name: Any) -> bool:
    return isinstance(name, str) and Path(name).is_dir()
