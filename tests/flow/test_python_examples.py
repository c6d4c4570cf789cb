"""The examples of docs/python.md run, with models of a test's size, and the notebook as it is."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

import tandem  # noqa: F401  (the page imports it; here already, so that no example waits for it)
from tests.flow.tiny import NAMES, save_tiny, write_data, write_image, write_model

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOK = ROOT / "examples/quickstart.ipynb"
EXAMPLES = re.findall(r"```python\n(.*?)```", (ROOT / "docs/python.md").read_text(encoding="utf-8"), re.S)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the page takes for granted: best.pt, a folder of images, a data set of one's own, half of it without defects."""
    place = tmp_path_factory.mktemp("page")
    save_tiny(place / "best.pt")
    for seed, name in enumerate(("a.png", "b.png")):
        write_image(place / "images" / name, seed)
    write_model(place / "teacher.yaml", width=56)
    write_model(place / "student.yaml", width=48)  # ONNX files below 0.1 MB count as damaged
    write_data(place / "mine", classes=tuple(NAMES.values()))
    for name in ("0", "1"):
        (place / f"mine/labels/val/{name}.txt").write_text("")
    return place


@pytest.mark.parametrize("example", EXAMPLES, ids=[re.findall(r"\.(\w+)\(", text)[-1] + str(i) for i, text in enumerate(EXAMPLES)])
def test_page(example: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    exec(compile(of_a_tests_size(example, folder), "docs/python.md", "exec"), {})


def of_a_tests_size(code: str, folder: Path) -> str:
    """Code that names the folder of this checkout and small models for the demo's, which `test_notebook_in_a_kernel` trains."""
    for word, here in (("TANDEM", ROOT), ("t-demo.yaml", folder / "teacher.yaml"), ("s-demo.yaml", folder / "student.yaml")):
        code = code.replace(f'"{word}"', repr(str(here)))
    return code


def test_notebook(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its cells, one after another; in this process, which has imported what they import."""
    monkeypatch.chdir(NOTEBOOK.parent)
    monkeypatch.syspath_prepend(str(ROOT))
    monkeypatch.setenv("TANDEM_QUICKSTART", str(tmp_path))
    names: dict[str, Any] = {}
    for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            exec(compile(of_a_tests_size("".join(cell["source"]), folder), cell["id"], "exec"), names)
    assert len(names["results"]) == 4 and (tmp_path / "export/best.onnx").is_file()


@pytest.mark.slow
def test_notebook_in_a_kernel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbformat = pytest.importorskip("nbformat", reason="needs the package nbclient (requirements-dev.txt)")
    nbclient = pytest.importorskip("nbclient", reason="needs the package nbclient (requirements-dev.txt)")
    pytest.importorskip("ipykernel", reason="needs the package ipykernel (requirements-dev.txt)")
    monkeypatch.setenv("TANDEM_QUICKSTART", str(tmp_path))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    done = nbclient.NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(NOTEBOOK.parent)}}).execute()
    assert ".jpg" in str(done.cells[-1].outputs) and (tmp_path / "export/best.onnx").is_file()
