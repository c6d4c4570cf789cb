"""Quiet surroundings for the host libraries, set before ultralytics is first imported.

ultralytics, matplotlib and torch look up hosts, download fonts, install packages and write to the home folder when they
are imported or run. Tandem does none of that: settings go to a temporary folder that exists as long as the process (and
is shared with the processes it starts), and every switch that could reach the network or a package index is off.
"""

from __future__ import annotations

import atexit
import ctypes
import importlib.util
import logging
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from PIL import Image

from cfg.cpus import available_cpus
from cfg.telemetry import silence_openvino

SWITCHES = {
    "YOLO_OFFLINE": "true",  # no look-ups at import, no telemetry, no update check
    "YOLO_AUTOINSTALL": "false",  # a checkpoint that names an unknown module must never install it
    "YOLO_VERBOSE": "true",
    "ORT_DISABLE_TELEMETRY": "1",  # ONNX Runtime, keeps an identifier in the user's home and reports its use
    "OMP_WAIT_POLICY": "PASSIVE",  # spinning threads make a second process on the same cores 10 times slower
}
INTEGRATIONS = ("clearml", "comet", "dvc", "mlflow", "raytune", "tensorboard", "wandb")  # TensorBoard: ours
# Parameters of glibc's `mallopt`, and what they are set to: freed memory is not given back to the system (-1 switches that
# off), and pieces of up to 32 MiB, the most it takes, come from what was freed.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = (-1, -1), (-3, 32 * 2**20)
OF_THE_USER = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")
RANKS = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE")  # what torchrun says to each of its processes


def quiet() -> Path:
    """Set the environment switches once per process; return the folder that holds the libraries' settings."""
    for name, value in SWITCHES.items():
        os.environ.setdefault(name, value)
    silence_openvino()
    os.environ.pop("ULTRALYTICS_API_KEY", None)  # with it, ultralytics sends every run to its own servers
    if os.environ.get("WORLD_SIZE", "1") == "1":  # torchrun with one process: ultralytics would look for others
        for name in RANKS:
            os.environ.pop(name, None)
    # Left alone, ultralytics sets this to 1 and a CPU run uses one core whatever else is set.
    os.environ.setdefault("OMP_NUM_THREADS", str(available_cpus()))
    keep_freed_memory()
    inherited = os.environ.get("TANDEM_SETTINGS")
    if inherited and Path(inherited).is_dir():
        _import_host()
        return Path(inherited)
    if "ultralytics" in sys.modules:
        raise RuntimeError("import Tandem's packages before ultralytics, or its settings and look-ups cannot be kept away")
    folder = Path(tempfile.mkdtemp(prefix="tandem-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    os.environ["TANDEM_SETTINGS"] = str(folder)
    os.environ.setdefault("YOLO_CONFIG_DIR", str(folder))
    os.environ.setdefault("MPLCONFIGDIR", str(folder / "matplotlib"))
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(folder / "inductor"))
    _place_fonts(folder / "Ultralytics")
    _copy_font_list(folder / "matplotlib")
    _import_host()
    return folder


def _import_host() -> None:
    """Import ultralytics without its notice that it made a settings file: the file is temporary.

    Its trackers of runs, which it attaches to any trainer where their package is installed, are switched off in memory.
    Its own `PIL.Image.open`, which needs a package for HEIF for every file that is no image, stays only if that is installed.
    """
    pillow_open = Image.open
    logging.disable(logging.INFO)
    try:
        from ultralytics.utils import SETTINGS
    finally:
        logging.disable(logging.NOTSET)
    if importlib.util.find_spec("pi_heif") is None:
        Image.open = pillow_open
    off = dict.fromkeys((*INTEGRATIONS, "sync"), False) | {"api_key": ""}
    dict.update(SETTINGS, off)  # its own `update` would write the file


def keep_freed_memory() -> None:
    """Have glibc keep what is freed for the next step; of no effect without glibc, or where the environment says otherwise.

    Left alone, it gives the memory of a step's feature maps back, and the next step allocates it again, page by page. Kept,
    a CPU trains up to 8 % faster at the same peak (benchmarks/speed.md).
    """
    mallopt = of_libc("mallopt")
    if mallopt and not any(name in os.environ for name in OF_THE_USER):
        for parameter in (M_TRIM_THRESHOLD, M_MMAP_THRESHOLD):
            mallopt(*parameter)


def of_libc(name: str) -> Callable[..., int] | None:
    """A function of Linux's C library by its name; None on other systems and where theirs has none of that name."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None


def _copy_font_list(folder: Path) -> None:
    """Copy matplotlib's list of the fonts, if the user's cache has one: else each process makes its own, which takes a second or more."""
    try:
        cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        lists = list((cache / "matplotlib").glob("fontlist-*.json"))
        folder.mkdir(exist_ok=True)
        for path in lists:
            shutil.copyfile(path, folder / path.name)
    except (OSError, RuntimeError):  # no home, or not readable: matplotlib makes the list
        return


def _place_fonts(folder: Path) -> None:
    """Put matplotlib's own font where ultralytics looks for Arial, so that it downloads none."""
    folder.mkdir(parents=True, exist_ok=True)
    spec = importlib.util.find_spec("matplotlib")
    font = Path(spec.origin).parent / "mpl-data/fonts/ttf/DejaVuSans.ttf" if spec and spec.origin else None
    if font and font.is_file():
        for name in ("Arial.ttf", "Arial.Unicode.ttf"):
            shutil.copyfile(font, folder / name)


quiet()
