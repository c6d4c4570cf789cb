"""The top level of an ONNX file, without the onnx package: its fields, and the metadata among them.

A protocol buffer is a row of fields, each a key (number and kind) and a value; of ONNX's `ModelProto` field 14 holds the metadata,
one message {1: key, 2: value} for each entry.
"""

from __future__ import annotations

from collections.abc import Iterator

METADATA = 14
TEXT = 2  # the kind of a value that says its length


def fields(data: memoryview) -> Iterator[tuple[int, memoryview, memoryview]]:
    """Yield (number, whole field, value) of each field of a message. Raises `ValueError` where it is none."""
    place = 0
    while place < len(data):
        start = place
        key, place = _varint(data, place)
        kind = key & 7
        if kind == TEXT:
            length, place = _varint(data, place)
        elif kind in (1, 5):
            length = 8 if kind == 1 else 4
        elif kind == 0:
            length = _varint(data, place)[1] - place
        else:
            raise ValueError(f"a field of kind {kind}")
        if place + length > len(data):
            raise ValueError("a field that ends behind the file")
        yield key >> 3, data[start : place + length], data[place : place + length]
        place += length


def entry(value: memoryview) -> tuple[str, str]:
    """Key and value of a metadata field."""
    parts = {number: bytes(text).decode("utf-8", "replace") for number, _, text in fields(value)}
    return parts.get(1, ""), parts.get(2, "")


def encode_entry(key: str, value: str) -> bytes:
    """A metadata field as in the file."""
    parts = b"".join(_text(number, text.encode()) for number, text in ((1, key), (2, value)))
    return _text(METADATA, parts)


def _text(number: int, content: bytes) -> bytes:
    return _encode(number << 3 | TEXT) + _encode(len(content)) + content


def _encode(value: int) -> bytes:
    """A whole number in groups of 7 bits, the lowest first."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _varint(data: memoryview, place: int) -> tuple[int, int]:
    value = shift = 0
    while place < len(data) and shift < 64:
        byte = data[place]
        value |= (byte & 0x7F) << shift
        place, shift = place + 1, shift + 7
        if byte < 0x80:
            return value, place
    raise ValueError("a number that does not end")
