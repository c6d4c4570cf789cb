"""Documentation that drifted: every command in the documents names scripts, options and files that exist."""

from __future__ import annotations

import io
import itertools
import re
import runpy
import shlex
import sys
from contextlib import redirect_stdout
from functools import cache
from pathlib import Path

import pytest

from cfg import find
from cfg.version import VERSION
from distill.build import parse_methods
from engine.detectors import stock_yaml
from engine.settings import known_names, read_command_line

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "weights/README.md",
             *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "benchmarks").glob("*.md"))]  # fmt: skip
KINDS = {"--cfg": "models", "--data": "data", "--recipe": "train", "--distill": "distill",
         "--ablation": "ablations"}  # fmt: skip


def documented() -> list[str]:
    """Commands of the documents' bash blocks that call a script, a module or make, comments removed."""
    lines = []
    for document in DOCUMENTS:
        for block in re.findall(r"```bash\n(.*?)```", document.read_text(encoding="utf-8"), re.S):
            lines += [line.split(" #")[0].strip() for line in re.sub(r"\\\n\s*", "", block).splitlines()]
    return sorted({line for line in lines if re.match(r"(make|(\S*/)?python) (?!- )", line)})


def known(option: str, name: str) -> bool:
    """Whether a name is in `cfg/`, or a model of ultralytics."""
    if option == "--cfg" and (stock := stock_yaml(name)):
        return stock.is_file()
    return find(KINDS[option], name).is_file()


@cache
def help_of(*script: str) -> str:
    """What a script or module says of itself; in this process, which has imported already what they import."""
    told, (*flag, name) = io.StringIO(), script
    with redirect_stdout(told), pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as end:
        patch.chdir(ROOT)
        patch.setattr(sys, "argv", [name, "--help"])
        runpy.run_module(name, run_name="__main__") if flag else runpy.run_path(name, run_name="__main__")
    assert not end.value.code
    return told.getvalue()


@pytest.mark.parametrize("command", documented())
def test_documented_command_exists(command: str) -> None:
    program, *words = shlex.split(command)
    if program == "make":
        assert re.search(rf"^{words[0]}:", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M), f"no target {words[0]}"
        return
    script = ("-m", words[1]) if words[0] == "-m" else (words[0],)
    options = words[len(script) :]
    if script == ("train.py",):
        read_command_line(options, known_names())
    elif script != ("-m", "pytest"):
        given = {option.split("=")[0] for option in options if option.startswith("--")}
        unknown = {o for o in given if not re.search(rf"(?<![\w-]){o}(?![\w-])", help_of(*script))}
        if script == ("benchmarks/kd.py",):  # it hands the rest on to train.py
            unknown = {o for o in unknown if o[2:].replace("-", "_") not in known_names()}
        assert not unknown, f"{script} has no {unknown}"
    for option, value in itertools.pairwise(options):
        if option in KINDS and not value.startswith(("datasets/", "runs/")):
            assert all(known(option, name) for name in (parse_methods(value) if option == "--distill" else [value]))


@pytest.mark.long
def test_documented_numbers_of_the_models_are_true() -> None:
    from models.detector import Detector

    text = (ROOT / "docs/models.md").read_text(encoding="utf-8")
    for name, millions in (("t-model.yaml", "20.99 M"), ("s-model.yaml", "6.03 M"), ("s-model-fast.yaml", "2.41 M")):
        row = next(line for line in text.splitlines() if line.startswith(f"| `{name}`"))
        assert millions in row
        assert f"{sum(p.numel() for p in Detector(name).parameters()) / 1e6:.2f} M" == millions


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(document: Path) -> None:
    text = re.sub(r"```.*?```", "", document.read_text(encoding="utf-8"), flags=re.S)
    for target, anchor in re.findall(r"\]\(([^)#:]*)(?:#([^)]*))?\)", text):
        found = document.parent / target if target else document
        assert found.exists(), f"{document.name}: {target}"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", found.read_text(encoding="utf-8"), re.M)
            assert anchor in {re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-") for heading in headings}, anchor


def test_the_readme_fits_on_a_screen_and_a_half() -> None:
    assert (ROOT / "README.md").stat().st_size <= 6 * 1024


def test_one_version_number() -> None:
    assert f"\nversion: {VERSION}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")
