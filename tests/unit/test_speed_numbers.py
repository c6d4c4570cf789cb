"""The speed benchmark's order of turns, ratios, slopes, clock and memory, by hand-worked numbers."""

from __future__ import annotations

import math
import mmap
import time

import pytest
import torch

from benchmarks.timing import cells, memory, tables
from benchmarks.timing.cells import Cell, grid, why_not
from benchmarks.timing.clock import Clock
from benchmarks.timing.inference import threshold
from benchmarks.timing.inference_run import row_of
from benchmarks.timing.numbers import bends, ratios, slopes, summary
from benchmarks.timing.prepare import form_of
from benchmarks.timing.rounds import Samples, groups, take_turns
from benchmarks.timing.scaling_run import Point, points
from benchmarks.timing.worker import WorkerFailed


def test_turns_are_interleaved_and_a_failure_ends_one_key_only():
    asked, ticks = [], []

    def ask(key):
        asked.append(key)
        if asked.count("B") == 2 and key == "B":
            raise WorkerFailed("crashed")
        return {"ms": len(asked)}

    samples = Samples()
    take_turns("ABC", 3, ask, samples, first=10, tick=lambda: ticks.append(1))
    assert "".join(asked) == "ABCABCAC" and len(ticks) == 9
    assert samples.errors == {"B": "crashed"}
    assert samples.column("A", "ms") == {10: 1, 11: 4, 12: 7} and samples.column("B", "ms") == {10: 2}


def test_what_was_measured_before_ctrl_c_counts():
    asked, samples = [], Samples()

    def ask(key):
        asked.append(key)
        if len(asked) == 5:
            raise KeyboardInterrupt
        return {"ms": len(asked)}

    with samples.until_interrupted("ABC", 2):
        take_turns("ABC", 2, ask, samples)
    assert samples.interrupted and samples.column("A", "ms") == {0: 1, 1: 4}
    assert samples.errors == {key: "interrupted after 1 of 2 rounds" for key in "BC"}


def test_ctrl_c_before_anything_was_measured_is_not_a_result():
    samples = Samples()
    with pytest.raises(KeyboardInterrupt), samples.until_interrupted("A", 2):
        raise KeyboardInterrupt
    assert not samples.errors and not samples.interrupted


def test_the_ratio_is_of_neighbours_in_time():
    quiet_then_noisy = {0: 10.0, 1: 10.0, 2: 90.0}
    other = {0: 20.0, 1: 20.0, 2: 180.0, 3: 1.0}
    assert ratios(other, quiet_then_noisy) == [2, 2, 2]
    other = {0: 20.0, 2: 180.0}  # not measured in the quiet middle: the ratio of the medians is 10
    assert summary(ratios(other, quiet_then_noisy)).median == 2


def test_summary():
    found = summary([5, 1, 2, 4, 3])
    assert (found.median, found.low, found.high, found.count) == (3, 2, 4, 5)
    assert summary([]) is None


def test_slopes_and_where_they_bend():
    sizes = [1, 2, 4, 8]
    assert slopes(sizes, [s**2 for s in sizes]) == pytest.approx([2, 2, 2])
    assert slopes(sizes, [7, 7, 7, 14]) == pytest.approx([0, 0, 1])
    assert bends(sizes, [1, 2, 4, 8]) is None
    assert bends(sizes, [1, 2, 4, 16]) == 4
    assert bends(sizes, [1, 4, 16, 64]) == 1


def test_groups_have_the_reference_first():
    assert list(groups("abcde", "c", 3)) == [["c", "a", "b"], ["c", "d", "e"]]
    assert list(groups("ab", "a", 1)) == [["a", "b"]]  # the reference alone would compare nothing
    assert list(groups("a", "a", 4)) == [["a"]]


def test_models_of_a_runtime_follow_one_another():
    found = grid(["a", "b"], ["torch", "onnx"], ["fp32"], [1, 8])
    assert found[:3] == [Cell("a", "torch", "fp32", 1), Cell("b", "torch", "fp32", 1), Cell("a", "onnx", "fp32", 1)]
    assert len(found) == 8 and found[-1] == Cell("b", "onnx", "fp32", 8)


def test_missing_runtimes_say_what_helps(monkeypatch):
    monkeypatch.setattr(cells.importlib.util, "find_spec", lambda name: None)
    assert why_not("openvino", "fp32", "cpu", None) == "needs the package openvino: pip install openvino"
    assert "--device 0" in why_not("tensorrt", "fp32", "cpu", None)
    assert why_not("torch", "fp32", "cpu", None) is None
    monkeypatch.setattr(cells.importlib.util, "find_spec", lambda name: object())
    assert why_not("onnx", "fp32", "cpu", None) is None
    assert "--data" in why_not("onnx", "int8", "cpu", None) and why_not("onnx", "int8", "cpu", "neu.yaml") is None
    assert "openvino" in why_not("onnx", "bf16", "cpu", None)
    monkeypatch.setattr("engine.precision.has_fast_bfloat16", lambda: False)
    assert all("no bfloat16" in why_not(name, "bf16", "cpu", None) for name in ("torch", "openvino"))
    monkeypatch.setattr("engine.precision.has_fast_bfloat16", lambda: True)
    assert why_not("openvino", "bf16", "cpu", None) is None


