"""Cameras and network streams as a source of the predictor: all of them at once, each at its own pace."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator
from itertools import chain, count
from pathlib import Path, PurePath
from threading import Condition

import numpy as np

from cfg.errors import UserError
from data.streams.addresses import listed_streams, without_password
from data.streams.stream import Stream
from engine.detection.items import Batch, Item, Prepare, Report, batched
from engine.detection.youtube import find_video

from ultralytics.data.loaders import SourceTypes
from ultralytics.utils import ops

SIGNALS = 0.5  # seconds between two looks at Ctrl-C, where waiting for a frame does not end at once
LONGEST_NAME = 100  # characters of a file name that a stream's address gives; a signed URL has thousands
FAREWELL = 0.5  # seconds for the threads to end; one that waits for the network takes longer, and is left


class StreamSource:
    """Frames of cameras and network streams, in batches of those that have come since the last one.

    Args:
        sources: camera numbers, URLs, and ``.streams`` files with one of these, or one video file, per line.
        lose: called with (stream, reason) when frames are lost.
        patience: seconds in which a stream that has broken off is connected again, or given up.

    Attributes:
        batch: most frames per batch. To be set before the iteration, as is `prepare`.
        prepare: makes of a frame what the network takes.

    Raises:
        UserError: a list cannot be read, or a stream cannot be opened.
    """

    mode = "stream"
    source_type = SourceTypes(stream=True)

    def __init__(self, sources: Iterable[str], lose: Report, patience: float) -> None:
        addresses = [address for source in sources for address in listed_streams(source)]
        self.lose = lose
        self.batch = 1
        self.prepare: Prepare = np.asarray
        self.news = Condition()
        self.shown = [without_password(address) for address in addresses]
        self.relative = file_names(self.shown)
        self.streams = [Stream(address, patience, self.news, find_video) for address in addresses]
        try:
            self._await_first_frames()
        except BaseException:
            self.close()
            raise

    def __iter__(self) -> Iterator[Batch]:
        while True:
            with self.news:
                while not self._has_news():
                    self.news.wait(SIGNALS)
                over = all(stream.ended for stream in self.streams)
                taken = [(stream.frame, stream.notices) for stream in self.streams]
                for stream in self.streams:
                    stream.frame, stream.notices = None, []
                self.news.notify_all()
            yield from batched(self._pictures([frame for frame, _ in taken]), self.batch)
            self._announce([notices for _, notices in taken])
            if over:
                return

    def close(self) -> None:
        """Have the threads end; one that the network holds up for longer is left behind."""
        for stream in self.streams:
            stream.stop()
        deadline = time.monotonic() + FAREWELL
        for stream in self.streams:
            stream.thread.join(max(0.0, deadline - time.monotonic()))

    def _await_first_frames(self) -> None:
        with self.news:
            while not all(stream.opened for stream in self.streams):
                for shown, stream in zip(self.shown, self.streams, strict=True):
                    if stream.crash:
                        raise stream.crash
                    if stream.failure:
                        raise UserError(f"--source {shown}: expected a stream that opens, got: {stream.failure}; check "
                                        "the camera number, address and network")
                self.news.wait(SIGNALS)
        for number, shown in enumerate(self.shown, start=1):
            print(f"stream {number}/{len(self.streams)} {shown}: open", flush=True)

    def _has_news(self) -> bool:
        return any(s.frame or s.notices for s in self.streams) or all(s.ended for s in self.streams)

    def _pictures(self, frames: list[tuple[int, np.ndarray] | None]) -> Iterator[tuple[Item, np.ndarray]]:
        for index, frame in enumerate(frames):
            if frame is None:
                continue
            number, image_bgr = frame
            began = time.perf_counter()
            prepared = self.prepare(image_bgr)
            item = Item(
                path=Path(self.streams[index].address),
                relative=self.relative[index],
                kind="stream",
                label=f"stream {index + 1}/{len(self.streams)} (frame {number})",
                source=self.shown[index],
                prepared=prepared,
                frame=number,
                fps=self.streams[index].fps,
                seconds=time.perf_counter() - began,
            )
            yield item, image_bgr

    def _announce(self, notices: list[list[tuple[str, bool]]]) -> None:
        for shown, stream, told in zip(self.shown, self.streams, notices, strict=True):
            for text, lost in told:
                if lost:
                    self.lose(shown, text)
                else:
                    print(f"{shown}: {text}", flush=True)
            if stream.crash:
                raise stream.crash


def file_names(shown: Iterable[str]) -> list[PurePath]:
    """Return a file name for each address, no two the same: its unusual characters replaced, its end cut off."""
    names: list[str] = []
    for address in shown:
        name = ops.clean_str(address).replace("/", "_").replace(os.sep, "_")[:LONGEST_NAME]
        numbered = (f"{name}-{number}" for number in count(2))
        names.append(next(free for free in chain([name], numbered) if free not in names))
    return [PurePath(name) for name in names]
