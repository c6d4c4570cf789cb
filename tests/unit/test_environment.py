"""What `models.environment` sets for the process."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

import models.environment
from models.environment import INTEGRATIONS, OF_THE_USER, RANKS, quiet

# Page faults of the later of 20 steps, each of which makes eight maps of 8 MiB, writes them, and frees them all: before and after.
STEPS = """
import resource, numpy as np
def faults():
    for round in range(23):
        if round == 3:
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        [np.ones(2**20) for _ in range(8)]
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
left_alone = faults()
import models.environment
print(left_alone, faults())
"""
GLIBC = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's allocator can be told to keep memory")


@pytest.mark.long
@GLIBC
def test_a_step_has_the_memory_of_the_one_before():
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_", "TANDEM_"))}
    run = subprocess.run([sys.executable, "-c", STEPS], env=clean, capture_output=True, text=True, check=True)
    left_alone, kept = map(int, run.stdout.split()[-2:])
    assert left_alone >= 20_000 and kept <= 500


@GLIBC
@pytest.mark.parametrize(("given", "calls"), [({}, 2), ({"MALLOC_TRIM_THRESHOLD_": "131072"}, 0)])
def test_the_allocator_is_the_users_where_the_environment_says_so(monkeypatch, given, calls):
    for name in OF_THE_USER:
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    called = []
    monkeypatch.setattr(models.environment, "of_libc", lambda name: lambda *given: called.append((name, *given)))
    models.environment.keep_freed_memory()
    assert len(called) == calls and {name for name, *_ in called} <= {"mallopt"}


def test_trackers_are_off_also_in_a_process_that_inherits_the_settings_folder(monkeypatch):
    """In this one: what `quiet` does where another process of ours started it."""
    from ultralytics.utils import SETTINGS

    for name in (*INTEGRATIONS, "sync"):
        monkeypatch.setitem(SETTINGS, name, True)
    monkeypatch.setenv("ULTRALYTICS_API_KEY", "ul_" + "0" * 40)
    assert "TANDEM_SETTINGS" in os.environ and quiet() == Path(os.environ["TANDEM_SETTINGS"])
    assert not [name for name in (*INTEGRATIONS, "sync") if SETTINGS[name]]
    assert "ULTRALYTICS_API_KEY" not in os.environ


@pytest.mark.parametrize(("size", "left"), [("1", set()), ("2", {"RANK", "WORLD_SIZE"})])
def test_torchruns_single_process_is_a_plain_one(monkeypatch, size, left):
    for name in RANKS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", size)
    quiet()
    assert {name for name in RANKS if name in os.environ} == left


def test_the_users_list_of_fonts_is_copied_and_kept(monkeypatch, tmp_path):
    cache, folder = tmp_path / "cache/matplotlib", tmp_path / "settings"
    cache.mkdir(parents=True)
    (cache / "fontlist-v9.json").write_text("{}")
    (cache / "other").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache.parent))
    models.environment._copy_font_list(folder)
    assert [path.name for path in folder.iterdir()] == ["fontlist-v9.json"] and len(list(cache.iterdir())) == 2
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "none"))
    models.environment._copy_font_list(tmp_path / "empty")
    assert not list((tmp_path / "empty").iterdir())
