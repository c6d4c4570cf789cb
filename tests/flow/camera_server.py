"""A camera on 127.0.0.1: MJPEG over HTTP, with a script for each connection."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import cv2
import numpy as np

HEADER = b"--f\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n"


class Answer:
    """What a script writes with: the connection to one client."""

    def __init__(self, handler: BaseHTTPRequestHandler) -> None:
        self.handler, self.write = handler, handler.wfile.write

    def head(self, kind: str = "multipart/x-mixed-replace; boundary=f", length: int | None = None) -> None:
        self.handler.send_response(200)
        self.handler.send_header("Content-Type", kind)
        if length is not None:
            self.handler.send_header("Content-Length", str(length))
        self.handler.end_headers()

    def jpeg(self, seed: int, height: int = 64, width: int = 64, keep: float = 1.0) -> None:
        """Send an image, `keep` of it where it is cut off."""
        data = cv2.imencode(".jpg", picture(seed, height, width))[1].tobytes()
        self.write(HEADER % len(data) + data[: int(keep * len(data))] + b"\r\n" * (keep == 1.0))


Script = Callable[[Answer], None]


def picture(seed: int, height: int = 64, width: int = 64) -> np.ndarray:
    """An image that differs from that of any other seed, never dark."""
    coarse = np.random.default_rng(seed).integers(60, 256, (8, 8, 3), dtype=np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_NEAREST)


def frames(seeds: range, pause: float = 0.05, height: int = 64, width: int = 64, hang: float = 0.0) -> Script:
    """A connection that sends images, then nothing for `hang` seconds, and is closed."""

    def script(answer: Answer) -> None:
        answer.head()
        for seed in seeds:
            answer.jpeg(seed, height, width)
            time.sleep(pause)
        time.sleep(hang)

    return script


def cut_off(seeds: range) -> Script:
    """A connection that is closed in the middle of its last image."""

    def script(answer: Answer) -> None:
        answer.head()
        for seed in seeds:
            answer.jpeg(seed, keep=0.5 if seed == seeds[-1] else 1.0)
            time.sleep(0.03)

    return script


def file(data: bytes, length: bool = True, sent: float = 1.0) -> Script:
    """A file on a server, whose length is told or not; `sent` of it comes."""

    def script(answer: Answer) -> None:
        answer.head("application/octet-stream", len(data) if length else None)
        answer.write(data[: int(sent * len(data))])

    return script


@contextmanager
def camera(*scripts: Script, again: bool = False) -> Iterator[str]:
    """Serve the scripts, one for each connection, and then refuse; the last one for ever if `again`. Yields the URL."""
    waiting, lock = list(scripts), threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *args: object) -> None:
            """Say nothing."""

        def do_GET(self) -> None:
            with lock:
                script = (waiting.pop(0) if len(waiting) > 1 or not again else waiting[0]) if waiting else None
            if script is None:
                self.send_error(503)
                return
            try:
                script(Answer(self))
            except OSError:
                """The client has gone."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads, server.block_on_close = True, False
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/x.mjpg"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
