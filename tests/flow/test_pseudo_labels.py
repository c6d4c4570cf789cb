"""data.pseudo with a real detector: what detect.py writes is what becomes labels."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

import detect
from data import pseudo
from data.layout import label_rows
from tests.flow.tiny import NAMES, save_tiny, write_image


def test_labels_are_what_the_detector_finds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pseudo, "run_script", lambda script, arguments, folder: detect.main([*arguments]))  # here, not in a process of its own
    weights = save_tiny(tmp_path / "t.pt")
    for part in ("train", "val"):
        write_image(tmp_path / f"mine/images/{part}/{part}.png", seed=ord(part[0]))
    (tmp_path / "mine/data.yaml").write_text(f"train: images/train\nval: images/val\nnames: {list(NAMES.values())}\n")
    (tmp_path / "mine/labels/train").mkdir(parents=True)
    (tmp_path / "mine/labels/train/train.txt").write_text("0 0.5 0.5 0.2 0.2\n")
    for index in range(3):
        write_image(tmp_path / f"more/{index}.png", seed=index, height=48)
    (tmp_path / "more/broken.png").write_bytes(b"no image")
    (tmp_path / "more/gone.png").symlink_to(tmp_path / "nowhere.png")
    assert cv2.imwritemulti(str(tmp_path / "more/pages.tif"), [np.full((64, 64, 3), value, np.uint8) for value in (60, 90)])
    done = pseudo.pseudo_label(str(weights), tmp_path / "mine", tmp_path / "more", tmp_path / "out", conf=0.05, doubt=0.05)
    assert (done.labelled, done.unsure, done.known) == (4, 0, 0)
    assert sorted(Path(x).name for x, _ in done.unreadable) == ["broken.png", "gone.png"]
    rows = [label_rows(image) for image in (tmp_path / "out/images/train").iterdir() if image.stem != "train"]
    assert len(rows) == 4 and sum(map(len, rows)) > 3 and np.concatenate(rows)[:, 1:].max() <= 1
