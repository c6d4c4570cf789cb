"""The program's own source as an archive: AGPL section 13 gives it to everyone who uses the service over a network."""

from __future__ import annotations

import io
import tarfile
from functools import cache
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = ("cfg", "data", "inspection", "engine", "service", "deploy")
FILES = ("serve.py", "requirements-serve.txt", "README.md", "LICENSE")
CODE = (".py", ".html", ".js", ".css", ".service")


@cache
def source_archive() -> bytes:
    """A .tar.gz with the files that make up the service as it runs here; nothing else of this machine is in it."""
    chosen = [ROOT / name for name in FILES]
    for package in PACKAGES:
        chosen += [path for path in sorted((ROOT / package).rglob("*")) if path.suffix in CODE or path.name == "Dockerfile"]
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for path in chosen:
            if path.is_file() and not path.is_symlink():
                archive.add(path, f"tandem/{path.relative_to(ROOT)}", filter=_nameless)
    return buffer.getvalue()


def _nameless(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    """An entry without the names of this machine's users."""
    entry.uname = entry.gname = ""
    entry.uid = entry.gid = 0
    return entry
