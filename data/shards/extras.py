"""Packages that only very many images need: imported where they are used."""

from __future__ import annotations

import importlib
from types import ModuleType

from cfg import UserError


def needed(module: str, why: str) -> ModuleType:
    """Import a module of `requirements-scale.txt`. Raises `UserError` where its package is not installed."""
    try:
        return importlib.import_module(module)
    except ImportError:
        package = module.partition(".")[0]
        raise UserError(f"{why}: expected the package {package} to be installed; pip install -r requirements-scale.txt") from None
