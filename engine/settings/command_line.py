"""The words of a command line -> arguments by name, as YAML reads their values."""

from __future__ import annotations

import re
from typing import Any

import yaml

from cfg import UserError, nearest
from cfg.command_line import refuse_empty
from engine.settings.defaults import ALIASES, TEXT, defaults

FLAGS = ("resume", "info", "compile", "channels_last", "nms", "teacher_init")  # need no value, like those that are bool by default
SCIENTIFIC = r"[-+]?\d*\.?\d+[eE][-+]?\d+"


def read_command_line(tokens: list[str], known: set[str]) -> dict[str, Any]:
    """Read `--key value`, `--key=value`, `--flag` and `key=value` into a dict.

    Args:
        tokens: command line without the program's name.
        known: every name that may be given; `-` and `_` are the same.

    Raises:
        UserError: an unknown name (with the nearest known one), a stray value, or a name without its value or with an empty one.
    """
    refuse_empty(tokens)
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
            raise UserError(f"--{name}: expected a value, got none; use --{name} VALUE")
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
    if re.fullmatch(r"[+-]?0\d+", text):  # YAML reads 010 as 8
        return int(text)
    try:
        return float(text) if re.fullmatch(SCIENTIFIC, text) else _plain(yaml.safe_load(text), text)
    except (yaml.YAMLError, ValueError):  # a date that is none
        return text


def _plain(value: Any, text: str) -> Any:
    """YAML's reading of `text` where it is one of ours; YAML also sees dates, mappings and base-60 numbers (12:30)."""
    return value if isinstance(value, (bool, int, float, list)) and ":" not in text else text
