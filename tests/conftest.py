"""Settings shared by all tests: import from the repository root, one thread, nothing from the network."""

import gc
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from getpass import getuser
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Matplotlib's list of fonts, made once for all processes and runs of tests: each would take a second to make its own.
os.environ.setdefault("MPLCONFIGDIR", str(Path(tempfile.gettempdir()) / f"tandem-tests-{getuser()}"))
sys.path.insert(0, str(ROOT))

# In the background of a shell, processes ignore Ctrl-C and so do those that they start; some tests send it to theirs.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

SHARED = ROOT.parent / "shared"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests of real data, with the reason, where it is not there."""
    if (SHARED / "data").is_dir():
        return
    absent = pytest.mark.skip(reason="needs the research data in ../shared/data, which is not part of the project")
    for item in items:
        if "real" in item.keywords:
            item.add_marker(absent)


@pytest.fixture(autouse=True)
def threads_are_left() -> Iterator[None]:
    """A test that leaves torch more threads than it found slows down all that follow, where processes share the cores."""
    torch = sys.modules.get("torch")
    before = torch and torch.get_num_threads()
    yield
    assert not before or torch.get_num_threads() == before, "the test left another number of threads"


def pytest_collection_finish() -> None:
    """Leave what is imported out of garbage collections: ultralytics asks for several in each training and validation."""
    gc.collect()
    gc.freeze()
