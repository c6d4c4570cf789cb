"""What stands at the other end of a line, really: a broker that can be killed, a PLC, a web server that fails on purpose."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from inspection.rules import Code
from service.events import Box, Inspected

MOSQUITTO = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")
LONGEST = 20.0  # seconds that a test waits for anything


def event(number: int, verdict: Code = Code.NG, part: str = "") -> Inspected:
    """A result of its own for each number."""
    box = Box(1.0, 2.0, 3.0, 4.0, 0.9, 0, "scratch")
    return Inspected(f"m{number}", "2026-11-27T08:00:00.000Z", "http", part, "", "", verdict, "scratch 0.9 >= 0.5", 0.9,
                     (box,) * (number % 3), 640, 480, 12.5)  # fmt: skip


def until(done: Callable[[], bool], what: str = "") -> None:
    """Wait until something is so."""
    deadline = time.monotonic() + LONGEST
    while not done():
        assert time.monotonic() < deadline, f"not within {LONGEST:g} s: {what}"
        time.sleep(0.01)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


def accepts(port: int) -> bool:
    with socket.socket() as tried:
        return tried.connect_ex(("127.0.0.1", port)) == 0


class Broker:
    """Debian's mosquitto; `lines` are added to its configuration."""

    def __init__(self, folder: Path, *lines: str, port: int = 0, anonymous: bool = True) -> None:
        self.port = port or free_port()
        self.file = folder / "mosquitto.conf"
        settings = (f"listener {self.port} 127.0.0.1", "persistence false", f"allow_anonymous {str(anonymous).lower()}",
                    "user root", *lines)  # else root becomes one who cannot read the test's files
        self.file.write_text("\n".join(settings) + "\n")
        self.process: subprocess.Popen | None = None

    def start(self) -> None:
        self.process = subprocess.Popen([MOSQUITTO, "-c", self.file], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until(lambda: accepts(self.port), "mosquitto listens")

    def kill(self) -> None:
        if self.process:
            self.process.kill()
            self.process.wait()

    def __enter__(self) -> Broker:
        self.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.kill()


class Subscriber:
    """Takes what a broker has on a topic, by the port it is really on."""

    def __init__(self, port: int, topic: str = "line/#") -> None:
        import paho.mqtt.client as paho

        self.messages: list[tuple[str, bytes]] = []
        subscribed = threading.Event()
        self.client = paho.Client(paho.CallbackAPIVersion.VERSION2)
        self.client.on_message = lambda client, data, message: self.messages.append((message.topic, message.payload))
        self.client.on_subscribe = lambda *args: subscribed.set()
        self.client.connect("127.0.0.1", port)
        self.client.subscribe(topic, 0)  # sent on at once: what the broker has confirmed has left it
        self.client.loop_start()
        assert subscribed.wait(LONGEST)

    @property
    def ids(self) -> list[str]:
        return [json.loads(body)["MeasId"] for topic, body in self.messages if not topic.endswith("/status")]

    def close(self) -> None:
        self.client.loop_stop()


class Relay:
    """A TCP relay to a port, which can be shut: then the other side is gone for those who come through it."""

    def __init__(self, target: int) -> None:
        self.target, self.open = target, True
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.sockets: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def shut(self) -> None:
        self.open = False
        for connection in self.sockets:
            _end(connection)
        self.sockets.clear()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self.listener.accept()
                far = socket.create_connection(("127.0.0.1", self.target)) if self.open else None
            except OSError:
                return
            if far is None:
                near.close()
                continue
            self.sockets += [near, far]
            for a, b in ((near, far), (far, near)):
                threading.Thread(target=self._copy, args=(a, b), daemon=True).start()

    @staticmethod
    def _copy(source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                target.sendall(data)
        except OSError:
            pass
        finally:
            _end(source), _end(target)


def _end(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):  # it has ended
        connection.shutdown(socket.SHUT_RDWR)


class WebServer:
    """Keeps what is POSTed; `answers` says with which status each POST is answered, then 200.

    A status of 0 is no answer: the connection is closed.
    """

    def __init__(self, *answers: int, port: int = 0, header: dict[str, str] | None = None) -> None:
        self.answers = list(answers)
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.moments: list[float] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args: object) -> None:
                """Say nothing."""

            def do_HEAD(self) -> None:
                self.send_response(405)
                self.end_headers()

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.moments.append(time.monotonic())
                status = outer.answers.pop(0) if outer.answers else 200
                if status == 0:
                    self.close_connection = True
                    return
                if status == 200:
                    outer.bodies.append(json.loads(body))
                    outer.headers.append(dict(self.headers))
                self.send_response(status)
                for name, value in ((header or {}) if status != 200 else {}).items():
                    self.send_header(name, value)
                self.send_header("Content-Length", "0")
                self.end_headers()

        self.server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self.server.daemon_threads, self.server.block_on_close = True, False
        self.port = self.server.server_port
        self.url = f"http://127.0.0.1:{self.port}/in"
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def ids(self) -> list[str]:
        return [body["MeasId"] for body in self.bodies]

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


class Plc:
    """pymodbus's own server with 100 holding registers of unit 1; `written` has each request that wrote, `registers` the last."""

    def __init__(self, port: int = 0, registers: int = 100) -> None:
        self.port, self.count = port or free_port(), registers
        self.written: list[tuple[int, list[int]]] = []
        self.registers = [0] * registers
        self.loop = asyncio.new_event_loop()
        self.started = threading.Event()
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()
        assert self.started.wait(LONGEST)

    def _run(self) -> None:
        from pymodbus.server import ModbusTcpServer
        from pymodbus.simulator import DataType, SimData, SimDevice

        async def serve() -> None:
            device = SimDevice(1, [SimData(0, count=self.count, values=0, datatype=DataType.REGISTERS)])
            self.server = ModbusTcpServer(device, address=("127.0.0.1", self.port), trace_pdu=self._note)
            await self.server.serve_forever(background=True)
            self.started.set()

        self.loop.run_until_complete(serve())
        self.loop.run_forever()

    def _note(self, sending: bool, pdu: Any) -> Any:
        if not sending and pdu.function_code == 16 and pdu.address + len(pdu.registers) <= self.count:
            self.written.append((pdu.address, list(pdu.registers)))
            self.registers[pdu.address : pdu.address + len(pdu.registers)] = pdu.registers
        return pdu

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self.server.shutdown(), self.loop).result(LONGEST)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(LONGEST)


@contextmanager
def closing(*things: Any) -> Iterator[None]:
    """Close them in the end."""
    try:
        yield
    finally:
        for thing in things:
            thing.close()
