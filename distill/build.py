"""From the words of `--distill` to a distiller for a pair of networks."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from cfg import UserError, find, nearest, read_yaml
from distill.base import METHODS, Distiller, Spec
from distill.combined import Combined
from distill.networks import FrozenTeacher, spec_of
from models.detector import DetectionModel

UNLABELLED = "no labels train it"  # why the student of a run without labels has no predictions to compare


def build_distiller(
    wanted: str, student: DetectionModel, teacher: FrozenTeacher | None, label: str, label_free: bool = False
) -> Distiller:
    """The distiller of one YAML in `cfg/distill`, or of several as `attention+0.5*ld`, for a pair.

    Args:
        label_free: for a run without labels, in which the two need no common classes.

    Raises:
        UserError: unknown options, a pair the method cannot serve, a teacher that no method would look at, or a method that
            needs labels where there are none.
    """
    specs = spec_of(student, f"student {label}"), teacher.spec if teacher else None
    strengths = parse_methods(wanted)
    if label_free:  # before they are built: for a teacher of other classes they may be refused for another reason
        _check_label_free({name: method_of(name)[0].label_free for name in strengths})
    if label_free and teacher:
        specs = replace(specs[0], nc=teacher.spec.nc, names=teacher.spec.names, headless=UNLABELLED), teacher.spec
    parts = {name: build_method(name, *specs) for name in strengths}
    if label_free:
        _check_label_free({name: part.label_free for name, part in parts.items()})
    if teacher and not any(part.uses_teacher for part in parts.values()):
        raise UserError(f"distill: {wanted} makes its teacher itself; leave --teacher out, or add a method with one")
    if len(parts) == 1 and set(strengths.values()) == {1.0}:
        return next(iter(parts.values()))
    return Combined(parts, strengths, specs[0])


def parse_methods(wanted: str) -> dict[str, float]:
    """`attention+0.5*ld` -> {"attention": 1.0, "ld": 0.5}, in order; the path of a YAML is one method.

    Raises:
        UserError: anything else.
    """
    if Path(wanted).is_file():
        return {wanted: 1.0}
    strengths: dict[str, float] = {}
    for part in wanted.split("+"):
        factor, _, name = part.strip().rpartition("*")
        try:
            strength = float(factor) if factor else 1.0
        except ValueError:
            strength = math.nan
        if not name or not 0 < strength < math.inf or name in strengths:
            raise UserError(f"distill: expected methods as in attention+0.5*ld, each once, got '{wanted}'; correct it")
        strengths[name] = strength
    return strengths


def _check_label_free(label_free: Mapping[str, bool]) -> None:
    """Refuse methods (by name, whether they are `label_free`) that need labels, or that train the head: half of it, as they know no boxes."""
    works = [name for name in METHODS if METHODS.get(name).label_free]
    for name, can in label_free.items():
        if not can:
            raise UserError(
                f"--unlabelled: {name} needs labels, or teaches the head, which cannot learn boxes without them; use a method "
                f"that reads features alone ({', '.join(works)})"
            )


def method_of(name: str) -> tuple[type[Distiller], dict[str, Any]]:
    """The class and the options that a distillation YAML names. Raises `UserError` for one that is unknown."""
    path = find("distill", name)
    options = read_yaml(path)
    method = METHODS.get(options.pop("method", path.stem))
    known = list(inspect.signature(method.__init__).parameters)[3:]
    for option in options:
        if option not in known:
            raise UserError(f"{path.name}: unknown option '{option}'{nearest(option, known)} (known: {', '.join(known)})")
    return method, options


def build_method(name: str, student: Spec, teacher: Spec | None) -> Distiller:
    """The distiller of one YAML in `cfg/distill`. Raises `UserError` for an unknown option or a pair that it cannot serve."""
    path = find("distill", name)
    method, options = method_of(name)
    try:
        return method(student, teacher, **options)
    except (TypeError, AttributeError) as error:  # a number was expected and something else came
        raise UserError(f"{path.name}: an option has a value of the wrong type ({error}); correct it") from error
