"""Shared by the fuzzers: how many inputs, damaged bytes, and YAML with wrong values in every place."""

from __future__ import annotations

import os
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

INPUTS = int(os.environ.get("TANDEM_FUZZ", "1000"))  # per test


def inputs(share: float = 1.0) -> Any:
    """Settings of a fuzz test: always the same inputs, `share` times `INPUTS` of them."""
    calm = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large]
    number = max(1, round(INPUTS * share))
    return settings(max_examples=number, derandomize=True, deadline=None, database=None, suppress_health_check=calm)


@st.composite
def damaged(draw: Any, whole: bytes) -> bytes:
    """Bytes of a file with a few places overwritten, cut out, doubled or cut off."""
    data = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, max(len(data) - 1, 0)))
        how = draw(st.sampled_from(["flip", "cut", "double", "end", "random", "zeros", "ones"]))
        length = draw(st.integers(1, 64))
        if how == "flip" and data:
            data[start] ^= 1 << draw(st.integers(0, 7))
        elif how == "cut":
            del data[start : start + length]
        elif how == "double":
            data[start:start] = data[start : start + length]
        elif how == "end":
            del data[start:]
        elif how == "random":
            data[start : start + length] = draw(st.binary(min_size=length, max_size=length))
        else:
            data[start : start + length] = (b"\0" if how == "zeros" else b"\xff") * length
    return bytes(data)


SCALARS = (
    st.none() | st.booleans() | st.integers(-3, 5) | st.integers() | st.floats() | st.text(max_size=8)
    | st.sampled_from(["", " ", ".", "..", "/", "~", "nan", "1e3", "0x10", "yes", "2024-01-01", "a: b", "*", "\0", "\ufeff", "💥"])
)  # fmt: skip
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(SCALARS, inner, max_size=4),
    max_leaves=6,
)


def places(content: Any, path: tuple = ()) -> list[tuple]:
    """The paths to every value in nested lists and dictionaries, the root left out."""
    inner = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    return [p for key, value in inner for p in [(*path, key), *places(value, (*path, key))]]


@st.composite
def spoiled(draw: Any, content: Any) -> Any:
    """A copy of nested lists and dictionaries with one to three values replaced, removed, renamed or doubled."""
    content = _copy(content)
    for _ in range(draw(st.integers(1, 3))):
        found = places(content)
        if not found:
            break
        *path, last = draw(st.sampled_from(found))
        owner = content
        for key in path:
            owner = owner[key]
        how = draw(st.sampled_from(["value", "value", "value", "remove", "rename", "double"]))
        if how == "value":
            owner[last] = draw(VALUES)
        elif how == "remove":
            del owner[last]
        elif isinstance(owner, list):
            owner.insert(last, owner[last])
        else:
            owner[draw(SCALARS)] = owner.pop(last) if how == "rename" else owner[last]
    return content


def _copy(content: Any) -> Any:
    if isinstance(content, dict):
        return {key: _copy(value) for key, value in content.items()}
    return [_copy(value) for value in content] if isinstance(content, list) else content
