"""Streams that drop, end, hang, change and repeat: only received frames are looked at, and every loss is said."""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import cv2
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from camera_server import camera, cut_off, file, frames, picture

import data.streams.stream as streams_module
from cfg.errors import UserError
from data.streams import captures
from engine.detection.items import Item
from engine.detection.stream_source import StreamSource

LONGEST = 10.0  # seconds any of these streams may take


class Seen:
    """What a source gave until it ended: items, frames, and the losses it told."""

    def __init__(self, *addresses: str, patience: float = 0.8, slow: float = 0.0) -> None:
        self.items: list[Item] = []
        self.frames: list[np.ndarray] = []
        self.losses: list[str] = []
        began = time.monotonic()
        source = StreamSource(addresses, lambda name, reason: self.losses.append(f"{name}: {reason}"), patience)
        try:
            for _, images, items in source:
                self.items += items
                self.frames += images
                time.sleep(slow)
                assert time.monotonic() - began < LONGEST, "the stream goes on for ever"
        finally:
            source.close()
        for stream in source.streams:
            stream.thread.join(5)
            assert not stream.thread.is_alive()

    @property
    def numbers(self) -> list[int]:
        return [item.frame for item in self.items]


def is_one_of(image: np.ndarray, seeds: range) -> bool:
    """Whether a frame is one of the images sent, JPEG's loss aside."""
    height, width = image.shape[:2]
    return any(np.abs(image.astype(int) - picture(seed, height, width)).mean() < 12 for seed in seeds)


def test_a_drop_gives_no_picture_and_the_frames_are_counted_on(capsys: pytest.CaptureFixture) -> None:
    with camera(frames(range(6)), frames(range(10, 16), height=96, width=128)) as url:
        seen = Seen(url)
    assert all(is_one_of(image, range(16)) for image in seen.frames)
    shapes = [image.shape[:2] for image in seen.frames]
    assert shapes == sorted(shapes) and set(shapes) == {(64, 64), (96, 128)}
    assert seen.numbers == sorted(set(seen.numbers)) and seen.numbers[-1] == 12, "twelve frames were received"
    assert [loss.split(": ", 1)[1] for loss in seen.losses] == [
        "no frame after frame 6 (connection closed); connecting again",
        "no frame after frame 12 (connection closed); connecting again",
    ]
    printed = capsys.readouterr().out
    assert printed.count("connected again after") == 1 and "given up after frame 12: no connection in 0.8 s" in printed


def test_a_picture_that_was_cut_off_is_none() -> None:
    with camera(cut_off(range(5))) as url:
        seen = Seen(url, patience=0)
    assert seen.numbers[-1] == 4 and all(is_one_of(image, range(4)) for image in seen.frames)
    assert len(seen.losses) == 1


def test_a_change_of_size_without_a_drop_is_received_as_sent() -> None:
    def both(answer) -> None:
        frames(range(5))(answer)
        for seed in range(5, 10):
            answer.jpeg(seed, 96, 128)
            time.sleep(0.05)

    with camera(both) as url:
        seen = Seen(url, patience=0)
    assert {image.shape[:2] for image in seen.frames} == {(64, 64), (96, 128)} and seen.numbers[-1] == 10


def test_a_camera_that_falls_silent_is_connected_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(captures, "SILENCE", 0.4)
    with camera(frames(range(4), hang=2), frames(range(10, 14))) as url:
        seen = Seen(url)
    assert seen.numbers[-1] == 8 and "nothing came in time" in seen.losses[0]


@pytest.mark.parametrize("told", [True, False])
def test_a_recording_on_a_server_is_seen_once_and_whole(tmp_path: Path, told: bool) -> None:
    with camera(file(video(tmp_path / "x.avi", 12), length=told), again=True) as url:
        seen = Seen(url, slow=0.01)
    assert seen.numbers == list(range(1, 13)) and not seen.losses


def test_a_recording_that_breaks_off_is_a_loss_and_is_not_begun_again(tmp_path: Path) -> None:
    with camera(file(video(tmp_path / "x.avi", 12), sent=0.8), again=True) as url:
        seen = Seen(url)
    assert seen.numbers == list(range(1, len(seen.items) + 1)) and 2 < len(seen.items) < 12
    assert len(seen.losses) == 1 and f"only {len(seen.items)} of 12 frames" in seen.losses[0]


@pytest.mark.parametrize("pause", [0.0, 0.06], ids=["as fast as it goes", "as a camera"])
def test_a_recording_without_a_length_does_not_go_on_for_ever(pause: float, capsys: pytest.CaptureFixture) -> None:
    with camera(frames(range(8), pause=pause), again=True) as url:
        seen = Seen(url, patience=5)
    assert seen.numbers[-1] == (8 if pause == 0 else 16), "looked at once, or twice where it may have been a camera"
    assert "begins with the same frame" in (out := capsys.readouterr().out) or "again and again" in out
    assert len(seen.losses) == (0 if pause == 0 else 1)


def test_raw_jpegs_with_a_length_are_a_file() -> None:
    data = b"".join(cv2.imencode(".jpg", picture(seed))[1].tobytes() for seed in range(6))
    with camera(file(data), again=True) as url:
        seen = Seen(url)
    assert seen.numbers[-1] == 6 and not seen.losses


