"""The frames of video files, network streams and cameras, as they were received: never scaled, repeated or made up.

PyAV reads files and streams, OpenCV local cameras. OpenCV's reader of files gives every frame the size of the first,
hands on what a decoder has filled in where data were missing, and does not tell an end from a failure.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import av
import cv2
import numpy as np
from cv2.utils import logging as cv2_log

from data.decode import as_bgr
from data.streams.frames import believable_fps
from data.streams.timeline import Timeline

USUAL_FPS = 25.0
SILENCE = 15.0  # seconds in which a stream has to answer, and then to send its next image
DECODERS = 4  # threads of a file's decoder, on any machine: with 16, H.264 lost 13 frames of 24 where 3 were damaged
OPTIONS = {
    "rtsp_flags": "prefer_tcp",
    "fflags": "discardcorrupt",  # of a packet that was cut off, a decoder makes half an image
}
USER_OPTIONS = "OPENCV_FFMPEG_CAPTURE_OPTIONS"  # where users of OpenCV and ultralytics write rtsp_transport;udp
PLAYLISTS = frozenset({"concat", "dash", "hls", "imf", "sdp"})  # formats of files that name other files


class CaptureError(Exception):
    """A source that cannot be opened, or has broken off; the message is the reason."""


class Capture(Protocol):
    """An open source of frames.

    Attributes:
        fps: frames per second by its own account, 0 where it has none.
        finite: whether it has an end that is known: a file, here or on a server, which waits for its reader.
        damaged: frames left out until now because they were not received whole.
    """

    fps: float
    finite: bool
    damaged: int

    def __iter__(self) -> Iterator[np.ndarray]:
        """Yield frames, (H, W, 3) BGR uint8, until the source ends. Raises `CaptureError` when it breaks off."""

    def close(self) -> None:
        """Let go of the source."""


class MediaCapture:
    """A video file or a network stream.

    Args:
        address: path or URL.
        timeout: seconds it has for its answer.

    Attributes:
        frames: how many frames its header promises, 0 where it does not say.
        measured: whether its header says how many frames or seconds it has.

    Raises:
        CaptureError: it cannot be opened, or holds no video.
    """

    def __init__(self, address: str, timeout: float = SILENCE) -> None:
        local = os.path.exists(address)
        try:
            self.container = av.open(address, timeout=(timeout, SILENCE), options=_options())
        except (av.FFmpegError, OSError, ValueError) as error:
            raise CaptureError(_reason(error)) from None
        stream = self.container.streams.best("video")
        if not isinstance(stream, av.VideoStream) or (local and self._is_playlist()):
            self.container.close()
            raise CaptureError("not a video" if stream else "without a video in it")
        self.stream = stream
        if local:
            self.stream.thread_type = "AUTO"  # frame by frame in threads, which would make a camera's images late
            self.stream.codec_context.thread_count = DECODERS
        self.fps = believable_fps(float(self.stream.average_rate or self.stream.guessed_rate or 0))
        self.frames = self.stream.frames
        self.duration = (self.container.duration or 0) / av.time_base
        self.closed = not (local and self.container.format.name == "gif") or _is_closed_gif(Path(address))
        self.alone = len(self.container.streams) == 1
        self.measured = bool(self.frames or self.duration)
        self.finite = local or self.measured or (self.container.size > 0 and not self._is_playlist())
        self.damaged = self.discarded = 0
        self.timeline = Timeline(self.fps or USUAL_FPS)

    def __iter__(self) -> Iterator[np.ndarray]:
        for packet in self._packets():
            self.discarded += packet.is_discard
            try:
                whole = [(frame, _upright(frame)) for frame in packet.decode() if not self._is_damaged(frame)]
            except (av.FFmpegError, ValueError):
                self._note_damage()
                continue
            for frame, image in whole:
                self.timeline.note(frame.time or 0.0, float((frame.duration or 0) * (frame.time_base or 0)))
                yield image

    @property
    def received(self) -> int:
        """Frames given until now."""
        return self.timeline.frames

    def _is_playlist(self) -> bool:
        return not PLAYLISTS.isdisjoint(self.container.format.name.split(","))

    def _packets(self) -> Iterator[av.Packet[av.VideoStream]]:
        try:
            yield from self.container.demux(self.stream)
        except av.FFmpegError as error:
            raise CaptureError("connection closed" if error.errno == errno.EIO else _reason(error)) from None

    def _is_damaged(self, frame: av.VideoFrame) -> bool:
        if frame.is_corrupt:
            self._note_damage()
        return frame.is_corrupt

    def _note_damage(self) -> None:
        # One who joins a stream lacks what its first frames refer to; that is no loss.
        self.damaged += self.finite or self.received > 0

    def shortfall(self) -> str:
        """Say what of a file that has been read to its end did not come; an empty text where nothing is missing."""
        shown = self.frames - self.discarded  # an edited file keeps frames that are not to be shown
        promised = max(shown, self.received + max(self.damaged, 0 if self.frames else self.timeline.missing))
        if self.received < promised:
            return f"only {self.received} of {promised} frames can be read"
        if not self.closed:
            return "it ends in the middle of a frame"
        if self.frames:
            return ""
        seen = self.timeline.until - self.timeline.began
        slack = max(2 / self.timeline.fps, 0.02 * self.duration, 0.0 if self.alone else 1.0)  # a sound may go on
        return f"only {seen:.1f} of {self.duration:.1f} s can be read" if seen < self.duration - slack else ""

    def close(self) -> None:
        """Let go of the file or connection."""
        self.container.close()


class CameraCapture:
    """A camera of this machine by its number. Raises `CaptureError` where there is none of that number."""

    finite, damaged = False, 0

    def __init__(self, number: int) -> None:
        level = cv2_log.getLogLevel()
        cv2_log.setLogLevel(cv2_log.LOG_LEVEL_SILENT)  # each way to the system's cameras would complain by itself
        try:
            self.capture = cv2.VideoCapture(number)
            if not self.capture.isOpened():
                raise CaptureError("no such camera, or another program uses it")
        except cv2.error:
            raise CaptureError("no such camera") from None
        finally:
            cv2_log.setLogLevel(level)
        self.fps = believable_fps(self.capture.get(cv2.CAP_PROP_FPS))

    def __iter__(self) -> Iterator[np.ndarray]:
        while True:
            try:
                given, image = self.capture.read()
            except cv2.error:
                given, image = False, None
            if not given or image is None:
                raise CaptureError("the camera gives no image")
            yield as_bgr(image)

    def close(self) -> None:
        """Let go of the camera."""
        self.capture.release()


def frame_count(path: Path) -> int:
    """Return how many frames a video file holds by its header; 0 for a file that is no video."""
    try:
        with av.open(str(path)) as container:
            return sum(stream.frames for stream in container.streams.video)
    except av.FFmpegError:
        return 0


def _upright(frame: av.VideoFrame) -> np.ndarray:
    image = frame.to_ndarray(format="bgr24")
    quarters = round(frame.rotation / 90) % 4  # as a phone held it
    return np.ascontiguousarray(np.rot90(image, quarters)) if quarters else image


def _is_closed_gif(path: Path) -> bool:
    """Whether a GIF ends with its end marker: FFmpeg takes what there is for all there was."""
    return path.read_bytes().rstrip(b"\0").endswith(b";")


def _options() -> dict[str, str]:
    """FFmpeg's options: ours, and what the environment says as ``name;value|name;value``."""
    pairs = (pair.split(";", 1) for pair in os.environ.get(USER_OPTIONS, "").split("|") if ";" in pair)
    return OPTIONS | {name: value for name, value in pairs}


def _reason(error: Exception) -> str:
    if isinstance(error, av.error.ExitError):
        return "nothing came in time"
    if getattr(error, "errno", None) == errno.EIO:
        return "no connection, or no video there"
    if isinstance(error, av.error.InvalidDataError):
        return "not a video, or its data are corrupt"
    return str(getattr(error, "strerror", None) or error).lower()