def test_files_behind_cells():
    assert form_of("compile", "bf16", 8) == form_of("torch", "fp32", 1)  # one file for all that PyTorch does
    assert form_of("openvino", "bf16", 2) == form_of("openvino", "fp32", 2)
    assert len({form_of("onnx", "fp32", 1), form_of("onnx", "int8", 1), form_of("onnx", "fp32", 2)}) == 3


def test_rows_divide_by_reference_and_by_full_precision():
    reference, cell = Cell("a", "onnx", "int8", 4), Cell("b", "onnx", "int8", 4)
    samples = Samples()
    parts = {"preprocess_ms": 1.0, "postprocess_ms": 1.0, "rss_mb": 100.0}
    for key, factor in ((reference, 1), (cell, 3), (cell.in_full(), 6)):
        samples.values[key] = {n: parts | {"forward_ms": factor * ms} for n, ms in enumerate((10.0, 50.0, 12.0))}
    row = row_of(cell, "a", samples, None, {"file_mb": 1.0})
    assert row["to_reference"]["median"] == 3 and row["to_fp32"]["median"] == 0.5
    assert tables.faster(row["to_fp32"]) == "2.00" and row["images_per_s"] == pytest.approx(4000 / 36)
    assert row_of(reference, "a", samples, None, None)["to_reference"] is None


def test_the_threshold_lets_as_many_boxes_through():
    scores = torch.linspace(0.001, 0.9, 500)[torch.randperm(500, generator=torch.Generator().manual_seed(0))]
    anchors = torch.cat([torch.rand(2, 4, 250), torch.stack([scores.view(2, 250), scores.view(2, 250) / 2], 1)], 1)
    assert int((anchors[:, 4:].amax(1) > threshold(anchors, 40)).sum()) == 40
    ready = torch.rand(1, 300, 6)
    assert int((ready[..., 4] > threshold(ready, 100)).sum()) == 100
    assert threshold(ready, 1000) == 0.0


def test_a_part_does_not_count_those_inside_it():
    clock = Clock(torch.device("cpu"))
    with clock.part("off"):
        time.sleep(0.001)
    assert clock.parts == {}
    clock.restart()
    started = time.perf_counter()
    with clock.part("outer"):
        time.sleep(0.02)
        with clock.part("inner"):
            time.sleep(0.06)
    total = 1e3 * (time.perf_counter() - started)
    assert clock.parts["inner"] >= 60 and 20 <= clock.parts["outer"] < total - 59
    assert sum(clock.parts.values()) == pytest.approx(total, abs=5)

    class Thing:
        def double(self, x):
            return 2 * x

    thing = Thing()
    clock.restart()
    clock.watch(thing, "double", "doubling")
    assert thing.double(4) == 8 and set(clock.parts) == {"doubling"}


def touched(mebibytes: int) -> mmap.mmap:
    """Memory of the system's own, every page in use: what `malloc` hands out may be memory it never gave back."""
    pages = mmap.mmap(-1, mebibytes * 2**20)
    for start in range(0, len(pages), mmap.PAGESIZE):
        pages[start] = 1
    return pages


@pytest.mark.long
def test_peak_memory_is_of_the_time_since_start():
    device = torch.device("cpu")
    touched(240).close()
    memory.start(device)
    before = memory.peak(device)["rss_mb"]
    kept = touched(120)
    grown = memory.peak(device)["rss_mb"] - before
    assert 100 < grown < 180, (grown, len(kept))


def test_peak_memory_leaves_out_what_was_given_back():
    device = torch.device("cpu")
    before = memory.peak(device)["rss_mb"]
    parts = [torch.ones(4096) for _ in range(12000)]  # 16 KiB each, 190 MiB: the heap keeps them when they are free
    last = parts[-1]
    del parts
    memory.start(device)
    assert memory.peak(device)["rss_mb"] - before < 80, last.sum()


def test_points_share_what_they_have_in_common():
    base = Point("s", "inference", 640, 2, 10, 6)
    found = points([base], {"imgsz": (320, 640), "classes": (6, 80)})
    assert sorted((p.imgsz, p.classes) for p in found) == [(320, 6), (640, 6), (640, 80)]
    assert {p.worker for p in found} == {("s", "inference", 6), ("s", "inference", 80)}


def test_tables_mark_steep_slopes_and_group_reasons():
    row = {"model": "s", "kind": "inference", "axis": "imgsz", "values": [320, 640], "sizes": [320**2, 640**2],
           "sides": [320, 640], "ms": {"total": [10.0, 80.0]}, "rss_mb": [100.0, 200.0], "cuda_mb": [None, None],
           "reasons": {"1536": "out of memory"}, "slopes": {"total": [math.log(8) / math.log(4)]},
           "bends": {"total": 320**2}}  # fmt: skip
    text = "\n".join(tables.scaling({"rows": [row]}))
    assert "80.0 (1.50 ^)" in text and "total from 320 px on" in text and "* imgsz 1536: out of memory" in text
    row["ms"] |= {"forward": [9.0, 70.0], "nms": [0.1, 3.0]}  # nms is below a twentieth of the total
    row["slopes"] |= {"forward": [1.48], "nms": [2.45]}
    row["bends"] |= {"forward": 320**2, "nms": 320**2}
    text = "\n".join(tables.scaling({"rows": [row]}))
    assert "Faster than linear: total from 320 px on, forward from 320 px on." in text and "3.0 (2.45 ^)" in text
    rows = [{"name": n, "reason": "gone" if n != "c" else None} for n in "abc"]
    assert tables.missing(rows, lambda r: r["name"])[-1] == "* a; b: gone"
