"""The service's process: everything is put together here, started, and ended in order."""

from __future__ import annotations

import asyncio
import ctypes
import ipaddress
import logging
import os
import resource
import signal
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import uvicorn

from cfg import UserError
from inspection.belonging import Settings
from service.app import make_app
from service.cameras import FolderOptions, StreamOptions, open_cameras
from service.connections import Connections
from service.exported import read_exported
from service.inspector import NO_PLAN, Inspector, Limits, find_plan
from service.intake import Intake
from service.journal import Journal
from service.line import Line
from service.metrics import Metrics
from service.network import open_network
from service.pool import Pool
from service.sinks import SinkOptions, open_sinks

WORKERS = 2  # one decodes while the network looks at the other's image
DRAIN = 10.0  # seconds for what was accepted, at the end
SPARE_FILES = 256  # open files beside connections
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_ARENA_MAX = -1, -3, -8  # of glibc's malloc.h


@dataclass
class ServeOptions:
    """What serve.py was asked for; the fields are its arguments."""

    weights: Path
    decision: str | None = None
    no_decision: bool = False
    host: str = "127.0.0.1"
    port: int = 8080
    token: str | None = None
    token_file: str | None = None
    journal: str | None = None
    queue: int = 32
    threads: int = 1
    timeout: float = 10.0
    max_bytes: int = 64 * 2**20
    max_pixels: int = 100_000_000
    memory: int = 512 * 2**20
    connections: int = 1000
    client_timeout: float = 30.0
    imgsz: list[int] | None = None
    conf: float | None = None
    iou: float | None = None
    max_det: int = 300
    agnostic_nms: bool = False
    tile: int | None = None
    overlap: float | None = None
    sinks: SinkOptions = field(default_factory=SinkOptions)
    cameras: Sequence[FolderOptions | StreamOptions] = ()


def serve(options: ServeOptions) -> None:
    """Serve until the process is told to end, by SIGTERM or Ctrl-C.

    Raises:
        UserError: an argument, the model, its plan or the address cannot be used.
        KeyboardInterrupt: after Ctrl-C, when what was accepted has been decided and delivered.
    """
    token = read_token(options)
    listener = bind(options.host, options.port, token)
    with listener:
        keep_memory()
        cv2.setNumThreads(1)
        line = make_line(options)
        signal.signal(signal.SIGTERM, lambda *_: None)  # what uvicorn raises again at the end: an ordinary end
        try:
            if options.cameras:
                assert options.journal and line.journal, "cameras need a journal, which serve.py sees to"
                line.start(open_cameras(options.cameras, Path(options.journal) / "seen", line.journal.accepted))
            intake = Intake(options.max_bytes, options.memory, options.client_timeout)
            connections = Connections(enough_files(options.connections), min(10.0, options.client_timeout))
            _Server(line, intake, token, connections, listener, description(options, line)).run(sockets=[listener])
        finally:
            line.close(DRAIN)


def make_line(options: ServeOptions) -> Line:
    """The line that the options ask for. Raises `UserError`."""
    network = open_network(read_exported(options.weights), options.threads)
    exported = network.exported
    plan = None if options.no_decision else find_plan(exported.path, options.decision, exported.names)
    if plan is None:
        print(f"{exported.path}: {NO_PLAN}; every verdict is UNDEFINED (choose thresholds: val.py --decide)", file=sys.stderr)
    settings = Settings(options.imgsz, options.iou, None, options.tile, options.overlap)
    limits = Limits(settings, options.conf, options.max_det, options.agnostic_nms, options.max_pixels)
    inspector = Inspector(network, plan, limits)
    journal = Journal(Path(options.journal)) if options.journal else None
    sinks = open_sinks(options.sinks, journal.path.parent / "waiting") if journal else []
    return Line(inspector, Pool(options.queue, WORKERS, options.timeout), Metrics(), journal, sinks)


def description(options: ServeOptions, line: Line) -> str:
    """What the service is, in one line."""
    exported, inspector = line.inspector.exported, line.inspector
    height, width = inspector.size
    plan = "by its decision plan" if inspector.plan else "without a plan"
    tiles = f", tiles of {inspector.tiling.side}" if inspector.tiling else ""
    runtime = f"{inspector.network.runtime}, {options.threads} thread{'s' if options.threads > 1 else ''}"
    return f"{exported.path.name}: {len(exported.names)} classes, {height} x {width}{tiles}, {plan}, {runtime}"


