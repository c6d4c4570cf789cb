"""Text files as other tools write them: UTF-8 with or without a byte-order mark, UTF-16 from Windows."""

from __future__ import annotations

import codecs
import re
from pathlib import Path

from cfg.errors import UserError

# UTF-32 first: its little-endian mark begins with that of UTF-16.
MARKS = ((codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"), (codecs.BOM_UTF8, "utf-8-sig"),
         (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
# What Western European names hold: a letter or sign, or two small letters in a row as in "Größe". Chinese, Japanese
# and Cyrillic encodings use longer runs or other bytes, and which of them it is cannot be told from the bytes alone.
WESTERN = re.compile(rb"[\xa0-\xff]|[\xdf-\xf6\xf8-\xff]{2}")


def read_text(path: str | Path) -> str:
    """Return the text of a file, see `decode`. Raises `UserError` when it cannot be read or is no text."""
    try:
        return decode(Path(path).read_bytes())[0]
    except OSError as error:
        raise UserError(f"{path}: expected a file that can be read, got {error.strerror or error}; "
                        "correct the path or the permissions") from None
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None


def read_lines(path: str | Path) -> list[str]:
    """Return the lines of a text file without blanks around them, or byte-order marks (files joined on Windows).

    Raises:
        UserError: it cannot be read or is no text.
    """
    return [line.strip().lstrip("\ufeff").strip() for line in read_text(path).splitlines()]


def decode(data: bytes) -> tuple[str, str]:
    """Return the text that bytes stand for and the name of their encoding.

    A byte-order mark decides; without one it is UTF-8, or Windows-1252 where nothing else is likely.

    Raises:
        ValueError: no text, or text of an encoding that cannot be told.
    """
    encoding = next((name for mark, name in MARKS if data.startswith(mark)), "utf-8")
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        if encoding != "utf-8" or not all(map(WESTERN.fullmatch, re.findall(rb"[\x80-\xff]+", data))):
            got = data[error.start:error.start + 4].hex(" ")
            raise ValueError(f"expected UTF-8 text, got the bytes {got} at {error.start}; "
                             "save the file as UTF-8") from None
        text, encoding = data.decode("cp1252"), "cp1252"
    if "\0" in text:
        raise ValueError("expected UTF-8 text, got zero bytes (a binary file, or UTF-16 without a byte-order mark); "
                         "save the file as UTF-8")
    return text, encoding
