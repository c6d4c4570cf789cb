"""What no training is started with: unknown values, wrong types, numbers outside their range."""

from __future__ import annotations

import math
from typing import Any

from cfg import UserError, nearest
from engine.settings.defaults import OWN_DEFAULTS, defaults
from engine.settings.parts import SELECT, SHIPPED, Rare, part_of
from engine.settings.rare import check_rare

OPTIMIZERS = ("auto", "SGD", "MuSGD", "Adam", "Adamax", "AdamW", "NAdam", "RAdam", "RMSprop")
MOST_SEED = 2**31 - 1  # NumPy takes 32 bits, and epochs and processes count on from here
REFUSED = {
    "distill_model": "ultralytics' own distillation is not used here; give the teacher with --teacher FILE",
    "task": "this is a detector; leave task out",
    "mode": "train.py trains; leave mode out (val.py, detect.py and export.py do the rest)",
    "compile": "training is not compiled; leave compile out",
}


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
        raise UserError("--unlabelled: images without labels teach nothing alone; give the teacher with --teacher t.pt")
    balance = {name: settings.get(name, default) for name, default in OWN_DEFAULTS.items() if name.startswith("kd_")}
    check_balance(balance)
    rare = part_of(Rare, settings)
    check_rare(rare, bool(settings.get("rect")))
    for name, default in OWN_DEFAULTS.items():
        if name in balance or hasattr(rare, name) or name in ("lr_steps", "teacher_init", "tile", "overlap"):
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
    if batch != -1 and not 0 < batch < 1 and (not isinstance(batch, int) or isinstance(batch, bool) or batch < 1):
        raise UserError(
            "batch: expected a whole number, -1 (as much as fits) or a share of GPU memory as 0.6, "
            f"got {batch}"
        )
    if not isinstance(imgsz, int) or isinstance(imgsz, bool) or imgsz < 1:
        raise UserError(
            f"imgsz: expected one whole number of pixels, got {imgsz!r}; "
            "images are trained on as squares: --imgsz 640"
        )
    if settings["workers"] < 0:
        raise UserError(f"workers: expected a whole number of at least 0, got {settings['workers']}")
    if settings["time"] is not None and not 0 < settings["time"] < math.inf:
        raise UserError(f"time: expected hours above 0, got {settings['time']}; leave it out for no limit")
    if settings["seed"] > MOST_SEED:
        raise UserError(f"seed: expected a whole number of at most {MOST_SEED}, got {settings['seed']}")
    if settings["cache"] not in (True, False, "ram", "disk", None):
        raise UserError(f"cache: expected True, False, ram or disk, got {settings['cache']!r}")
    freeze = settings["freeze"]
    layers = freeze if isinstance(freeze, list) else [freeze] if freeze is not None else []
    if any(not isinstance(x, int) or isinstance(x, bool) or x < 0 for x in layers):
        raise UserError(f"freeze: expected a number of layers or a list of layer numbers as [0,1,2], got {freeze!r}")