def test_one_stream_that_ends_does_not_end_the_others(tmp_path: Path) -> None:
    clip = tmp_path / "clip.avi"
    clip.write_bytes(video(clip, 3))
    listed = tmp_path / "all.streams"
    with camera(frames(range(20), pause=0.06)) as long, camera(frames(range(2))) as short:
        listed.write_text(f"\ufeff# north\n{long}\n\n  # south\n{short}  # door\nclip.avi\n", encoding="utf-8")
        seen = Seen(str(listed), patience=0)
    by_name: dict[str, list[int]] = {}
    for item in seen.items:
        by_name.setdefault(item.relative.name, []).append(item.frame)
    assert len(by_name) == 3 and [numbers[-1] for numbers in by_name.values()] == [20, 2, 3]
    assert len(seen.losses) == 2, "two cameras that went, and a file that was read to its end"


def test_one_camera_given_twice_has_two_names() -> None:
    with camera(frames(range(3)), again=True) as url:
        names = {item.relative for item in Seen(url, url, patience=0).items}
    assert len(names) == 2


def test_frames_that_come_while_the_network_is_busy_are_passed_over_and_counted() -> None:
    with camera(frames(range(30), pause=0.03)) as url:
        seen = Seen(url, patience=0, slow=0.2)
    assert len(seen.items) < 12 and seen.numbers[-1] == 30


def refused() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (lambda: f"rtsp://user:secret@{refused()}/x", "connection refused"),
        (lambda: f"http://{refused()}/x.mjpg", "connection refused"),
        (lambda: f"tcp://{refused()}", "connection refused"),
        (lambda: "73", "no such camera"),
        (lambda: "http://127.0.0.1/still.jpg?size=2", "image's address"),
        (lambda: "http://[::1/x", "expected a stream's address"),
    ],
)
def test_a_stream_that_does_not_open_is_one_line(source: Callable[[], str], expected: str, capfd) -> None:
    with pytest.raises(UserError) as raised:
        Seen(source())
    text = str(raised.value)
    assert expected in text and "\n" not in text and "secret" not in text
    assert capfd.readouterr() == ("", ""), "the libraries below complain in lines of their own"


def test_a_server_that_has_no_video_is_one_line() -> None:
    with camera(file(b"<html>please log in</html>" * 50)) as url, pytest.raises(UserError, match="not a video"):
        Seen(url)


def test_frames_that_arrive_damaged_are_left_out_and_said() -> None:
    def script(answer) -> None:
        answer.head()
        for seed in range(6):
            if seed == 3:
                answer.write(b"--f\r\nContent-Type: image/jpeg\r\nContent-Length: 500\r\n\r\n" + bytes(500) + b"\r\n")
            answer.jpeg(seed)
            time.sleep(0.05)

    with camera(script) as url:
        seen = Seen(url, patience=0)
    assert seen.numbers[-1] == 6 and "frames arrive damaged after frame" in seen.losses[0] and len(seen.losses) == 2


@pytest.mark.parametrize("lines", ["", "# nothing yet\n\n", b"\0\1\2"], ids=["empty", "comments", "no text"])
def test_a_list_without_streams_is_one_line(tmp_path: Path, lines: str | bytes) -> None:
    listed = tmp_path / "x.streams"
    listed.write_bytes(lines if isinstance(lines, bytes) else lines.encode())
    with pytest.raises(UserError) as raised:
        Seen(str(listed))
    assert "x.streams" in str(raised.value) and "\n" not in str(raised.value)


def test_no_answer_holds_up_neither_the_start_nor_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streams_module, "SILENCE", 0.5)
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        began = time.monotonic()
        with pytest.raises(UserError, match="nothing came in time"):
            Seen(f"http://127.0.0.1:{silent.getsockname()[1]}/x.mjpg")
    assert time.monotonic() - began < 4


class FakeCamera:
    """OpenCV's camera, of which a test says what it gives each time it is opened."""

    given: ClassVar[list[list[np.ndarray]]] = []

    def __init__(self, number: int) -> None:
        self.frames = list(self.given.pop(0)) if self.given else None

    def isOpened(self) -> bool:  # noqa: N802 (OpenCV's name)
        return self.frames is not None

    def read(self) -> tuple[bool, np.ndarray | None]:
        time.sleep(0.03)
        return (True, self.frames.pop(0)) if self.frames else (False, None)

    def get(self, which: int) -> float:
        return float("nan")

    def release(self) -> None:
        """Nothing is held."""


def test_a_camera_that_is_unplugged_comes_back_with_grey_and_other_frames(monkeypatch: pytest.MonkeyPatch) -> None:
    grey, deep, alpha = picture(1)[..., 0], picture(2)[..., 0].astype(np.uint16) << 8, np.dstack([picture(3)] * 2)[..., :4]
    monkeypatch.setattr(FakeCamera, "given", [[picture(0), grey], [deep, alpha, picture(4)]])
    monkeypatch.setattr(captures.cv2, "VideoCapture", FakeCamera)
    seen = Seen("0")
    assert seen.numbers == [1, 2, 3, 4, 5] and {image.shape for image in seen.frames} == {(64, 64, 3)}
    assert {image.dtype for image in seen.frames} == {np.dtype(np.uint8)}
    assert (seen.frames[2][..., 1] == picture(2)[..., 0]).all() and (seen.frames[3] == picture(3)).all()
    assert len(seen.losses) == 2 and "the camera gives no image" in seen.losses[0] and seen.items[0].fps == 0


def test_an_error_of_ours_in_a_thread_is_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(captures.cv2, "VideoCapture", lambda number: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        Seen("0")


def video(path: Path, count: int) -> bytes:
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"MJPG"), 5.0, (64, 64))
    for seed in range(count):
        writer.write(picture(seed))
    writer.release()
    return path.read_bytes()
