"""Plain content and whole files: what makes a checkpoint readable anywhere, and never half-written."""

from __future__ import annotations

import io
import types
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cfg.whole_files import replace_file


def save_atomic(path: str | Path, content: dict[str, Any]) -> None:
    """Write `content` (plain types and tensors) so that `path` holds the old or the new file, never half of one.

    Raises:
        UserError: the folder cannot be written or the disk is full; a file that was there before is intact.
    """
    # Serialised in memory first: torch's file writer aborts the process when the disk fills up under it.
    buffer = io.BytesIO()
    torch.save(plain(content), buffer)
    replace_file(path, buffer.getbuffer())


def plain(value: Any, where: str = "checkpoint") -> Any:
    """Return `value` in types that `torch.load(weights_only=True)` reads: numbers, str, list, tuple, dict, CPU tensors.

    Raises:
        TypeError: something inside has no plain form; the message says where.
    """
    if value is None or type(value) in (bool, int, float, str):
        return value
    if isinstance(value, Tensor):
        # Contiguous, and a copy where it is a view: torch.save writes a view's whole storage.
        tensor = value.detach().cpu().contiguous()
        return tensor.clone() if tensor.untyped_storage().nbytes() > tensor.nbytes else tensor
    if isinstance(value, types.SimpleNamespace):
        value = vars(value)
    if isinstance(value, dict):
        return {plain(k, where): plain(v, f"{where}.{k}") for k, v in value.items()}
    if isinstance(value, (list, set, torch.Size)):
        return [plain(v, f"{where}[{i}]") for i, v in enumerate(value)]
    if isinstance(value, tuple):
        return tuple(plain(v, f"{where}[{i}]") for i, v in enumerate(value))
    if isinstance(value, (np.ndarray, np.generic)):
        return value.tolist()
    for base in (bool, int, float, str):
        if isinstance(value, base):
            return base(value)
    if isinstance(value, (Path, torch.device)):
        return str(value)
    raise TypeError(f"{where}: {type(value).__name__} has no plain form; store numbers, text, lists, dicts or tensors")
