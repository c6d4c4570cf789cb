"""What an INT8 export loses and gains: beside float32, and beside bfloat16 where the processor has it."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from engine.backend import openvino_has_bfloat16
from engine.export.export_check import warnings_only
from engine.validation.evaluate import evaluate
from engine.weights import open_backend

METRICS = ("mAP50", "mAP50-95")
TIMED, WARM_UP, TIME_BUDGET_S = 30, 3, 20.0
FLOAT32, BFLOAT16, INT8, INT8_BFLOAT16 = "float32", "bfloat16", "INT8", "INT8+bf16"


@dataclass(frozen=True)
class Measured:
    """An export in every arithmetic it was run in, by column: a float32 file in `FLOAT32` and `BFLOAT16`, the file in INT8.

    Attributes:
        scores: mAP50 and mAP50-95 of each column, from 0 to 1. `INT8_BFLOAT16` has the layers that are not INT8 in bfloat16.
        images: validation images they were measured on.
        megabytes: of the files, 10^6 bytes.
        milliseconds: median time of one input in this runtime on this machine, without NMS.
    """

    scores: dict[str, dict[str, float]]
    images: int
    megabytes: dict[str, float]
    milliseconds: dict[str, float]

    @property
    def loss(self) -> float:
        """Points of mAP50-95 (0 to 100) that INT8 loses of float32's; below 0 when it gains."""
        scores = self.scores["mAP50-95"]
        return 100 * (scores[FLOAT32] - scores[INT8])

    def text(self) -> str:
        """Return what export.py prints of it: a table, INT8 against float32 at its right, and advice."""
        columns = list(self.milliseconds)
        lines = [f"  {'':16}" + "".join(f"{name:>11}" for name in columns)]
        for name, by in self.scores.items():
            lines.append(_row(name, [100 * by[c] for c in columns], 2, f"{100 * (by[INT8] - by[FLOAT32]):+.2f} points"))
        mb, ms = self.megabytes, self.milliseconds
        lines.append(_row("size (MB)", [mb[c] for c in columns], 1, f"{mb[FLOAT32] / mb[INT8]:.2f} times smaller"))
        lines.append(_row("one input (ms)", [ms[c] for c in columns], 1, f"{ms[FLOAT32] / ms[INT8]:.2f} times as fast"))
        lines.append(f"  INT8 beside float32, {self.images} validation images; times are this machine's")
        return "\n".join([*lines, *(f"  {line}" for line in [self.advice()] if line)])

    def advice(self) -> str:
        """What to run on this processor instead, or how; empty where INT8 as it is runs fastest."""
        ms = self.milliseconds
        best = min(ms[INT8], ms.get(INT8_BFLOAT16, ms[INT8]))
        if BFLOAT16 in ms and ms[BFLOAT16] <= best:
            return (
                f"this processor runs bfloat16 faster than INT8 ({ms[BFLOAT16]:.1f} ms, INT8 {best:.1f}): "
                "export without --int8, and use --half or --precision bf16 in detect.py and val.py"
            )
        if best >= ms[FLOAT32]:
            return f"on this processor INT8 saves space, not time (float32 {ms[FLOAT32]:.1f} ms, INT8 {best:.1f})"
        if best < ms[INT8]:
            return "on this processor it is fastest with --half or --precision bf16 in detect.py and val.py"
        return ""

    def metadata(self) -> dict[str, Any]:
        """Return what is stored of it in the file, in plain types: the scores, which belong to no processor."""
        stored: dict[str, Any] = {}
        for name, by in self.scores.items():
            stored[name] = {"float32": round(by[FLOAT32], 5), "int8": round(by[INT8], 5)}
            stored[name]["difference"] = round(by[INT8] - by[FLOAT32], 5)
        return stored | {"validation_images": self.images}


def _row(name: str, values: Sequence[float], digits: int, remark: str) -> str:
    return f"  {name:16}" + "".join(f"{value:11.{digits}f}" for value in values) + f"   {remark}"


def columns(source: Path, target: Path) -> dict[str, tuple[Path, str]]:
    """Return file and precision (`engine.backend.Backend`) behind each column for a float32 export and its INT8 form."""
    with_bfloat16 = source.is_dir() and openvino_has_bfloat16()
    found = {FLOAT32: (source, "fp32"), BFLOAT16: (source, "bf16"), INT8: (target, "fp32"), INT8_BFLOAT16: (target, "bf16")}
    return {name: run for name, run in found.items() if with_bfloat16 or run[1] == "fp32"}


def measure(source: Path, target: Path, images: np.ndarray, data: str, batch: int, scratch: Path) -> Measured:
    """Validate the two files on the validation part of `data`, `batch` images at once, and time them on `images` (B, 3, H, W)."""
    runs = columns(source, target)

    def validated(path: Path, precision: str) -> dict[str, Any]:
        return evaluate(path, data, batch=batch, device="cpu", plots=False, save_dir=scratch, precision=precision)

    with warnings_only():
        reports = {name: validated(path, precision) for name, (path, precision) in runs.items()}
    scores = {metric: {name: report["metrics"][metric] or 0.0 for name, report in reports.items()} for metric in METRICS}
    sizes = {name: report["model"]["file_mb"] for name, report in reports.items()}
    seen = reports[FLOAT32]["settings"]["images"]
    return Measured(scores, seen, sizes, dict(zip(runs, latencies(list(runs.values()), images), strict=True)))


@torch.inference_mode()
def latencies(runs: Sequence[tuple[Path, str]], images: np.ndarray) -> list[float]:
    """Return the median milliseconds of one pass of each (file, precision) over `images`, in turns, on the CPU."""
    with warnings_only():
        backends = [open_backend(path, torch.device("cpu"), precision)[0] for path, precision in runs]
    inputs = torch.from_numpy(images)
    times: list[list[float]] = [[] for _ in backends]
    started = time.perf_counter()
    for turn in range(WARM_UP + TIMED):
        if turn > WARM_UP and time.perf_counter() - started > TIME_BUDGET_S:
            break
        for backend, kept in zip(backends, times, strict=True):
            start = time.perf_counter()
            backend(inputs)
            kept.append(1e3 * (time.perf_counter() - start))
    return [statistics.median(kept[WARM_UP:]) for kept in times]
