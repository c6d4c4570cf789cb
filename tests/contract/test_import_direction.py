"""Imports point one way: cfg <- models, data <- distill <- engine <- command lines; few files know ultralytics."""

from __future__ import annotations

import ast
import subprocess
import sys
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


ids = [p.relative_to(ROOT).as_posix() for p in files()]


@pytest.mark.parametrize("path", files(), ids=ids)
def test_a_package_that_imports_what_is_built_on_it(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    allowed = MAY_IMPORT.get(package, set(MAY_IMPORT) | PYTHON.get(package.removesuffix(".py"), set()))
    assert not tops(path) & OURS - allowed


def test_a_cluster_is_sent_what_its_workers_may_import() -> None:
    assert set(SENT) == MAY_IMPORT["engine"]


@pytest.mark.parametrize("path", files(), ids=ids)
def test_ultralytics_is_known_to_few_files(path: Path) -> None:
    name = path.relative_to(ROOT).as_posix()
    if "ultralytics" in tops(path):
        assert name.startswith(KNOWS_ULTRALYTICS), "take it from models/blocks/host.py or move the code to engine/"


def test_every_place_that_may_know_ultralytics_does() -> None:
    knowing = [p.relative_to(ROOT).as_posix() for p in files() if "ultralytics" in tops(p)]
    assert all(any(name.startswith(place) for name in knowing) for place in KNOWS_ULTRALYTICS)


@pytest.mark.parametrize("path", sorted(p for name in ("data", "service") for p in (ROOT / name).rglob("*.py")),
                         ids=lambda p: p.relative_to(ROOT).as_posix())  # fmt: skip
def test_data_preparation_and_the_service_need_no_torch(path: Path) -> None:
    assert not tops(path) & HEAVY


def test_data_preparation_loads_no_torch() -> None:
    modules = [p.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".") for p in (ROOT / "data").rglob("*.py")]
    names = [m.removesuffix(".__init__") for m in modules if not m.endswith("__main__")]
    code = f"import importlib, sys; [importlib.import_module(n) for n in {names}]; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not HEAVY & set(done.stdout.split())


def test_deciding_needs_no_deep_learning_library_and_no_opencv() -> None:
    paths = sorted((ROOT / "inspection").rglob("*.py"))
    names = [p.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".").removesuffix(".__init__") for p in paths]
    code = f"import importlib, sys; [importlib.import_module(n) for n in {names}]; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not {*HEAVY, "cv2", "matplotlib"} & set(done.stdout.split())


def test_the_engine_knows_no_block_loss_or_method_by_name() -> None:
    parts = ("models.blocks.", "models.losses.", "distill.methods.")
    for path in (ROOT / "engine").rglob("*.py"):
        named = [n for n in imported(path) if n.startswith(parts)]
        assert not named, f"{path.name} imports {named}"


SLOW = ("torch", "torchvision", "ultralytics", "matplotlib", "pandas", "polars", "onnxruntime", "cv2", "numpy")


COMMANDS = [(script, argument, status) for script in SCRIPTS for argument, status in (("--help", 0), ("--bath=3", 2))]
COMMANDS += [("val", "--weights=none.pt --data=x", 2), ("detect", "--weights=none.pt --source=x", 2)]
COMMANDS += [("export", "--weights=none.pt", 2), ("serve", "--weights=none.onnx --port=0", 2)]


@pytest.mark.parametrize(("script", "arguments", "status"), COMMANDS)
def test_help_and_wrong_arguments_load_nothing_slow(script: str, arguments: str, status: int) -> None:
    code = f"import sys; sys.argv = {[script, *arguments.split()]}\nfrom cfg.errors import guard\nimport {script}\n"
    code += f"try:\n    status = guard({script}.main)\nexcept SystemExit as end:\n    status = end.code or 0\n"
    code += f"print(); print(status, *sorted(set(sys.modules) & {set(SLOW)}))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == str(status), f"{done.stdout[-300:]} {done.stderr[-300:]}"
    assert status == 0 or "error: " in done.stderr
