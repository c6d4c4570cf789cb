"""What the shell offers at TAB, asked as argcomplete's shell function asks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from engine.completion import complete_at_tab, parser_of

ROOT = Path(__file__).resolve().parents[2]


def offered(line: str, tmp_path: Path) -> tuple[int, set[str]]:
    """Exit status, and what is offered at the end of a command line."""
    answer = tmp_path / "answer"
    asked = {"_ARGCOMPLETE": "1", "COMP_LINE": line, "COMP_POINT": str(len(line)), "_ARGCOMPLETE_IFS": "\n"}
    asked["_ARGCOMPLETE_STDOUT_FILENAME"] = str(answer)
    script = line.split()[0]
    done = subprocess.run([sys.executable, ROOT / script], cwd=ROOT, env=os.environ | asked, capture_output=True, text=True, check=False)
    told = answer.read_text().split("\n") if answer.exists() else []
    return done.returncode, {word.strip() for word in told}


@pytest.mark.parametrize(
    ("line", "some", "none"),
    [
        ("detect.py --save-", {"--save-json", "--save-csv"}, {"--weights"}),
        ("detect.py --heatmap ", {"layercam", "attention"}, {"--weights"}),
        ("val.py --data neu", {"neu-det.yaml"}, {"sample.yaml"}),
        ("export.py --c", {"--conf", "--check-images"}, {"--weights"}),
        ("serve.py --m", {"--mqtt", "--modbus", "--max-bytes"}, {"--weights"}),
        ("train.py --kd", {"--kd-share", "--kd-until"}, {"--teacher"}),
        ("train.py --recipe ", {"quick.yaml", "paper.yaml", "README.md"}, set()),
        ("train.py --distill c", {"cwd.yaml"}, {"mgd.yaml"}),
    ],
)
def test_offers(tmp_path: Path, line: str, some: set[str], none: set[str]) -> None:
    pytest.importorskip("argcomplete", reason="needs the package argcomplete (requirements-dev.txt)")
    status, words = offered(line, tmp_path)
    assert status == 0 and some <= words and not none & words


def test_nothing_runs_where_the_package_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_ARGCOMPLETE", "1")
    monkeypatch.setitem(sys.modules, "argcomplete", None)
    with pytest.raises(SystemExit) as end:
        complete_at_tab(parser_of({"cfg"}))
    assert end.value.code == 1


@pytest.mark.parametrize("script", ["train", "val", "detect", "export", "serve"])
def test_the_shell_finds_the_mark(script: str) -> None:
    assert "PYTHON_ARGCOMPLETE_OK" in (ROOT / f"{script}.py").read_text(encoding="utf-8")[:1024]
