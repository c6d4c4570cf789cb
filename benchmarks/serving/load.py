"""Clients of a service, and the bare network: how long each image takes."""

from __future__ import annotations

import http.client
import json
import math
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from benchmarks.serving.process import Service
from service.exported import read_exported
from service.inspector import Inspector, Limits
from service.network import open_network, pictures_through


@dataclass
class Load:
    """What clients saw.

    Attributes:
        seconds: of each image with a verdict, from sending to the whole answer.
        refused: of each answer 503.
        undecided: how many verdicts were UNDEFINED, as of images that waited for longer than `--timeout`; their times count too.
        failed: other answers, and connections that broke.
        elapsed: seconds that the clients asked.
        processor: seconds of processor time that the service spent, or whoever looked at the images.
    """

    seconds: list[float] = field(default_factory=list)
    refused: list[float] = field(default_factory=list)
    undecided: int = 0
    failed: int = 0
    elapsed: float = 0.0
    processor: float = math.nan

    def row(self) -> dict[str, float]:
        """Images per second, and percentiles in ms."""
        times = np.array(self.seconds or [np.nan]) * 1e3
        told = {f"p{share}": float(np.percentile(times, share)) for share in (50, 95, 99)}
        rates = {"images": len(self.seconds), "per_second": len(self.seconds) / self.elapsed}
        spent = {"processor_ms": 1e3 * self.processor / max(len(self.seconds), 1)}
        return rates | told | spent | {"undecided": self.undecided, "refused": len(self.refused), "failed": self.failed}


def closed_loop(service: Service, pictures: Sequence[bytes], clients: int, seconds: float) -> Load:
    """`clients` that each send the next image when the last one is answered, for so many seconds."""
    return _run([(0.0, None)] * clients, service, pictures, seconds)


def open_loop(service: Service, pictures: Sequence[bytes], per_second: float, seconds: float, clients: int = 8) -> Load:
    """So many images per second, whether or not the earlier ones are answered, as a line sends them."""
    return _run([(number / per_second, clients / per_second) for number in range(clients)], service, pictures, seconds)


def bare_network(weights: Path, threads: int, pictures: Sequence[bytes], seconds: float) -> tuple[Load, Load]:
    """The network alone, and from the bytes of an image to its boxes, in turns and in this process, for so many seconds."""
    network = open_network(read_exported(weights), threads)
    inspector = Inspector(network, None, Limits())
    inspector.inspect(pictures[0])
    inputs = np.full((1, 3, *inspector.size), 0.45, np.float32)
    alone, whole = Load(processor=0.0), Load(processor=0.0)
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        _timed(alone, lambda: pictures_through(network, inputs))
        _timed(whole, lambda: inspector.inspect(pictures[len(whole.seconds) % len(pictures)]))
    return alone, whole


def together(parts: Sequence[Load]) -> Load:
    """Several measurements as one."""
    seconds, refused = ([one for part in parts for one in getattr(part, name)] for name in ("seconds", "refused"))
    return Load(seconds, refused, *(sum(getattr(part, name) for part in parts) for name in ("undecided", "failed", "elapsed", "processor")))


def _timed(load: Load, work: Callable[[], object]) -> None:
    began, used = time.perf_counter(), time.process_time()
    work()
    load.seconds.append(time.perf_counter() - began)
    load.elapsed += load.seconds[-1]
    load.processor += time.process_time() - used


def _run(pace: list[tuple[float, float | None]], service: Service, pictures: Sequence[bytes], seconds: float) -> Load:
    """Run clients: each begins after so many seconds, and sends at intervals, or without where there is none."""
    load, lock, used, began = Load(), threading.Lock(), service.processor_seconds(), time.perf_counter()
    threads = [threading.Thread(target=_client, args=(load, lock, service.port, pictures, began, seconds, *one)) for one in pace]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    load.elapsed, load.processor = time.perf_counter() - began, service.processor_seconds() - used
    return load


def _client(load: Load, lock: threading.Lock, port: int, pictures: Sequence[bytes], began: float, seconds: float,
            first: float, interval: float | None) -> None:  # fmt: skip
    connection, number = http.client.HTTPConnection("127.0.0.1", port, timeout=120), 0
    while True:
        due = began + first + number * interval if interval else time.perf_counter()
        time.sleep(max(0.0, due - time.perf_counter()))
        start = due if interval else time.perf_counter()  # an image that had to wait for the client's earlier one waited, too
        if start - began >= seconds:
            break
        status, verdict = _ask(connection, pictures[number % len(pictures)])
        spent, number = time.perf_counter() - start, number + 1
        with lock:
            if status == 200:
                load.seconds.append(spent)
                load.undecided += verdict == "UNDEFINED"
            elif status == 503:
                load.refused.append(spent)
            else:
                load.failed += 1
        if status == 503 and not interval:
            time.sleep(0.2)  # as a polite client, less than Retry-After says
    connection.close()


def _ask(connection: http.client.HTTPConnection, picture: bytes) -> tuple[int, str]:
    """The status of an answer, 0 where the connection broke, and the verdict in it."""
    try:
        connection.request("POST", "/inspect", picture)
        answer = connection.getresponse()
        content = json.loads(answer.read())
        return answer.status, content["Verdict"]
    except (OSError, http.client.HTTPException):
        connection.close()
        return 0, ""
