"""Frames of video files: as they were recorded, each once, and what is missing is said."""

from __future__ import annotations

import os
import struct
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from data.decode import as_bgr
from data.streams.captures import USER_OPTIONS, CaptureError, MediaCapture, _options, frame_count
from data.streams.frames import believable_fps
from data.streams.timeline import Timeline

FRAMES = 24
# Three kinds: the header counts the frames, tells the seconds, or neither.
CODECS = {".avi": "MJPG", ".mp4": "mp4v", ".mov": "mp4v", ".mkv": "mp4v", ".webm": "VP80", ".wmv": "WMV2", ".ts": "mp4v"}


def noise(seed: int, height: int = 48, width: int = 64) -> np.ndarray:
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_NEAREST)


def record(path: Path, frames: int = FRAMES, fps: float = 12.5) -> Path:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*CODECS[path.suffix]), fps, (64, 48))
    for seed in range(frames):
        writer.write(noise(seed))
    writer.release()
    return path


def read(path: Path) -> tuple[list[np.ndarray], str]:
    """Frames, and what the capture says is missing."""
    capture = MediaCapture(str(path))
    try:
        return list(capture), capture.shortfall()
    finally:
        capture.close()


@pytest.mark.parametrize("suffix", CODECS)
def test_whole_files_are_whole(tmp_path: Path, suffix: str) -> None:
    images, missing = read(record(tmp_path / f"x{suffix}"))
    assert len(images) == FRAMES and not missing
    expected = cv2.VideoCapture(str(tmp_path / f"x{suffix}"))
    for image in images:
        assert (image == expected.read()[1]).all(), "other pixels than those that ultralytics gets"
    expected.release()


@pytest.mark.parametrize("suffix", [".avi", ".mkv", ".webm"])
def test_a_file_that_was_cut_off_says_so(tmp_path: Path, suffix: str) -> None:
    data = record(tmp_path / f"x{suffix}").read_bytes()
    (tmp_path / f"cut{suffix}").write_bytes(data[: int(0.7 * len(data))])
    images, missing = read(tmp_path / f"cut{suffix}")
    assert 2 < len(images) < FRAMES and "only " in missing and "can be read" in missing
    assert (f"of {FRAMES} frames" in missing) == (suffix == ".avi")


