"""What turns pyramid features into boxes: the last row of a model YAML names one of these."""

from __future__ import annotations

from typing import TYPE_CHECKING

from models.registry import Registry

if TYPE_CHECKING:  # heads register here
    from models.heads.base import Head

HEADS: Registry[type[Head]] = Registry("head", "models.heads")
