"""XML files as other tools write them, whatever encoding they declare, and elements without their namespace."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from xml.etree import ElementTree

DECLARATION = re.compile(r"[\s\ufeff]*<\?xml\b[^>]*\?>\s*")
DECLARED = re.compile(rb"\s*<\?xml[^>]*\bencoding\s*=\s*[\"']([\w.:-]+)[\"']")


def read_xml(path: Path, read: Callable[[Path], str]) -> ElementTree.Element:
    """Return the root element of an XML file; tags lose their namespace.

    Args:
        path: the file.
        read: returns its text where the declared encoding is unknown to the parser, or wrong; raises `ValueError`.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no XML.
    """
    reasons = []
    for content in _contents(path, read):
        try:
            root = ElementTree.fromstring(content)
            break
        except (ElementTree.ParseError, LookupError, ValueError) as error:
            reasons.append(error)
    else:
        raise ValueError(f"expected XML, got a file that is not ({reasons[0]})")
    for element in root.iter():
        element.tag = str(element.tag).rsplit("}", 1)[-1]
    return root


def _contents(path: Path, read: Callable[[Path], str]) -> Iterator[bytes | str]:
    """Give the file as it is, then without its declaration: in the encoding that it declares, then in its own.

    Chinese tools declare GBK, which the parser does not know; others declare UTF-16 and write UTF-8.
    """
    data = path.read_bytes()
    yield data
    if declared := DECLARED.match(data):
        with contextlib.suppress(LookupError, UnicodeDecodeError):
            yield DECLARATION.sub("", data.decode(declared[1].decode()), count=1)
    try:
        yield DECLARATION.sub("", read(path), count=1).lstrip()
    except ValueError:
        return
