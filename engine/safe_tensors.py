"""Checkpoints as safetensors: tensors in half precision, and the other fields of a checkpoint as text beside them.

Start weights ship in this form: half the size, and nothing in it can be code.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from cfg import UserError
from cfg.whole_files import replace_file
from engine.plain import plain

SUFFIX = ".safetensors"
KEY = "tandem"  # of the header's metadata, where the fields are


def save_safetensors(path: str | Path, content: dict[str, Any]) -> None:
    """Write a checkpoint's content (`engine.checkpoint.pack`), its floating-point tensors as float16.

    Raises:
        UserError: a number that float16 cannot hold; or as `engine.plain.save_atomic`.
    """
    state = {name: t.half() if t.is_floating_point() else t for name, t in content["state"].items()}
    for name, tensor in state.items():
        if tensor.is_floating_point() and not tensor.isfinite().all():
            raise UserError(f"{path}: {name} has numbers beyond those of float16 (65,504); train it with a lower learning rate")
    fields = {key: value for key, value in content.items() if key != "state"}
    text = json.dumps(plain(fields), ensure_ascii=False)
    replace_file(path, save({name: tensor.contiguous() for name, tensor in state.items()}, metadata={KEY: text}))


def read_safetensors(path: str | Path) -> dict[str, Any]:
    """Read what `save_safetensors` wrote, its tensors in float32; of a file of another program its tensors alone.

    Raises:
        UserError: damaged, or its fields cannot be read.
    """
    with _opened(path) as file:
        text = (file.metadata() or {}).get(KEY)
        state = {name: _single(file.get_tensor(name)) for name in file.keys()}  # noqa: SIM118 (no dict)
    if text is None:
        return state
    try:
        fields: dict[str, Any] = json.loads(text)
        names = {int(index): name for index, name in fields["names"].items()}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise UserError(f"{path}: its description cannot be read ({error}); the file is damaged, get it again") from None
    return fields | {"names": names, "state": state}


def shapes_of(path: str | Path) -> dict[str, tuple[int, ...]]:
    """Name and shape of each tensor, without reading them. Raises as `read_safetensors`."""
    with _opened(path) as file:
        return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118


@contextmanager
def _opened(path: str | Path) -> Iterator[Any]:
    """The file, open; what is wrong with it, also found while it is read, as `UserError`."""
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: cannot be read as safetensors ({error}); the file is damaged, get it again") from None


def _single(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor
