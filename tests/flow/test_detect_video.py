"""Videos, streams and drawings through detect.py: what one source or drawing lacks is said, counted, and costs no other."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from camera_server import camera, file, frames, picture
from tiny import SIZE, save_tiny, write_image

import detect
from cfg.errors import guard
from engine.detection import detect_run
from engine.detection.stream_source import StreamSource

from ultralytics.engine.results import Results


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("weights") / "best.pt")


def run(weights: Path, source: list[Path | str], project: Path, *more: str) -> int:
    arguments = ["--weights", str(weights), "--source", *map(str, source), "--project", str(project), "--device", "cpu"]
    return guard(lambda: detect.main([*arguments, "--save-json", "--conf", "0.05", *more]))


def results(project: Path) -> dict:
    return json.loads((project / "exp/results.json").read_text(encoding="utf-8"))


def drawn(folder: Path) -> dict[str, int]:
    """Frames in each drawn video."""
    counts = {}
    for path in sorted(folder.rglob("*.mp4")):
        capture = cv2.VideoCapture(str(path))
        counts[path.relative_to(folder).as_posix()] = 0
        while capture.read()[0]:
            counts[path.relative_to(folder).as_posix()] += 1
    return counts


def record(path: Path, count: int = 5, size: int = SIZE) -> bytes:
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 12.5, (size, size))
    for seed in range(count):
        writer.write(picture(seed, size, size))
    writer.release()
    return path.read_bytes()


def test_no_video_ends_the_others(weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    folder = tmp_path / "clips"
    whole = record(folder / "a.avi", 24)
    (folder / "b_cut.avi").write_bytes(whole[: int(0.8 * len(whole))])
    (folder / "c_none.mp4").touch()
    record(folder / "d_without_frames.avi", 0)
    jpegs = [cv2.imencode(".jpg", picture(seed, 40, side))[1].tobytes() for seed, side in enumerate((40, 40, 41, 41, 41))]
    (folder / "e_sizes.avi").write_bytes(b"".join(jpegs))
    record(folder / "e_sizes-2.avi", 2)
    record(folder / "f.avi", 3)
    write_image(folder / "g.png", 0)
    assert run(weights, [folder], tmp_path / "runs") == 1
    printed, content = capsys.readouterr().out, results(tmp_path / "runs")
    per_source: dict[str, list[int]] = {}
    for entry in content["images"]:
        per_source.setdefault(entry["image"], []).append(entry.get("frame"))
    cut = per_source.pop("b_cut.avi")
    assert cut == list(range(1, len(cut) + 1)) and 3 < len(cut) < 24
    expected = {"a.avi": 24, "e_sizes-2.avi": 2, "e_sizes.avi": 5, "f.avi": 3}
    assert per_source == {name: list(range(1, n + 1)) for name, n in expected.items()} | {"g.png": [None]}
    assert drawn(tmp_path / "runs/exp") == {
        "a.mp4": 24, "b_cut.mp4": len(cut), "e_sizes-2.mp4": 2, "e_sizes.mp4": 2, "e_sizes-3.mp4": 3, "f.mp4": 3
    }  # fmt: skip
    reasons = {Path(entry["image"]).name: entry["reason"] for entry in content["skipped"]}
    assert reasons.pop("b_cut.avi") == f"only {len(cut)} of 24 frames can be read"
    assert set(reasons) == {"c_none.mp4", "d_without_frames.avi"}
    assert "Skipped: 2 unreadable" in printed and "Images lost: 1 times" in printed and "drawn into e_sizes-3.mp4" in printed
    assert [e["width"] for e in content["images"] if e["image"] == "e_sizes.avi"] == [40, 40, 41, 41, 41]


def test_a_video_given_twice_is_drawn_twice(weights: Path, tmp_path: Path) -> None:
    record(tmp_path / "a.avi", 3)
    assert run(weights, [tmp_path / "a.avi"] * 2, tmp_path / "runs") == 0
    assert drawn(tmp_path / "runs/exp") == {"a.mp4": 3, "a-2.mp4": 3} and len(results(tmp_path / "runs")["images"]) == 6


def test_a_stream_that_drops_has_a_result_and_a_drawing_for_each_frame_received(weights, tmp_path: Path, capsys) -> None:
    with camera(frames(range(8)), frames(range(10, 18), height=96, width=128)) as url:
        assert run(weights, [url.replace("://", "://user:secret@")], tmp_path / "runs", "--reconnect", "0.8") == 1
    printed, content = capsys.readouterr().out, results(tmp_path / "runs")
    sizes = [(entry["height"], entry["width"]) for entry in content["images"]]
    parts = drawn(tmp_path / "runs/exp")
    assert set(sizes) == {(64, 64), (96, 128)} and list(parts.values()) == [sizes.count((96, 128)), sizes.count((64, 64))]
    assert [entry["frame"] for entry in content["images"]] == sorted({entry["frame"] for entry in content["images"]})
    assert len(content["skipped"]) == 2 and content["skipped"][0]["image"] == url
    assert "no frame after frame 8 (connection closed); connecting again" in printed and "Images lost: 2 times" in printed
    assert not any("secret" in path.name for path in tmp_path.rglob("*")) and "secret" not in printed + json.dumps(content)


def test_a_stream_that_is_received_whole_is_no_loss(weights: Path, tmp_path: Path, capsys) -> None:
    with camera(file(record(tmp_path / "x.avi", 7)), again=True) as url:
        assert run(weights, [url], tmp_path / "runs") == 0
    assert [entry["frame"] for entry in results(tmp_path / "runs")["images"]] == list(range(1, 8))
    assert "ended after frame 7" in capsys.readouterr().out and list(drawn(tmp_path / "runs/exp").values()) == [7]


def test_a_drawing_that_fails_costs_the_drawing_only(weights: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    plot, frames_seen = Results.plot, []

    def sometimes(self: Results, **options: object) -> np.ndarray:
        path = Path(self.path)
        frames_seen.extend([path] * (path.suffix == ".avi"))
        if path.stem == "b" and (path.suffix == ".png" or len(frames_seen) != 2):
            raise OSError("a font is missing")  # of the drawing, not of the disk
        return plot(self, **options)

    monkeypatch.setattr(Results, "plot", sometimes)
    record(tmp_path / "in/b.avi", 4)
    for name in ("a.png", "b.png", "c.png"):
        write_image(tmp_path / "in" / name, 1)
    assert run(weights, [tmp_path / "in"], tmp_path / "runs") == 1
    out, printed, content = tmp_path / "runs/exp", capsys.readouterr().out, results(tmp_path / "runs")
    assert len(content["images"]) == 7 and content["skipped"] == []
    assert sorted(path.name for path in out.glob("*.png")) == ["a.png", "c.png"] and list(drawn(out).values()) == [1]
    assert "Not drawn: 4 images" in printed
    told = [line for line in printed.splitlines() if line.startswith("not drawn")]
    assert f"not drawn {tmp_path / 'in/b.avi'}: OSError: a font is missing" in told and len(told) < 4, "each once in a row"


def test_a_drawing_that_cannot_be_encoded_costs_the_drawing_only(weights: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.setattr(Results, "plot", lambda self, **options: np.zeros((2, 20_000, 3), np.uint8))  # 16,383 are the most
    write_image(tmp_path / "in/a.webp", 1)
    write_image(tmp_path / "in/b.png", 1)
    assert run(weights, [tmp_path / "in"], tmp_path / "runs") == 1
    assert sorted(path.name for path in (tmp_path / "runs/exp").glob("*.*g")) == ["b.png"]
    assert "Not drawn: 1 images" in capsys.readouterr().out and len(results(tmp_path / "runs")["images"]) == 2


def test_a_window_that_fails_is_said_and_closed(weights: Path, tmp_path: Path, monkeypatch, capsys) -> None:
    def no_window(*given: object) -> None:
        raise cv2.error("no display")

    monkeypatch.setattr(detect_run, "check_imshow", lambda warn: True)
    monkeypatch.setattr(cv2, "imshow", no_window)
    monkeypatch.setattr(cv2, "destroyAllWindows", lambda: None)
    record(tmp_path / "a.avi", 3)
    assert run(weights, [tmp_path / "a.avi"], tmp_path / "runs", "--view") == 0
    assert capsys.readouterr().out.count("--view: switched off") == 1
    assert len(results(tmp_path / "runs")["images"]) == 3 and drawn(tmp_path / "runs/exp") == {"a.mp4": 3}


def test_narrow_pictures(weights: Path, tmp_path: Path) -> None:
    for height, width in ((1, 200), (200, 1), (3, 5)):
        path = tmp_path / f"in/{height}x{width}.png"
        path.parent.mkdir(exist_ok=True)
        cv2.imwrite(str(path), np.full((height, width, 3), 90, np.uint8))
    assert run(weights, [tmp_path / "in"], tmp_path / "runs") == 0
    assert len(results(tmp_path / "runs")["images"]) == 3 == len(list((tmp_path / "runs/exp").glob("*.png")))


WATCH = """
import sys
import models.environment
from cfg.errors import guard
def main():
    from engine.detection.stream_source import StreamSource
    print("ready", flush=True)
    StreamSource([sys.argv[1]], print, 60.0)
sys.exit(guard(main))
"""


def test_ctrl_c_ends_a_run_that_waits_for_an_answer() -> None:
    """A process of its own: its threads, which the network holds up, must not keep it alive."""
    hang = threading.Event()
    with camera(lambda answer: hang.wait(20)) as url:
        command = [sys.executable, "-c", WATCH, url]
        process = subprocess.Popen(command, cwd=Path(detect.__file__).parent, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert process.stdout.readline() == "ready\n", process.stderr.read()
        time.sleep(0.3)
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=10)
        hang.set()
    assert time.monotonic() - began < 8 and process.returncode == 130, errors
    assert errors.strip() == "interrupted"


def test_ctrl_c_ends_a_run_that_waits_for_a_frame(capsys) -> None:
    def watch() -> None:
        for _, _, items in StreamSource([url], print, 60.0):
            if items[0].frame == 3:
                threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT)).start()

    with camera(frames(range(3), hang=20)) as url:
        began = time.monotonic()
        assert guard(watch) == 130
    assert time.monotonic() - began < 15 and capsys.readouterr().err.strip() == "interrupted"
