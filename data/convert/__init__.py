"""Converters from other annotation formats; each file of this folder registers its reader, so a new file is enough."""

from importlib import import_module
from pkgutil import iter_modules

from data.convert.base import READERS, Annotation, Log, Reader, Record, reader, register

for _module in iter_modules(__path__):
    if not _module.name.startswith("_"):
        import_module(f"{__name__}.{_module.name}")

__all__ = ["READERS", "Annotation", "Log", "Reader", "Record", "reader", "register"]
