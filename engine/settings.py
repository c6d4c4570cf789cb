"""Training arguments: recipes, command line, ultralytics' defaults and our own keys, in one flat dict.

Later wins: ultralytics' defaults, our defaults, the recipe (`cfg/train/*.yaml`), the command line.
"""

from __future__ import annotations

import importlib.util
import re
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from cfg import UserError, find, nearest, read_yaml
from engine.rare import OPTIONS, check_rare

SELECT = "select"  # of teacher_init: chosen channels
SHIPPED = "shipped"  # of weights: those that come with Tandem, where it has some for the model
OWN_DEFAULTS: dict[str, Any] = {
    "teacher": None,  # .pt of ours or ultralytics', a YAML of cfg/teachers' kind, or of a model (untrained)
    "unlabelled": None,  # pictures to distil on without labels: a folder, a list file, a data YAML
    "distill": None,  # distillation configurations in cfg/distill: mgd, attention+0.5*ld; with a teacher: attention
    "adaptive": "none",  # weights of the loss terms: stable, paper, none, uncertainty
    "kd_share": 0.3,  # gradient of distillation at the student's trunk over detection's; None: as the losses are
    "kd_hold": True,  # hold that share throughout; False: settle it at the start
    "kd_cap": None,  # largest such share of all distillation losses together
    "kd_project": True,  # give detection back what distillation takes from it where the two oppose each other
    "kd_warmup": 0.0,  # fraction of training over which distillation comes up to its share, while adapters learn
    "kd_until": 1.0,  # fraction of training after which distillation is off
    "kd_decay": "none",  # cosine: distillation fades from the start to kd_until
    "kd_every": 50,  # steps between two measurements of the shares
    "lr_steps": None,  # fractions of training at which the learning rate falls to a tenth, in the place of lrf, cos_lr
    "teacher_init": SELECT,  # start from the teacher: chosen channels where the layouts are alike; True: by name and shape
    "weights": SHIPPED,  # what to start from: shipped, a file (ours, ultralytics', YOLOv5's), or none: random numbers
    "map_classes": False,  # take the classes of weights and teacher by their names, where these are in another order
    "auto_anchors": True,  # refit the anchors when the best possible recall on the training boxes is below 0.98
    "tile": None,  # cut the data set into tiles of so many pixels, and train on these
    "overlap": None,  # share of a tile that its neighbour shows too; None: 0.2, or more where the defects are longer
    "tensorboard": False,  # write TensorBoard events to the run folder
    "verbose": False,  # every loss item, weight and share in the progress table, and all that the host library says
    **OPTIONS,  # for rare defects
}
ALIASES = {"cfg": "model"}
RESUMABLE = ("device", "workers", "cache", "patience", "batch", "imgsz", "save_period", "val", "plots",
             "time", "save_dir", "tensorboard", "verbose")  # fmt: skip
DEFAULT_RECIPE = "paper"
TEXT = ("model", "data", "teacher", "unlabelled", "distill", "adaptive", "weights", "recipe", "project", "name", "save_dir",
        "optimizer", "split")  # fmt: skip
FILES = ("model", "data", "teacher", "unlabelled", "distill", "weights")
FLAGS = ("resume", "info", "compile", "channels_last", "nms", "teacher_init")  # need no value, like those that are bool by default
SCIENTIFIC = r"[-+]?\d*\.?\d+[eE][-+]?\d+"
OPTIMIZERS = ("auto", "SGD", "MuSGD", "Adam", "Adamax", "AdamW", "NAdam", "RAdam", "RMSprop")
REFUSED = {
    "distill_model": "ultralytics' own distillation is not used here; give the teacher with --teacher FILE",
    "task": "this is a detector; leave task out",
    "mode": "train.py trains; leave mode out (val.py, detect.py and export.py do the rest)",
    "compile": "training is not compiled; leave compile out",
}


def read_command_line(tokens: list[str], known: set[str]) -> dict[str, Any]:
    """Read `--key value`, `--key=value`, `--flag` and `key=value` into a dict.

    Args:
        tokens: command line without the program's name.
        known: every name that may be given; `-` and `_` are the same.

    Raises:
        UserError: an unknown name (with the nearest known one), a stray value, or a name without its value.
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
        if name not in known:
            raise UserError(f"unknown argument '{name}'{nearest(name, known)} (list: train.py --help)")
        name = ALIASES.get(name, name)
        if not has_value:
            follows = position < len(tokens) and not _is_name(tokens[position], known)
            value, position = (tokens[position], position + 1) if follows else ("", position)
        if not value and not (_is_flag(name) and not has_value):
            raise UserError(f"--{name}: expected a value, got none; say --{name} VALUE")
        given[name] = _value(name, value) if value else True
    return given


def _is_name(token: str, known: set[str]) -> bool:
    return token.startswith("--") or (token.partition("=")[0].replace("-", "_") in known and "=" in token)


def _is_flag(name: str) -> bool:
    return name in FLAGS or isinstance(defaults().get(name), bool)


def _value(name: str, text: str) -> Any:
    """A number, bool, None or list as YAML reads it (1e-3 too, which YAML takes for text); names stay text."""
    if name in ("adaptive", "kd_decay"):
        return text.lower()  # "none" is one of their modes
    if text in ("None", "none"):
        return None
    if name in TEXT:
        return text
    try:
        return float(text) if re.fullmatch(SCIENTIFIC, text) else _plain(yaml.safe_load(text), text)
    except yaml.YAMLError:
        return text


def _plain(value: Any, text: str) -> Any:
    """YAML's reading of `text` where it is one of ours; YAML also sees dates, mappings and base-60 numbers (12:30)."""
    return value if isinstance(value, (bool, int, float, list)) and ":" not in text else text


