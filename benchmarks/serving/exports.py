"""The students as exports to load the service with. Needs PyTorch, unlike its neighbours."""

from __future__ import annotations

from pathlib import Path

import models.environment  # noqa: F401  (before ultralytics)
from engine.checkpoint import save_student
from engine.export.export_check import ExportOptions
from engine.export.exporter import export
from engine.settings import Settings
from engine.start.shipped import shipped_for
from engine.start.start import start_from_file
from inspection.embedded import embed
from inspection.identity import identify
from inspection.plan import ClassRule, Plan
from models.detector import Detector

STUDENTS = ("s-model", "s-model-fast")
SIDE, THRESHOLD = 640, 0.5


def make_exports(folder: Path) -> list[Path]:
    """ONNX files of the S-model and the fast student from their start weights, at 640 px, each with a plan inside."""
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    for name in STUDENTS:
        detector = Detector(f"{name}.yaml")
        detector.names = {index: f"class{index}" for index in range(detector.model[-1].nc)}
        shipped = str(shipped_for(detector))
        start_from_file(detector, shipped, Settings.of({"model": f"{name}.yaml", "weights": shipped}).network, detector.names)
        save_student(folder / f"{name}.pt", detector.eval(), {"train_args": {"imgsz": SIDE}})
        files, _ = export(ExportOptions(weights=str(folder / f"{name}.pt"), format="onnx", check=False))
        names = tuple(detector.names.values())
        embed(files[0], Plan(names, (ClassRule(THRESHOLD),) * len(names), model=identify(files[0], imgsz=SIDE, iou=0.45)))
        made += files
    return made
