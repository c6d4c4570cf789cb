"""python -m data.review with a model: val.py runs it, and what val.py refuses is told once."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from tiny import save_tiny, write_data

from cfg import guard
from data.review.__main__ import main


def test_weights_are_run_by_val(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    data = write_data(tmp_path / "set", classes=("scratch", "pit", "patch"))
    weights, out = save_tiny(tmp_path / "best.pt"), tmp_path / "review"
    arguments = ["--weights", str(weights), "--data", str(data), "--split", "val", "--device", "cpu", "--out", str(out)]
    assert guard(lambda: main(arguments)) == 0
    with (out / "suspects.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert rows and {Path(row["image"]).parent for row in rows} == {tmp_path / "set/images/val"}
    assert "4 images, 6 labels" in capsys.readouterr().out
    assert guard(lambda: main([*arguments[:-1], str(tmp_path / "again"), "--imgsz", "none"])) == 2
    assert "--imgsz" in capsys.readouterr().err