def defaults() -> dict[str, Any]:
    """Every training argument with its default: ultralytics' and ours."""
    return _host_defaults() | OWN_DEFAULTS


@cache
def _host_defaults() -> dict[str, Any]:
    """Ultralytics' defaults, from its file: importing it takes seconds, which a misspelt argument is not worth."""
    spec = importlib.util.find_spec("ultralytics")
    if spec is None or spec.origin is None:
        raise UserError("expected the package ultralytics to be installed; pip install -r requirements.txt")
    host = read_yaml(Path(spec.origin).parent / "cfg/default.yaml")
    return {name: None if value == "None" else value for name, value in host.items()}


def known_names() -> set[str]:
    """Every argument train.py takes."""
    return set(defaults()) | set(ALIASES) | {"recipe", "info"}


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
            raise UserError(f"{name}: none given; say for example {flag}")
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


def check(settings: dict[str, Any]) -> None:
    """Refuse arguments that training does not take, and values of a wrong type or outside their range.

    Raises:
        UserError: names the argument, what was expected and what was given.
    """
    import models.environment  # noqa: F401  (before ultralytics)

    from ultralytics.cfg import get_cfg

    normal = defaults()
    for name, reason in REFUSED.items():
        if settings.get(name) not in (None, normal[name]):
            raise UserError(f"{name}: {reason}")
    try:
        get_cfg(normal, settings)
    except (TypeError, ValueError, SyntaxError) as error:
        raise UserError(" ".join(str(error).split())) from None
    _check_own(settings)
    _check_host(normal | settings)


def _check_own(settings: dict[str, Any]) -> None:
    """Types and values of the arguments that ultralytics does not know."""
    from distill.balance import check_balance
    from distill.weighting import MODES

    if settings.get("unlabelled") and not settings.get("teacher"):
        raise UserError("--unlabelled: pictures without labels teach nothing alone; give the teacher with --teacher t.pt")
    balance = {name: settings.get(name, default) for name, default in OWN_DEFAULTS.items() if name.startswith("kd_")}
    check_balance(balance)
    check_rare({name: settings.get(name, default) for name, default in OPTIONS.items()}, bool(settings.get("rect")))
    for name, default in OWN_DEFAULTS.items():
        if name in balance or name in OPTIONS or name in ("lr_steps", "teacher_init", "tile", "overlap"):
            continue
        value = settings.get(name, default)
        kind, wanted = (bool, "True or False") if isinstance(default, bool) else (str, "a name or path")
        if not isinstance(value, kind) and not (value is None and default in (None, SHIPPED)):
            raise UserError(f"{name}: expected {wanted}, got {value!r}; correct it or leave it out")
    start = settings.get("teacher_init", SELECT)
    if not isinstance(start, bool) and start != SELECT:
        raise UserError(f"teacher_init: expected {SELECT}, True or False, got {start!r}{nearest(str(start), [SELECT])}; correct it")
    steps = settings.get("lr_steps")
    fractions = isinstance(steps, list) and all(isinstance(x, (int, float)) and 0 < x < 1 for x in steps)
    if steps is not None and not fractions:
        raise UserError(f"lr_steps: expected fractions of training as [0.67, 0.89], or None, got {steps!r}; correct it")
    mode = settings.get("adaptive", OWN_DEFAULTS["adaptive"])
    if mode not in MODES:
        raise UserError(f"adaptive: expected one of {', '.join(MODES)}, got '{mode}'{nearest(mode, MODES)}")


def _check_host(settings: dict[str, Any]) -> None:
    """Values that ultralytics looks at only after it has made the run folder."""
    if settings["quantize"] == 8 or str(settings["quantize"]) in {"int8", "w8a8"}:
        raise UserError(
            "quantize: training in 8 bits is not supported; "
            "leave quantize out and quantise an exported model"
        )
    if settings["optimizer"].lower() not in {name.lower() for name in OPTIMIZERS}:
        raise UserError(
            f"optimizer: expected one of {', '.join(OPTIMIZERS)}, got '{settings['optimizer']}'"
            f"{nearest(settings['optimizer'], OPTIMIZERS)}"
        )
    batch, imgsz = settings["batch"], settings["imgsz"]
    if batch != -1 and not 0 < batch < 1 and (batch < 1 or batch != int(batch) or isinstance(batch, bool)):
        raise UserError(
            "batch: expected a whole number, -1 (as much as fits) or a share of GPU memory as 0.6, "
            f"got {batch}"
        )
    if not isinstance(imgsz, int) or isinstance(imgsz, bool) or imgsz < 1:
        raise UserError(
            f"imgsz: expected one whole number of pixels, got {imgsz!r}; "
            "images are trained on as squares: --imgsz 640"
        )
    if settings["cache"] not in (True, False, "ram", "disk", None):
        raise UserError(f"cache: expected True, False, ram or disk, got {settings['cache']!r}")
    freeze = settings["freeze"]
    layers = freeze if isinstance(freeze, list) else [freeze] if freeze is not None else []
    if any(isinstance(x, (bool, float)) or (isinstance(x, int) and x < 0) for x in layers) or isinstance(freeze, str):
        raise UserError(f"freeze: expected a number of layers or a list of layer numbers as [0,1,2], got {freeze!r}")
