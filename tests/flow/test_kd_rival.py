"""The rival's row: a stock pair, trained and distilled by ultralytics' own trainer, scored as ours."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from kd_runs import arguments, commands, main, place  # noqa: F401  (two of them are fixtures)

from cfg import UserError


def test_ultralytics_trains_and_distils_its_own_pair(place, tmp_path, commands, monkeypatch):
    rival = ("--seeds", "1", "--rival-cfg", str(place / "stock.yaml"))
    assert main(monkeypatch, arguments(place, tmp_path, "none,ultralytics-none", *rival)) == 0
    teacher = tmp_path / "teacher.pt"  # a file that ultralytics wrote
    shutil.copy(tmp_path / "runs/ultralytics-none-s0/train/weights/last.pt", teacher)

    commands.clear()
    more = (*rival, "--rival-teacher", str(teacher))
    assert main(monkeypatch, arguments(place, tmp_path, "none,ultralytics", *more)) == 0
    assert [Path(c[0]).name for c in commands] == ["rival.py", "val.py"]  # the other two are not repeated
    result = json.loads((tmp_path / "results.json").read_text())
    none, alone, distilled = result["rows"]
    assert [row["method"] for row in result["rows"]] == ["none", "ultralytics-none", "ultralytics"]
    assert distilled["against"] == "ultralytics-none" and set(distilled["difference"]) == {"mAP50", "mAP50-95"}
    assert "difference" not in alone  # another student than --cfg: nothing of ours to compare it with
    assert alone["parameters"] == distilled["parameters"] != none["parameters"]
    heads = [(tmp_path / f"runs/{name}-s0/train/results.csv").read_text().splitlines() for name in
             ("ultralytics-none", "ultralytics")]  # fmt: skip
    assert [len(lines) for lines in heads] == [3, 3]  # two epochs
    assert ["train/dis_loss" in lines[0] for lines in heads] == [False, True]
    assert float(heads[1][1].split(",")[heads[1][0].split(",").index("train/dis_loss")]) > 0
    assert any("ultralytics' own trainer" in note for note in result["notes"])
    assert "| ultralytics over ultralytics-none |" in (tmp_path / "results.md").read_text()


@pytest.mark.parametrize(
    ("rival", "told"),
    [
        ({}, "--cfg .*model.yaml is none; use --rival-cfg yolo11n.yaml"),
        ({"--rival-cfg": "stock.yaml"}, "ultralytics needs a teacher; use --rival-teacher yolo11s.pt"),
        ({"--rival-cfg": "model.yaml", "--rival-teacher": "t.pt"}, "model.yaml: expected a stock model"),
        ({"--rival-cfg": "stock.yaml", "--rival-teacher": "t.pt"}, "t.pt: expected a stock model"),
        ({"--rival-cfg": "stock.yaml", "--rival-teacher": "absent.pt"}, "absent.pt"),
    ],
)
def test_a_pair_that_ultralytics_cannot_train_is_refused(place, tmp_path, monkeypatch, rival, told):
    options = [text for name, file in rival.items() for text in (name, str(place / file))]
    with pytest.raises(UserError, match=told):
        main(monkeypatch, arguments(place, tmp_path / "out", "none,ultralytics", *options))
    assert not (tmp_path / "out").exists()