@pytest.mark.parametrize("suffix", [".avi", ".mov", ".wmv", ".webm", ".ts"])
def test_broken_frames_in_the_middle_are_left_out_and_said(tmp_path: Path, suffix: str) -> None:
    data = bytearray(record(tmp_path / f"x{suffix}").read_bytes())
    middle = len(data) // 2
    data[middle : middle + len(data) // 10] = bytes(len(data) // 10)
    (tmp_path / f"x{suffix}").write_bytes(data)
    images, missing = read(tmp_path / f"x{suffix}")
    assert FRAMES // 2 < len(images) < FRAMES and f"only {len(images)} of" in missing, missing


def test_what_is_lost_is_the_same_on_every_machine(tmp_path: Path) -> None:
    capture = MediaCapture(str(record(tmp_path / "x.mov")))
    assert capture.stream.codec_context.thread_count == 4, "by itself it takes one for each core, and loses more frames"
    capture.close()


def test_pauses_of_a_film_without_a_fixed_rate_are_no_loss() -> None:
    fixed, uneven, thinned = Timeline(10.0), Timeline(10.0), Timeline(10.0)
    for step in range(20):
        fixed.note(step / 10 + (0.4 if step > 9 else 0.0), 0)
        uneven.note(step / 10 + (0.4 if step > 9 else 0.03 * (step % 2)), 0)
        thinned.note(step / 10 + 0.1 * (step // 4), 0)
    assert (fixed.missing, uneven.missing, thinned.missing) == (4, 0, 0)
    assert fixed.until - fixed.began == pytest.approx(2.4)


def test_frames_that_an_edited_file_hides_are_not_missing(tmp_path: Path) -> None:
    data = bytearray(record(tmp_path / "x.mp4", fps=12.0).read_bytes())
    where = data.index(b"elst") + 12  # after version, flags and number of entries: duration, start
    timescale = struct.unpack_from(">I", data, data.index(b"mdhd") + 16)[0]
    struct.pack_into(">I", data, where + 4, timescale // 2)  # shown from 0.5 s on: six frames are hidden
    (tmp_path / "x.mp4").write_bytes(data)
    images, missing = read(tmp_path / "x.mp4")
    assert len(images) == FRAMES - 6 and not missing


@pytest.mark.parametrize(
    ("turn", "matrix"),
    [
        (90, (0, 1, 0, -1, 0, 0, 48, 0, 16384)),
        (180, (-1, 0, 0, 0, -1, 0, 64, 48, 16384)),
        (270, (0, -1, 0, 1, 0, 0, 0, 64, 16384)),
    ],
)
def test_a_film_is_turned_as_the_phone_was_held(tmp_path: Path, turn: int, matrix: tuple[int, ...]) -> None:
    data = record(tmp_path / "x.mp4", 2).read_bytes()
    upright = struct.pack(">9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30)
    where = data.index(upright, data.index(b"tkhd"))
    turned = struct.pack(">9i", *(65536 * value for value in matrix))
    (tmp_path / "x.mp4").write_bytes(data[:where] + turned + data[where + 36 :])
    image = read(tmp_path / "x.mp4")[0][0]
    assert (image == cv2.VideoCapture(str(tmp_path / "x.mp4")).read()[1]).all()
    assert image.shape == ((48, 64, 3) if turn == 180 else (64, 48, 3))


def test_every_frame_keeps_its_size(tmp_path: Path) -> None:
    sizes = [(48, 64)] * 3 + [(96, 128)] * 3 + [(31, 33)] * 2
    jpegs = [cv2.imencode(".jpg", noise(seed, *size))[1].tobytes() for seed, size in enumerate(sizes)]
    (tmp_path / "x.avi").write_bytes(b"".join(jpegs))  # what it holds decides, not its name
    images, missing = read(tmp_path / "x.avi")
    assert [image.shape[:2] for image in images] == sizes and not missing


@pytest.mark.parametrize("mode", ["P", "L", "RGBA"])
def test_gif(tmp_path: Path, mode: str) -> None:
    frames = [Image.fromarray(noise(seed)).convert(mode) for seed in range(5)]
    frames[0].save(tmp_path / "x.gif", save_all=True, append_images=frames[1:], duration=[40, 40, 500, 0, 900], loop=0)
    images, missing = read(tmp_path / "x.gif")
    assert [image.shape for image in images] == [(48, 64, 3)] * 5 and not missing
    data = (tmp_path / "x.gif").read_bytes()
    (tmp_path / "x.gif").write_bytes(data[: len(data) // 2])
    images, missing = read(tmp_path / "x.gif")
    assert 0 < len(images) < 5 and missing


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not a video"),
        (b"no video\n" * 300, "not a video"),
        (b"ffconcat version 1.0\nfile other.avi\n", "not a video"),
        (b"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nother.ts\n#EXT-X-ENDLIST\n", "not a video"),
    ],
    ids=["empty", "text", "list of videos", "playlist"],
)
def test_what_is_no_video_is_not_read(tmp_path: Path, content: bytes, reason: str) -> None:
    record(tmp_path / "other.avi", 2)
    record(tmp_path / "other.ts", 2)
    (tmp_path / "x.mp4").write_bytes(content)
    with pytest.raises(CaptureError, match=reason):
        read(tmp_path / "x.mp4")


def test_a_file_without_its_index_or_without_frames_is_not_read(tmp_path: Path) -> None:
    data = record(tmp_path / "x.mp4").read_bytes()
    (tmp_path / "x.mp4").write_bytes(data[: len(data) // 2])
    with pytest.raises(CaptureError, match="data are corrupt"):
        read(tmp_path / "x.mp4")
    assert frame_count(tmp_path / "x.mp4") == 0
    record(tmp_path / "none.avi", 0)
    assert read(tmp_path / "none.avi") == ([], "")


@pytest.mark.skipif(sys.platform != "linux", reason="file names are bytes there")
def test_a_name_of_any_bytes(tmp_path: Path) -> None:
    name = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff%03d [1].avi"))
    record(tmp_path / "x.avi", 3).rename(name)
    assert len(read(name)[0]) == 3 and frame_count(name) == 3


def test_options_of_the_environment_are_minded(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _options()["rtsp_flags"] == "prefer_tcp"
    monkeypatch.setenv(USER_OPTIONS, "rtsp_transport;udp|fflags;nobuffer")
    assert _options() == {"rtsp_flags": "prefer_tcp", "rtsp_transport": "udp", "fflags": "nobuffer"}


def test_frames_of_any_depth_become_colour_of_8_bits() -> None:
    grey = noise(0)[..., 0]
    for image in (grey, grey[..., None], grey.astype(np.uint16) << 8):
        assert (as_bgr(image) == np.repeat(grey[..., None], 3, axis=2)).all()
    assert (as_bgr(np.dstack([noise(1), grey])) == noise(1)).all()


@pytest.mark.parametrize(
    ("told", "believed"),
    [(0, 0), (float("nan"), 0), (float("inf"), 0), (-25, 0), (1000, 0), (90000, 0), (12.5, 12.5), (29.97, 29.97), (0.1, 0.1)],
)
def test_frame_rates(told: float, believed: float) -> None:
    assert believable_fps(told) == believed
