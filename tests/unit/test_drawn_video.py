"""Drawn videos: as many frames in the files as were drawn, whatever their size, rate and number, or it is said."""

from __future__ import annotations

import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

import models.environment  # noqa: F401  (before anything here imports ultralytics)
from engine.detection.drawn_video import LARGEST_SIDE, DrawnVideo, fitted


def frame(height: int, width: int, value: int = 200, channels: tuple[int, ...] = (3,)) -> np.ndarray:
    return np.full((height, width, *channels), value, np.uint8)


class Target:
    """A drawn video in a folder, and what it said was missing."""

    def __init__(self, folder: Path, fps: float = 25.0, taken: set[Path] | None = None) -> None:
        self.undrawn: list[tuple[str, int]] = []
        self.video = DrawnVideo(folder / "clip", "clip.avi", fps, set() if taken is None else taken,
                                lambda reason, number: self.undrawn.append((reason, number)))  # fmt: skip


def play(path: Path) -> list[np.ndarray]:
    capture, frames = cv2.VideoCapture(str(path)), []
    while (read := capture.read())[0]:
        frames.append(read[1])
    capture.release()
    return frames


@pytest.mark.parametrize("fps", [0, float("nan"), float("inf"), -5, 0.1, 12.5, 24000 / 1001, 29.97, 999.9, 1000, 90000])
def test_any_frame_rate_gives_a_file_that_plays(tmp_path: Path, fps: float) -> None:
    target = Target(tmp_path, fps)
    for _ in range(5):
        target.video.write(frame(32, 32))
    target.video.close()
    told = cv2.VideoCapture(str(tmp_path / "clip.mp4")).get(cv2.CAP_PROP_FPS)
    assert len(play(tmp_path / "clip.mp4")) == 5 and not target.undrawn
    assert told == pytest.approx(fps if 0 < fps < 1000 else 30, rel=1e-3)


@pytest.mark.parametrize("size", [(33, 47), (1, 1), (1, 300), (300, 1), (2, 2), (2, 9001), (16400, 3)])
def test_any_size_gives_a_file_that_plays(tmp_path: Path, size: tuple[int, int]) -> None:
    target = Target(tmp_path)
    for _ in range(2):
        target.video.write(frame(*size))
    target.video.close()
    frames = play(tmp_path / "clip.mp4")
    assert len(frames) == 2 and not target.undrawn and max(frames[0].shape) <= LARGEST_SIDE
    assert frames[0][0, 0].mean() > 150, "the drawing is in its corner"


def test_nothing_of_an_odd_frame_is_cut_off() -> None:
    image = np.random.default_rng(0).integers(0, 256, (33, 47, 3), dtype=np.uint8)
    assert fitted(image).shape == (34, 48, 3) and (fitted(image)[:33, :47] == image).all()
    assert fitted(frame(9000, 30)).shape == (8190, 28, 3)


@pytest.mark.parametrize("channels", [(), (1,), (3,), (4,)])
def test_any_number_of_channels(tmp_path: Path, channels: tuple[int, ...]) -> None:
    target = Target(tmp_path)
    target.video.write(frame(32, 32, channels=channels))
    target.video.close()
    assert play(tmp_path / "clip.mp4")[0].shape == (32, 32, 3) and not target.undrawn


def test_a_change_of_size_starts_a_file_and_is_said(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    taken = {tmp_path / "clip-2.mp4"}  # the drawing of another video, clip-2.avi
    (tmp_path / "clip-2.mp4").write_bytes(b"other")
    target = Target(tmp_path, taken=taken)
    for height, width, number in ((32, 32, 3), (33, 32, 2), (64, 48, 4)):
        for _ in range(number):
            target.video.write(frame(height, width))
    target.video.close()
    assert [len(play(tmp_path / name)) for name in ("clip.mp4", "clip-3.mp4", "clip-4.mp4")] == [3, 2, 4]
    assert (tmp_path / "clip-2.mp4").read_bytes() == b"other" and not target.undrawn
    assert capsys.readouterr().out.splitlines() == [
        "clip.avi: frames of 32 x 33 pixels from here on, drawn into clip-3.mp4",
        "clip.avi: frames of 48 x 64 pixels from here on, drawn into clip-4.mp4",
    ]


@pytest.mark.skipif(sys.platform != "linux", reason="file names are bytes there")
def test_a_name_that_is_no_text_is_said(tmp_path: Path) -> None:
    target = Target(tmp_path / "\udcff")
    target.video.write(frame(32, 32))
    target.video.close()
    assert len(target.undrawn) == 1


def test_a_file_that_cannot_be_opened_is_said_for_each_frame(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    (tmp_path / "clip.mp4").mkdir()
    target = Target(tmp_path)
    for _ in range(3):
        target.video.write(frame(32, 32))
    target.video.write(frame(64, 64))
    target.video.close()
    assert target.undrawn == [("clip.mp4 cannot be made, a video of 32 x 32 pixels", 1)] * 3
    assert len(play(tmp_path / "clip-2.mp4")) == 1 and capfd.readouterr().err == ""


@pytest.mark.skipif(sys.platform != "linux", reason="needs a limit on the size of files")
def test_a_full_disk_is_an_error(tmp_path: Path) -> None:
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    target, rng = Target(tmp_path), np.random.default_rng(0)
    target.video.write(frame(128, 128))
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, before[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            for _ in range(20):
                target.video.write(rng.integers(0, 256, (128, 128, 3), dtype=np.uint8))
            target.video.close()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_frames_that_are_missing_in_the_file_are_said(tmp_path: Path) -> None:
    target = Target(tmp_path)
    for _ in range(4):
        target.video.write(frame(32, 32))
    target.video.written += 3  # as if an encoder had dropped them
    target.video.close()
    assert target.undrawn == [("clip.mp4 lacks 3 of 7 frames", 3)]
