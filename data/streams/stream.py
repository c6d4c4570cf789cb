"""One camera or network stream, read in a thread of its own: only what was received, and every loss reported."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import chain
from threading import Condition, Event, Thread

import numpy as np

from data.streams.addresses import is_camera
from data.streams.captures import SILENCE, USUAL_FPS, CameraCapture, Capture, CaptureError, MediaCapture

FIRST_PAUSE, LONGEST_PAUSE = 0.5, 8.0  # seconds between two attempts to connect again; each pause is twice the one before
LEAST_TIMEOUT = 1.0  # seconds that even the last attempt has
TOO_FAST = 3.0  # frames that come so many times as fast as a camera takes them are a recording


class Connection:
    """One connection to a stream, open and with its first frame received.

    Args:
        address: number of a camera, URL, or path of a video file.
        timeout: seconds it has for its answer.

    Attributes:
        capture: where the frames come from.
        frames: how many were given until now.

    Raises:
        CaptureError: there is no connection, or no frame.
    """

    def __init__(self, address: str, timeout: float) -> None:
        self.began = time.monotonic()
        self.capture: Capture = _open(address, timeout)
        self.frames = 0
        try:
            self.pictures = iter(self.capture)
            self.first = self.last = next(self.pictures)
        except (CaptureError, StopIteration) as error:
            self.capture.close()
            raise CaptureError(str(error) or "it ends without a frame") from None

    def __iter__(self) -> Iterator[np.ndarray]:
        """Yield frames, (H, W, 3) BGR uint8. Raises `CaptureError` when it breaks off."""
        for picture in chain([self.first], self.pictures):
            self.last = picture
            self.frames += 1
            yield picture

    def outran_a_camera(self) -> bool:
        """Whether the frames came so fast that they were not taken while they were sent."""
        seconds = time.monotonic() - self.began
        return self.frames > TOO_FAST * (self.capture.fps or USUAL_FPS) * seconds

    def begins_like(self, former: Connection) -> bool:
        """Whether the first frame is the same, to the pixel. Of a lit scene no camera takes the same image twice."""
        return np.array_equal(self.first, former.first)

    def repeats(self, former: Connection) -> bool:
        """Whether, now that both have ended, they gave the same frames by all that is known of them."""
        return self.frames == former.frames and self.begins_like(former) and np.array_equal(self.last, former.last)


class Stream:
    """A stream and the thread that reads it.

    A camera's latest frame waits to be taken, and replaces one that was not; a source with an end waits until each of its
    frames was taken. A stream that breaks off is connected again, and its frames go on being counted.

    Args:
        address: number of a camera, URL, or path of a video file.
        patience: seconds in which a stream that has broken off is connected again, or given up; infinite: never given up.
        news: notified when there is something to take. To be held when the attributes below are read.
        find: gives the address to open now, for each connection anew, where `address` is only a page about it. May raise
            `CaptureError`.

    Attributes:
        frame: number, from 1, and pixels of the frame that waits, (H, W, 3) BGR uint8; None if none does.
        notices: what is to be told, and whether frames were lost by it.
        fps: frames per second by its own account.
        opened: whether the first frame has been received.
        connected: whether frames come at present.
        ended: whether no frame will come any more.
        failure: why it could not be opened, empty if it was.
        crash: an error of ours in the thread.
    """

    def __init__(self, address: str, patience: float, news: Condition, find: Callable[[str], str] = str) -> None:
        self.address, self.patience, self.news, self.find = address, patience, news, find
        self.frame: tuple[int, np.ndarray] | None = None
        self.notices: list[tuple[str, bool]] = []
        self.fps = 0.0
        self.opened = self.connected = self.ended = False
        self.failure = ""
        self.crash: Exception | None = None
        self.received = 0
        self.stopped = Event()
        # A daemon: one that waits for an answer from the network must not keep the program from its end.
        self.thread = Thread(target=self._run, name="stream", daemon=True)
        self.thread.start()

    def stop(self) -> None:
        """Ask the thread to end. Held up by the network, it does so later, and gives nothing any more."""
        self.stopped.set()
        with self.news:
            self.news.notify_all()

    def _run(self) -> None:
        try:
            self._watch()
        except Exception as error:  # raised again by the thread that takes the frames
            self.crash = error
        with self.news:
            self.ended = True
            self.news.notify_all()

    def _watch(self) -> None:
        """Read connection after connection until the stream ends, is given up or stopped."""
        try:
            connection: Connection | None = self._connect(SILENCE)
        except CaptureError as error:
            self.failure = str(error)
            return
        former = None
        while connection:
            with self.news:
                self.opened = self.connected = True
            try:
                reason = self._read(connection)
            finally:
                self.connected = False
                connection.capture.close()
            former, connection = connection, self._next(connection, former, reason)

    def _connect(self, timeout: float) -> Connection:
        return Connection(self.find(self.address), timeout)

    def _read(self, connection: Connection) -> str:
        """Hand on the frames of a connection; return why it broke off, an empty text where it came to its end."""
        damage_told = connection.capture.finite  # a file's damage is told at its end
        self.fps = connection.capture.fps
        try:
            for image in connection:
                self._offer(image, waits=connection.capture.finite)
                if connection.capture.damaged and not damage_told:
                    damage_told = True
                    self._tell(f"frames arrive damaged after frame {self.received}, and are left out", lost=True)
                if self.stopped.is_set():
                    break
        except CaptureError as error:
            return str(error)
        return ""

    def _next(self, connection: Connection, former: Connection | None, reason: str) -> Connection | None:
        """Return what follows a connection that has ended: another, or None."""
        if self.stopped.is_set():
            return None
        if isinstance(connection.capture, MediaCapture) and connection.capture.finite:
            missing = connection.capture.shortfall() or (reason if not connection.capture.measured else "")
            self._tell(f"ended after frame {self.received}{missing and ': '}{missing}", lost=bool(missing))
            return None
        if former and connection.repeats(former):
            self._tell(f"ended after frame {self.received}: it sends the same {former.frames} frames again and again")
            return None
        return self._reconnect(connection, reason)

    def _reconnect(self, former: Connection, reason: str) -> Connection | None:
        """Return a new connection, None when the stream is over: given up, or a recording that would begin anew."""
        recorded = former.outran_a_camera()
        drop = f"no frame after frame {self.received} ({reason or 'connection closed'})"
        if not recorded:
            self._tell(f"{drop}; connecting again" if self.patience else drop, lost=True)
        began = time.monotonic()
        connection = self._try_again()
        if connection and recorded and connection.begins_like(former):
            self._tell(f"ended after frame {self.received}: asked again, it begins with the same frame")
            connection.capture.close()
            return None
        if recorded:
            self._tell(drop, lost=True)
        if connection:
            self._tell(f"connected again after {time.monotonic() - began:.1f} s")
        elif self.patience and not self.stopped.is_set():
            self._tell(f"given up after frame {self.received}: no connection in {self.patience:g} s")
        return connection

    def _try_again(self) -> Connection | None:
        """Return a new connection, None when there is none within the patience or the stream was stopped."""
        deadline, pause = time.monotonic() + self.patience, FIRST_PAUSE
        while (left := deadline - time.monotonic()) > 0 and not self.stopped.wait(min(pause, left)):
            pause = min(2 * pause, LONGEST_PAUSE)
            with suppress(CaptureError):
                return self._connect(max(LEAST_TIMEOUT, min(SILENCE, deadline - time.monotonic())))
        return None

    def _offer(self, image: np.ndarray, waits: bool) -> None:
        with self.news:
            if waits:
                self.news.wait_for(lambda: self.frame is None or self.stopped.is_set())
            self.received += 1
            self.frame = self.received, image
            self.news.notify_all()

    def _tell(self, text: str, lost: bool = False) -> None:
        with self.news:
            self.notices.append((text, lost))
            self.news.notify_all()


def _open(address: str, timeout: float) -> Capture:
    if is_camera(address):
        return CameraCapture(int(address))
    return MediaCapture(address, timeout)
