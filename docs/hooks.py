"""mkdocs hook: pages and files outside docs/ that the documentation links to (benchmarks, license ...) become part of the site."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File

ROOT = Path(__file__).resolve().parent.parent
OUTSIDE = re.compile(r"\]\(\.\./([^)#:]+)")


def on_files(files: Any, config: Any) -> Any:
    """Add every file outside docs/ that a page of docs/ links to, and all pages of benchmarks/, which link to one another."""
    linked = {target for page in (ROOT / "docs").glob("*.md") for target in OUTSIDE.findall(page.read_text(encoding="utf-8"))}
    linked |= {f"benchmarks/{page.name}" for page in (ROOT / "benchmarks").glob("*.md")}
    for target in sorted(linked):
        if (ROOT / target).is_file():
            files.append(File.generated(config, target, abs_src_path=str(ROOT / target)))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Links between docs/ and the rest of the repository, as they are on the site, whose root is docs/."""
    if page.file.src_uri == "CONTRIBUTING.md":
        return markdown.replace("](docs/", "](")
    return markdown if "/" in page.file.src_uri else OUTSIDE.sub(r"](\1", markdown)
