"""--report and --heatmap in whole runs: the page is of the run, with what the run found; hostile names of files."""

from __future__ import annotations

import re
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from reports import HOSTILE
from tiny import NAMES, SIZE, save_tiny, write_data, write_image

import detect
import export
from cfg.errors import guard
from data.images import read_pixels
from engine.heatmaps.drise import drise
from engine.reporting import short_names
from engine.validation.evaluate import evaluate
from inspection.plan import ClassRule, Plan
from inspection.plan_file import save_plan


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("weights") / "best.pt")


def run(weights: Path, folder: Path, *more: str) -> str:
    for seed in range(3):
        write_image(folder / f"in/{seed}.png", seed)
    write_image(folder / "in" / f"{HOSTILE.replace('/', '_')}.png", 3)
    (folder / "in/broken.png").write_text("no image")
    arguments = ["--weights", str(weights), "--source", str(folder / "in"), "--project", str(folder / "runs"), "--device", "cpu"]
    assert guard(lambda: detect.main([*arguments, "--no-draw", *more])) == 1  # one cannot be read
    return (folder / "runs/exp/report.html").read_text(encoding="utf-8")


def test_a_run_without_a_plan(weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    text = run(weights, tmp_path, "--report", "--conf", "0.1")
    printed = capsys.readouterr().out
    assert f"Report: {tmp_path / 'runs/exp/report.html'}" in printed
    assert "No decision plan" in text and "broken.png" in text and "<script>alert" not in text
    assert text.count('<article class="card"') == 4 and text.count("data:image/jpeg") == 4
    assert int(re.search(r"<small>([\d,]+) defects", text)[1].replace(",", "")) == int(re.search(r", (\d+) objects", printed)[1])


def test_a_run_with_a_plan(weights: Path, tmp_path: Path) -> None:
    plan = tmp_path / "decision.yaml"
    save_plan(plan, Plan(tuple(NAMES.values()), tuple(ClassRule(0.2) for _ in NAMES)))
    text = run(weights, tmp_path, "--report", "--decision", str(plan))
    assert "Verdict and promise" in text and "no escape rate is promised" in text
    assert text.count('data-group="ng"') == 4 and re.search(r"<p>\w+ 0\.\d+ &gt;= 0\.2</p>", text)


@pytest.mark.parametrize("kind", ["evidence", "layercam"])
def test_heat_maps_lie_beside_the_results(weights: Path, tmp_path: Path, kind: str) -> None:
    run(weights, tmp_path, "--report", "--heatmap", kind, "--conf", "0.1")
    maps = sorted((tmp_path / "runs/exp/heatmaps").iterdir())
    assert len(maps) == 4
    shown, source = read_pixels(maps[0]), read_pixels(tmp_path / "in" / maps[0].stem)
    assert shown.shape == source.shape == (SIZE, SIZE, 3)
    assert np.abs(shown.astype(int) - source).mean() > 3


@pytest.mark.parametrize(("form", "made"), [("onnx", "best.onnx"), ("openvino", "best_openvino_model")])
def test_random_masks_explain_an_export(weights: Path, tmp_path: Path, form: str, made: str, monkeypatch, capsys) -> None:
    """The map of an export is that of its weights: the same masks, scores that are equal to rounding."""
    pytest.importorskip(form, reason=f"needs {form}")
    monkeypatch.setattr("engine.heatmaps.pictures.drise", partial(drise, masks=60))
    write_image(tmp_path / "in/a.png", 0)
    given = ["--weights", str(weights), "--format", form, "--out", str(tmp_path / made), "--device", "cpu", "--no-check"]
    assert guard(lambda: export.main(given)) == 0
    maps = []
    for name, model in (("weights", weights), ("export", tmp_path / made)):
        arguments = ["--weights", str(model), "--source", str(tmp_path / "in"), "--project", str(tmp_path), "--name", name, "--device", "cpu"]
        assert guard(lambda: detect.main([*arguments, "--no-draw", "--heatmap", "drise", "--conf", "0.1"])) == 0  # noqa: B023
        maps.append(read_pixels(next((tmp_path / name / "heatmaps").iterdir())).astype(int))
    painted = np.abs(maps[1] - read_pixels(tmp_path / "in/a.png")).mean()
    assert painted > 3 and np.abs(maps[1] - maps[0]).mean() < painted / 5
    assert guard(lambda: detect.main([*arguments, "--heatmap", "layercam"])) == 2
    assert "use --heatmap drise, or the .pt file" in capsys.readouterr().err


def test_a_map_that_the_model_has_not_is_refused(weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    write_image(tmp_path / "a.png", 0)
    arguments = ["--weights", str(weights), "--source", str(tmp_path / "a.png"), "--project", str(tmp_path), "--device", "cpu"]
    assert guard(lambda: detect.main([*arguments, "--heatmap", "attention"])) == 2
    assert "expected a model with attention modules" in capsys.readouterr().err and not (tmp_path / "exp").exists()


def test_a_validation_shows_labels_and_suspects(weights: Path, tmp_path: Path) -> None:
    data = write_data(tmp_path / "set", classes=tuple(NAMES.values()))
    result = evaluate(weights, data, device="cpu", plots=False, save_dir=tmp_path / "run", report=True)
    text = Path(result["settings"]["report"]).read_text(encoding="utf-8")
    assert "Labels to look at" in text and 'class="label"' in text and "split val" in text
    assert text.count("data:image/jpeg") == 4


@pytest.mark.parametrize(("files", "names"), [
    (["/set/images/val/a.png", "/set/images/val/b.png"], ["a.png", "b.png"]),
    (["/set/lot-1/a.png", "/set/lot-2/deep/a.png"], ["lot-1/a.png", "lot-2/deep/a.png"]),
    (["/set/a.png"], ["a.png"]),
    ([], []),
])  # fmt: skip
def test_images_are_named_below_the_folder_of_all(files: list[str], names: list[str]) -> None:
    assert short_names(files) == names
