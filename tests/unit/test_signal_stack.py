"""The stack for signal handlers stays a thread's own: Ctrl-C must not meet one that a library has freed."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

import pytest
import torch

import models.environment  # noqa: F401  (before ultralytics)
from cfg.signal_stack import _Stack, signal_stack_kept
from tests.flow.tiny import save_tiny

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only there OpenVINO sets a stack for signal handlers")


def stack() -> tuple[int | None, int]:
    now = _Stack()
    assert ctypes.CDLL(None).sigaltstack(None, ctypes.byref(now)) == 0
    return now.address, now.flags


def test_what_is_set_within_is_taken_back() -> None:
    before, memory = stack(), ctypes.create_string_buffer(1 << 16)
    with signal_stack_kept():
        assert ctypes.CDLL(None).sigaltstack(ctypes.byref(_Stack(ctypes.addressof(memory), 0, len(memory))), None) == 0
        assert stack() != before
    assert stack() == before


@pytest.mark.long
def test_openvino_leaves_it(tmp_path: Path) -> None:
    from engine.backend import OpenVinoBackend, openvino_has_bfloat16
    from engine.export.export_check import ExportOptions
    from engine.export.exporter import export
    from service.exported import read_exported
    from service.network import open_network

    before = stack()
    options = ExportOptions(weights=str(save_tiny(tmp_path / "t.pt")), format="openvino", check=False, simplify=False)
    (file,), _ = export(options)
    openvino_has_bfloat16()
    kept = [OpenVinoBackend(file, torch.device("cpu")), open_network(read_exported(file), 1)]
    assert stack() == before
    del kept
    assert stack() == before
