"""Imports point one way: cfg <- models, data <- distill <- engine <- command lines; few files know ultralytics."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from engine.shards.cluster import SENT

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ("train", "val", "detect", "export", "serve")
PYTHON = {"tandem": set(SCRIPTS), "hubconf": {"tandem"}}  # of the scripts' side: what each may import beside the packages
MAY_IMPORT = {
    "cfg": {"cfg"},
    "inspection": {"inspection", "cfg"},
    "data": {"data", "inspection", "cfg"},
    "service": {"service", "data", "inspection", "cfg"},
    "models": {"models", "cfg"},
    "distill": {"distill", "models", "data", "cfg"},
    "engine": {"engine", "distill", "models", "data", "inspection", "cfg"},
}
OURS = {*MAY_IMPORT, *SCRIPTS, *PYTHON}
# Where ultralytics' classes are used or extended. Anything else of ours takes them from these files.
KNOWS_ULTRALYTICS = ("models/environment.py", "models/blocks/host.py", "models/losses/host.py", "models/detector.py",
                     "models/heads/", "engine/")  # fmt: skip
HEAVY = {"torch", "torchvision", "ultralytics", "timm", "models", "distill", "engine"}


def files() -> list[Path]:
    inside = [p for package in MAY_IMPORT for p in (ROOT / package).rglob("*.py")]
    return sorted([*inside, *(ROOT / f"{name}.py" for name in (*SCRIPTS, *PYTHON))])


@cache
def imported(path: Path) -> set[str]:
    """Dotted names a file imports, anywhere in it."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import; write the package's name"
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def tops(path: Path) -> set[str]:
    return {name.partition(".")[0] for name in imported(path)}


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def test_a_package_that_imports_what_is_built_on_it() -> None:
    wrong = {}
    for path in files():
        package = path.relative_to(ROOT).parts[0]
        allowed = MAY_IMPORT.get(package, set(MAY_IMPORT) | PYTHON.get(package.removesuffix(".py"), set()))
        wrong[name_of(path)] = tops(path) & OURS - allowed
    assert len(wrong) > 300
    assert not {name: found for name, found in wrong.items() if found}


def test_a_cluster_is_sent_what_its_workers_may_import() -> None:
    assert set(SENT) == MAY_IMPORT["engine"]


def test_ultralytics_is_known_to_few_files_and_to_each_of_them() -> None:
    knowing = [name_of(p) for p in files() if "ultralytics" in tops(p)]
    others = [name for name in knowing if not name.startswith(KNOWS_ULTRALYTICS)]
    assert not others, "take it from models/blocks/host.py or move the code to engine/"
    assert all(any(name.startswith(place) for name in knowing) for place in KNOWS_ULTRALYTICS)


@pytest.mark.parametrize("package", ["data", "service"])
def test_data_preparation_and_the_service_need_no_torch(package: str) -> None:
    heavy = {name_of(p): tops(p) & HEAVY for p in (ROOT / package).rglob("*.py")}
    assert heavy and not {name: found for name, found in heavy.items() if found}


@pytest.mark.long
def test_deciding_and_data_preparation_load_no_deep_learning_library_and_the_first_no_opencv() -> None:
    """In a new process: first `inspection`, then `data`, which is built on it."""
    code = "import importlib, json, sys\nfor names in json.loads(sys.argv[1]):\n"
    code += "    [importlib.import_module(name) for name in names]\n    print(*sys.modules)"
    packages = []
    for package in ("inspection", "data"):
        paths = [name_of(p.with_suffix("")) for p in sorted((ROOT / package).rglob("*.py")) if p.name != "__main__.py"]
        packages.append([path.replace("/", ".").removesuffix(".__init__") for path in paths])
    done = subprocess.run([sys.executable, "-c", code, json.dumps(packages)], cwd=ROOT, capture_output=True, text=True, check=True)
    deciding, preparing = (set(line.split()) for line in done.stdout.splitlines())
    assert packages[0][-1] in deciding and packages[1][-1] in preparing
    assert not {*HEAVY, "cv2", "matplotlib"} & deciding and not HEAVY & preparing


def test_the_engine_knows_no_block_loss_or_method_by_name() -> None:
    parts = ("models.blocks.", "models.losses.", "distill.methods.")
    for path in (ROOT / "engine").rglob("*.py"):
        named = [n for n in imported(path) if n.startswith(parts)]
        assert not named, f"{path.name} imports {named}"


SLOW = ("torch", "torchvision", "ultralytics", "matplotlib", "pandas", "polars", "onnxruntime", "cv2", "numpy")


COMMANDS = [(script, argument, status) for script in SCRIPTS for argument, status in (("--help", 0), ("--bath=3", 2))]
COMMANDS += [("val", "--weights=none.pt --data=x", 2), ("detect", "--weights=none.pt --source=x", 2)]
COMMANDS += [("export", "--weights=none.pt", 2), ("serve", "--weights=none.onnx --port=0", 2)]


# Runs one command after another in a process that has imported nothing; what the first load would be there for the others too.
RUN = """
import contextlib, importlib, io, json, sys
from cfg.errors import guard
for script, arguments in json.loads(sys.argv[1]):
    sys.argv = [script, *arguments.split()]
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        try:
            status = guard(importlib.import_module(script).main)
        except SystemExit as end:
            status = end.code or 0
    print(json.dumps([status, said.getvalue(), *sys.modules]))
"""


def test_help_and_wrong_arguments_load_nothing_slow() -> None:
    given = json.dumps([[script, arguments] for script, arguments, _ in COMMANDS])
    done = subprocess.run([sys.executable, "-c", RUN, given], cwd=ROOT, capture_output=True, text=True, check=True)
    for (script, arguments, expected), line in zip(COMMANDS, done.stdout.splitlines(), strict=True):
        status, said, *loaded = json.loads(line)
        assert (status, set(loaded) & set(SLOW)) == (expected, set()), f"{script} {arguments}: {said[-300:]}"
        assert status == 0 or "error: " in said