def read_token(options: ServeOptions) -> str | None:
    """The token that clients must know: of ``--token``, ``--token-file`` or the variable TANDEM_TOKEN. Raises `UserError`."""
    token, where = options.token or os.environ.get("TANDEM_TOKEN"), "--token"
    if options.token_file:
        where = f"--token-file {options.token_file}"
        try:
            token = Path(options.token_file).read_text(encoding="utf-8").strip()
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or error
            raise UserError(f"{where}: expected a text file with the token, got: {reason}; correct the path or the permissions") from None
    if token is not None and not (token.isascii() and token.isprintable() and " " not in token and len(token) >= 8):
        raise UserError(f"{where}: expected at least 8 ASCII characters without blanks; make one: openssl rand -hex 16")
    return token


def bind(host: str, port: int, token: str | None) -> socket.socket:
    """A listening socket. Raises `UserError` where the address cannot be had."""
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        # The protocol by name: only then asyncio sets TCP_NODELAY, without which an answer's body waits 40 ms for its head's receipt.
        listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"--host {host}: expected an address of this machine, got: {reason}; 127.0.0.1 is for programs here, "
                        "0.0.0.0 for all") from None  # fmt: skip
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind(address)
        listener.listen(2048)
    except OSError as error:
        listener.close()
        raise UserError(f"--host {host} --port {port}: cannot be used ({error.strerror}); give another --host or --port") from None
    if token is None and not ipaddress.ip_address(str(address[0]).partition("%")[0]).is_loopback:
        print(f"--host {host}: everyone on the network can ask the service and see verdicts; a token keeps others out: --token-file FILE",
              file=sys.stderr)  # fmt: skip
    return listener


def enough_files(connections: int) -> int:
    """How many connections there may be: as many as asked for, where the system lets the process have the files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = connections + SPARE_FILES
    if soft != resource.RLIM_INFINITY and soft < wanted:
        more = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (more, hard))
        except (OSError, ValueError):
            more = soft
        return max(1, more - SPARE_FILES)
    return connections


def keep_memory() -> None:
    """Let glibc keep the memory of one image for the next one, in one arena: new pages for each cost 1 to 2 ms of each image."""
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):  # another C library
        return
    for parameter, value in ((M_ARENA_MAX, 1), (M_MMAP_THRESHOLD, 32 * 2**20), (M_TRIM_THRESHOLD, 64 * 2**20)):
        mallopt(parameter, value)


class _Server(uvicorn.Server):
    """uvicorn on our connections; it tells systemd that it is there and alive."""

    def __init__(self, line: Line, intake: Intake, token: str | None, connections: Connections, listener: socket.socket, what: str) -> None:
        logging.getLogger("uvicorn.error").setLevel(logging.ERROR)  # requests that are none are no news
        host, port = listener.getsockname()[:2]
        self.line, self.limits = line, connections
        self.hello = f"{what}\nhttp://{f'[{host}]' if ':' in host else host}:{port}/  (POST /inspect, /v2, /metrics; Ctrl-C ends)"
        protocol: Any = connections.protocol  # makes a protocol; uvicorn wants a class, and only calls it
        super().__init__(uvicorn.Config(
            make_app(line, intake, token, host), http=protocol, ws="none", lifespan="off", loop="asyncio", log_config=None, access_log=False,
            proxy_headers=False, server_header=False, timeout_graceful_shutdown=int(DRAIN), callback_notify=self._alive, timeout_notify=2,
        ))  # fmt: skip

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and say so."""
        await super().startup(sockets)
        self.sweeping = asyncio.create_task(self.limits.sweep())
        print(self.hello, flush=True)
        notify("READY=1")

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """End when open requests are answered."""
        notify("STOPPING=1")
        self.sweeping.cancel()
        await super().shutdown(sockets)

    async def _alive(self) -> None:
        if self.line.pool.alive:
            notify("WATCHDOG=1")


def notify(message: str) -> None:
    """Tell systemd, where it started the process (sd_notify)."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as channel:
            channel.connect("\0" + address[1:] if address.startswith("@") else address)
            channel.send(message.encode())
    except OSError as error:
        print(f"systemd cannot be told {message}: {error.strerror}", file=sys.stderr)
