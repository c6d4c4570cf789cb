"""A camera of this machine or a network stream: each frame as it comes, or the latest where inspection is slower."""

from __future__ import annotations

import math
from collections.abc import Iterator
from threading import Condition, Event
from typing import TYPE_CHECKING

import numpy as np

from data.streams.stream import Stream
from service.backoff import Backoff
from service.cameras.options import CameraState, StreamOptions
from service.telling import Teller

if TYPE_CHECKING:
    from service.events import Submit

SIGNALS = 0.5  # seconds between two looks at whether to stop


class LiveCamera:
    """Submits only what was received: while the camera is away there are no images, and so no outcomes.

    Args:
        options: which camera.
        teller: takes what happens.

    Attributes:
        submitted: frames that have had their outcome.
        skipped: frames that came while another was inspected, and were replaced by later ones.
    """

    def __init__(self, options: StreamOptions, teller: Teller) -> None:
        self.name, self.address, self.teller = options.shown, options.address, teller
        self.submitted = self.skipped = 0
        self.reason = "not connected yet"
        self._news = Condition()
        self._stream: Stream | None = None

    def run(self, submit: Submit, stop: Event) -> None:
        """Submit frames until `stop` is set; connect again for ever."""
        backoff = Backoff(1.0)
        while not stop.is_set():
            self._stream = Stream(self.address, math.inf, self._news)
            try:
                for frame in self._frames(self._stream, stop):
                    backoff.reset()
                    submit(frame, self.name)
                    self.submitted += 1
                self._ended(self._stream)
            except Exception as error:  # of the service, which does not take images now, or a bug of ours
                self._unhealthy(f"{type(error).__name__}: {error}")
            finally:
                self._stream.stop()
            stop.wait(backoff.next())

    def healthy(self) -> bool:
        """Whether frames come at present."""
        return not self.reason

    def state(self) -> CameraState:
        """How it is now; `skipped` counts frames that were replaced by later ones."""
        return CameraState(self.submitted, 0, self.skipped, self.reason)

    def _frames(self, stream: Stream, stop: Event) -> Iterator[np.ndarray]:
        """Yield frames as they come, until the stream ends."""
        last = 0
        while not stop.is_set():
            with self._news:
                self._news.wait_for(lambda: stream.frame or stream.notices or stream.ended, SIGNALS)
                frame, notices, ended, connected = stream.frame, stream.notices, stream.ended, stream.connected
                stream.frame, stream.notices = None, []
                self._news.notify_all()
            for text, _ in notices:
                self.teller.change(text)
            if frame:
                number, image_bgr = frame
                self.skipped += number - last - 1
                last = number
                self._healthy()
                yield image_bgr
            elif ended:
                return
            elif not connected and not self.reason:
                self.reason = "no connection"

    def _ended(self, stream: Stream) -> None:
        if stream.crash:
            raise stream.crash
        self._unhealthy(stream.failure or "the stream has ended")

    def _healthy(self) -> None:
        if self.reason:
            self.teller.change("frames come")
        self.reason = ""

    def _unhealthy(self, reason: str) -> None:
        if reason != self.reason:
            self.reason = reason
            self.teller.change(f"{reason}; connecting again")
