"""Names for interchangeable parts: register a class in its own file, look it up by the name a YAML uses.

A registry imports every module of its package on first use, so adding a part means adding a file and editing none.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from cfg import UserError, nearest

T = TypeVar("T")


class Registry(Generic[T]):
    """A named set of parts found in the modules of one package.

    Args:
        kind: what the parts are, for error messages ("block", "distillation method").
        package: dotted name of the package whose modules register the parts.
    """

    def __init__(self, kind: str, package: str) -> None:
        self.kind, self.package = kind, package
        self._parts: dict[str, T] = {}
        self._loaded = False

    def register(self, name: str) -> Callable[[T], T]:
        """Class decorator that makes the class known as `name`; a name is given once."""

        def add(part: T) -> T:
            if name in self._parts and self._parts[name] is not part:
                raise ValueError(f"{self.kind} '{name}' is registered twice: {self._parts[name]} and {part}")
            self._parts[name] = part
            return part

        return add

    def get(self, name: str) -> T:
        """Return the part called `name`. Raises `UserError` naming the nearest known part."""
        self._load()
        if not isinstance(name, str) or name not in self._parts:
            known = ", ".join(sorted(self._parts))
            raise UserError(f"unknown {self.kind} '{name}'{nearest(name, self._parts)} (known: {known})")
        return self._parts[name]

    def __iter__(self) -> Iterator[str]:
        self._load()
        return iter(sorted(self._parts))

    def _load(self) -> None:
        if self._loaded:
            return
        package = importlib.import_module(self.package)
        for module in pkgutil.iter_modules(package.__path__):
            importlib.import_module(f"{self.package}.{module.name}")
        self._loaded = True
