"""RTSP from a real server, for detect.py and for the service; it is killed and comes back. And cameras that are not there."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
import camera_server
import rtsp_server
from line_servers import free_port, until

from data.streams import captures
from data.streams.captures import CaptureError, MediaCapture
from service import backoff
from service.cameras import live, open_cameras
from service.cameras.options import StreamOptions

needs_rtsp = pytest.mark.skipif(bool(rtsp_server.missing()), reason=rtsp_server.missing() or "none")


class Service:
    """Runs a camera; `seen` are its frames and names. Each takes some seconds, the first ones end in `faults`."""

    def __init__(self, address: str, seconds: float = 0.0, faults: Sequence[Exception] = ()) -> None:
        self.seen: list[tuple[np.ndarray, str]] = []
        self.stop, self.seconds, self.faults = threading.Event(), seconds, list(faults)
        self.camera = open_cameras([StreamOptions(address, address.replace("user:secret@", ""))], Path("unused"))[0]
        self.thread = threading.Thread(target=self.camera.run, args=(self.submit, self.stop), daemon=True)
        self.thread.start()

    def submit(self, picture: np.ndarray, source: str) -> None:
        if self.faults:
            raise self.faults.pop()
        self.seen.append((picture, source))
        time.sleep(self.seconds)

    def end(self) -> None:
        self.stop.set()
        self.thread.join(5)
        assert not self.thread.is_alive()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "Backoff", lambda first: backoff.Backoff(0.1, 0.2))
    monkeypatch.setattr("data.streams.stream.FIRST_PAUSE", 0.1)
    monkeypatch.setattr("data.streams.stream.LONGEST_PAUSE", 0.2)


@needs_rtsp
def test_detect_reads_rtsp_and_goes_on_after_the_server_was_killed() -> None:
    from engine.detection.stream_source import StreamSource

    port, losses, numbers, shapes = free_port(), [], [], set()
    with ExitStack() as first, ExitStack() as second:
        url = first.enter_context(rtsp_server.camera(port, password="secret"))

        def lose(name: str, reason: str) -> None:
            losses.append(f"{name}: {reason}")
            second.enter_context(rtsp_server.camera(port, width=320, height=240, password="secret"))

        source = StreamSource([url], lose, 15.0)
        second.callback(source.close)
        for _, images, items in source:
            numbers += [item.frame for item in items]
            shapes |= {image.shape for image in images}
            if len(numbers) == 3:
                first.close()
            if (240, 320, 3) in shapes:
                break
    assert numbers == sorted(set(numbers)) and shapes == {(120, 160, 3), (240, 320, 3)}
    assert len(losses) == 1 and losses[0].endswith("(connection closed); connecting again")
    assert losses[0].startswith(f"rtsp://127.0.0.1:{port}/line: no frame after frame "), "without user and password"


@needs_rtsp
def test_what_an_rtsp_server_refuses_is_said() -> None:
    with rtsp_server.camera(free_port(), password="secret") as url:
        for wrong, reason in ((url.replace("secret", "wrong"), "401 unauthorized"), (f"{url}-2", "404 not found")):
            with pytest.raises(CaptureError, match=reason):
                MediaCapture(wrong)


@needs_rtsp
def test_the_service_reads_rtsp_and_connects_again_for_ever(caplog) -> None:
    port = free_port()
    service = Service(f"rtsp://user:secret@127.0.0.1:{port}/line")
    until(lambda: "connection refused" in service.camera.state().reason)
    assert not service.camera.healthy() and not service.seen, "no images, no outcomes"
    for codec in ("jpeg", "h264"):
        with rtsp_server.camera(port, codec, password="secret"):
            before = len(service.seen)
            until(lambda: len(service.seen) > before + 5)  # noqa: B023
            assert service.camera.healthy() and service.seen[-1][1] == f"rtsp://127.0.0.1:{port}/line"
        until(lambda: not service.camera.healthy())
    service.end()
    frames = [frame for frame, _ in service.seen]
    assert {frame.shape for frame in frames} == {(120, 160, 3)} and all(frame.max() > 150 for frame in frames), "the ball is white"
    assert "secret" not in caplog.text and "frames come" in caplog.text


def test_frames_that_come_while_another_is_inspected_are_counted() -> None:
    with camera_server.camera(camera_server.frames(range(20), pause=0.03, hang=1.0)) as url:
        service = Service(url, seconds=0.15)
        until(lambda: service.camera.submitted + service.camera.skipped >= 20)
        service.end()
    assert service.camera.state().skipped > 5 and service.camera.submitted == len(service.seen)


def test_a_stream_that_ends_is_connected_again() -> None:
    with camera_server.camera(camera_server.frames(range(3)), camera_server.frames(range(10, 13)), again=True) as url:
        service = Service(url)
        until(lambda: len(service.seen) > 8)
        service.end()


class Device:
    """OpenCV's camera 7, which is plugged in for four images at a time."""

    plugged = 0

    def __init__(self, number: int) -> None:
        assert number == 7
        self.left = 4 if Device.plugged else 0
        Device.plugged -= 1

    def isOpened(self) -> bool:  # noqa: N802  (OpenCV's name)
        return self.left > 0

    def read(self) -> tuple[bool, np.ndarray | None]:
        time.sleep(0.02)
        self.left -= 1
        return self.left >= 0, np.full((4, 6), self.left, np.uint8)

    def get(self, which: int) -> float:
        return 0.0

    def release(self) -> None:
        """Nothing is held."""


def test_a_device_that_is_unplugged_and_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(captures.cv2, "VideoCapture", Device)
    Device.plugged = 2
    service = Service("7")
    until(lambda: len(service.seen) == 8)
    until(lambda: not service.camera.healthy())
    assert {frame.shape for frame, _ in service.seen} == {(4, 6, 3)} and service.camera.state().reason
    service.end()


def test_a_service_that_takes_no_pictures_does_not_end_the_camera(caplog) -> None:
    with camera_server.camera(camera_server.frames(range(50)), again=True) as url:
        service = Service(url, faults=[RuntimeError("the disk is full")])
        until(lambda: service.camera.submitted > 3)
        service.end()
    assert "RuntimeError: the disk is full; connecting again" in caplog.text
