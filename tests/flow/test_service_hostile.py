"""Slow, broken and hostile clients of the service: they get no verdict OK, and the others are served all the same."""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import sys
import threading
import time
import zlib
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

import pytest

for needed in ("onnx", "onnxruntime", "starlette", "uvicorn", "httptools", "prometheus_client", "python_multipart"):
    pytest.importorskip(needed, reason=f"the service needs {needed}: pip install -r requirements-serve.txt")

sys.path.insert(0, str(Path(__file__).parent))
from serving import Service  # noqa: E402

from benchmarks.serving.brightness import SIZE, picture, write_onnx  # noqa: E402
from inspection.embedded import embed  # noqa: E402
from inspection.identity import identify  # noqa: E402
from inspection.plan import ClassRule, Plan  # noqa: E402

TOKEN = "correct-horse-battery"
AUTHORISED = {"Authorization": f"Bearer {TOKEN}"}


def weights(folder: Path, work: int = 0) -> Path:
    path = write_onnx(folder / "best.onnx", work)
    embed(path, Plan(("bright", "dark"), (ClassRule(0.6), ClassRule(0.5)), model=identify(path, imgsz=SIZE)))
    return path


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("hostile")
    (folder / "token").write_text(f"{TOKEN}\n")
    running = Service("--weights", weights(folder), "--token-file", folder / "token", "--max-pixels", 1_000_000, "--max-bytes", 500_000,
                      "--connections", 20, "--client-timeout", 1)  # fmt: skip
    yield running
    assert running.stop() == 0 and "Traceback" not in "".join(running.err)


def served(service: Service) -> bool:
    """Whether a usual client gets its verdict, in a time that a person would not notice on a busy machine."""
    began = time.monotonic()
    verdict = service.inspect(picture(10), **AUTHORISED)["Verdict"]
    return verdict == "OK" and time.monotonic() - began < 5


def raw(service: Service, data: bytes) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", service.port), timeout=20)
    connection.sendall(data)
    return connection


def png(width: int, height: int) -> bytes:
    """A PNG that says it has so many pixels, and holds a few bytes that unpack to many."""
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    packed = zlib.compress(bytes(5_000_000), 9)
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


@pytest.mark.parametrize("word", ["", "Bearer wrong", f"Basic {TOKEN}", f"Bearer {TOKEN}x"])
def test_without_the_token(service, word):
    header = {"Authorization": word} if word else {}
    for method, path in (("POST", "/inspect"), ("GET", "/recent"), ("GET", "/metrics"), ("GET", "/v2"), ("POST", "/v2/models/best/infer")):
        status, content, headers = service.ask(method, path, b"x" if method == "POST" else None, header)
        assert status == 401 and content["Verdict"] == "UNDEFINED" and headers["www-authenticate"] == "Bearer"
    assert [service.ask("GET", path)[0] for path in ("/", "/source", "/v2/health/live", "/v2/health/ready")] == [200] * 4


def test_a_page_of_another_site(service):
    for origin, status in (("http://evil.example", 403), ("null", 403), (f"http://127.0.0.1:{service.port}", 200)):
        assert service.ask("POST", "/inspect", picture(10), AUTHORISED | {"Origin": origin})[0] == status


TRICKS = ("/../../etc/passwd", "/page.js/../../serve.py", "//etc/passwd", "/%2e%2e/serve.py", "/..%2f..%2fetc%2fpasswd", "/source/x")


@pytest.mark.parametrize("path", TRICKS)
def test_path_tricks(service, path):
    with raw(service, f"GET {path} HTTP/1.1\r\nHost: x\r\n{'Authorization: Bearer ' + TOKEN}\r\nConnection: close\r\n\r\n".encode()) as connection:
        answer = connection.makefile("rb").read()
    assert answer.startswith(b"HTTP/1.1 404") and b"root:" not in answer and b"import" not in answer


def test_pictures_that_are_attacks(service):
    for data in (png(60_000, 60_000), png(2000, 2000), b"GIF89a" + b"\xff" * 50, b"\xff\xd8\xff" + bytes(1000), b"%PDF-1.4", bytes(400_000)):
        told = service.inspect(data, **AUTHORISED)
        assert told["Verdict"] == "UNDEFINED" and told["Rule"] and not told["Boxes"]
    assert "at most 1,000,000" in service.inspect(png(60_000, 60_000), **AUTHORISED)["Rule"] and served(service)


def test_bodies_that_are_too_large(service):
    status, content, _ = service.ask("POST", "/inspect", bytes(600_000), AUTHORISED)
    assert status == 413 and content["ResultEvaluation"] == 0
    head = f"POST /inspect HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n".encode()
    with raw(service, head + b"Content-Length: 2147483648\r\n\r\n") as connection:
        assert connection.recv(100).startswith(b"HTTP/1.1 413")  # before a byte of it is sent
    with raw(service, head + b"Transfer-Encoding: chunked\r\n\r\n") as connection:
        try:
            for _ in range(20):
                connection.sendall(b"10000\r\n" + bytes(0x10000) + b"\r\n")
        except OSError:
            pass  # it does not listen any more
        assert connection.recv(100).startswith(b"HTTP/1.1 413") and served(service)


def test_requests_that_are_none(service):
    for data in (b"\0\1\2\3" * 50, b"GET / HTTX/1.1\r\n\r\n", b"POST /inspect HTTP/1.1\r\nContent-Length: -5\r\n\r\n", b"G" * 100_000):
        with raw(service, data) as connection, suppress(ConnectionResetError):
            assert connection.recv(100)[:12] in (b"HTTP/1.1 400", b"")
    assert served(service)


def test_requests_without_an_end(service):
    """A head, or what follows the last chunk of a body, is not read for ever."""
    head = f"POST /inspect HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n".encode()
    chunked = head + b"Transfer-Encoding: chunked\r\n\r\n"
    for data, answers in ((head + b"X: " + b"x" * 70_000, b"expected at most 65,536 bytes"), (chunked + b"0\r\n" + b"X: x\r\n" * 20_000, b"")):
        with raw(service, data) as connection, suppress(ConnectionResetError):
            assert answers in connection.makefile("rb").read()
    image = picture(10, 60, 80, ".bmp")
    parts = b"".join(b"1\r\n%c\r\n" % byte for byte in image)  # five times as many bytes as the body has
    assert len(parts) > 70_000
    with raw(service, chunked + parts + b"0\r\n\r\n" + chunked + b"4\r\nGIF8\r\n0\r\n\r\n") as connection:  # two at once
        answers = connection.makefile("rb")
        assert [json.loads(read(answers))["Verdict"] for _ in range(2)] == ["OK", "UNDEFINED"]
    assert served(service)


def read(answers: BinaryIO) -> bytes:
    """The body of the next answer of a connection."""
    head = iter(answers.readline, b"\r\n")
    return answers.read(next(int(line.split()[1]) for line in list(head) if line.lower().startswith(b"content-length:")))


def test_half_a_body_and_many_connections_that_say_nothing(service):
    head = f"POST /inspect HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: 1000\r\n\r\n".encode()
    slow = [raw(service, head + b"x" * 500) for _ in range(5)]
    for _ in range(3):
        slow[0].sendall(b"x")
        assert served(service)
    idle = [socket.create_connection(("127.0.0.1", service.port)) for _ in range(100)]  # five times as many as it keeps
    assert served(service)
    assert all(one.recv(100).startswith(b"HTTP/1.1 408") for one in slow), "it waited for ever"
    for one in (*slow, *idle):
        one.close()
    broken = raw(service, head + b"x" * 500)
    broken.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    broken.close()  # with a reset
    assert served(service)


@pytest.fixture(scope="module")
def slow_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return weights(tmp_path_factory.mktemp("slow"), work=3)


def ask_at_once(service: Service, number: int, prefix: str = "") -> list[tuple[int, float, dict, str]]:
    """Status, seconds, content and Retry-After of answers to images sent at the same time; those without one are left out."""
    told: list[tuple[int, float, dict, str]] = []

    def ask(one: int) -> None:
        began = time.monotonic()
        try:
            status, content, headers = service.ask("POST", f"/inspect?MeasId={prefix}{one}", picture(10))
        except (OSError, ValueError, EOFError):
            return
        except Exception as error:  # http.client has errors of its own for answers that break off
            assert type(error).__module__ == "http.client", error
            return
        told.append((status, time.monotonic() - began, content, headers.get("retry-after", "")))

    threads = [threading.Thread(target=ask, args=(one,)) for one in range(number)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return told


def test_a_full_queue_says_so_at_once(slow_weights):
    service = Service("--weights", slow_weights, "--queue", 2, "--timeout", 120)  # of a machine that others use too
    told = ask_at_once(service, 12)
    refused, decided = ([one for one in told if (one[0] == 503) == full] for full in (True, False))
    assert len(decided) >= 2 and len(refused) >= 4 and len(told) == 12
    assert all(one[0] == 200 and one[2]["Verdict"] == "OK" for one in decided)
    assert all(one[3] == "1" and one[2]["Verdict"] == "UNDEFINED" and "full" in one[2]["error"] for one in refused)
    assert min(one[1] for one in refused) < min(one[1] for one in decided)
    assert f'tandem_refused_total{{reason="503"}} {len(refused)}.0' in service.ask("GET", "/metrics")[1].decode()
    assert service.stop() == 0


def kill_and_look(slow_weights: Path, folder: Path, delay: float, prefix: str) -> int:
    """Kill the service seconds after it accepted an image, start it again; each has one outcome. Returns how many were lost."""
    service = Service("--weights", slow_weights, "--journal", folder)

    def kill() -> None:
        end = time.monotonic() + 60
        while f'"{prefix}' not in (folder / "journal.jsonl").read_text() and time.monotonic() < end:
            time.sleep(0.01)
        time.sleep(delay)
        os.kill(service.process.pid, signal.SIGKILL)

    threading.Thread(target=kill).start()
    answered = {content["MeasId"]: content["Verdict"] for status, _, content, _ in ask_at_once(service, 8, prefix) if status == 200}
    service.stop(signal.SIGKILL)
    again = Service("--weights", slow_weights, "--journal", folder)
    recent = [entry for entry in again.ask("GET", "/recent")[1] if entry["MeasId"].startswith(prefix)]
    assert again.stop() == 0
    entries = [json.loads(line) for line in (folder / "journal.jsonl").read_text().splitlines()]
    accepted = {entry["MeasId"] for entry in entries if "Verdict" not in entry and entry["MeasId"].startswith(prefix)}
    settled = [entry for entry in entries if "Verdict" in entry and entry["MeasId"].startswith(prefix)]
    assert {entry["MeasId"] for entry in settled} == accepted and len(settled) == len(accepted)
    outcomes = {entry["MeasId"]: entry["Verdict"] for entry in settled}
    assert all(outcomes[name] == verdict for name, verdict in answered.items()), "an answered verdict is another one in the journal"
    assert {entry["MeasId"] for entry in recent} == accepted
    lost = [entry for entry in settled if "ended before" in entry["Rule"]]
    assert all(entry["Verdict"] == "UNDEFINED" for entry in lost)
    return len(lost)


def test_killed_at_work_nothing_accepted_is_without_an_outcome(slow_weights, tmp_path):
    assert kill_and_look(slow_weights, tmp_path, 0.4, "a") > 0


@pytest.mark.slow
def test_killed_at_twenty_moments(slow_weights, tmp_path):
    lost = [kill_and_look(slow_weights, tmp_path, 0.05 + 0.1 * number, f"k{number}-") for number in range(20)]
    assert sum(lost) > 0


@pytest.mark.slow
def test_ten_thousand_connections(tmp_path):
    service = Service("--weights", weights(tmp_path), "--connections", 500)
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    number = min(10_000, hard - 500)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, number + 500), hard))
    idle = []
    try:
        slowest = 0.0
        for one in range(number):
            connection = socket.socket()
            connection.setblocking(False)
            connection.connect_ex(("127.0.0.1", service.port))
            idle.append(connection)
            if one % 500 == 499:
                began = time.monotonic()
                assert service.inspect(picture(10))["Verdict"] == "OK"
                slowest = max(slowest, time.monotonic() - began)
        memory = next(line for line in Path(f"/proc/{service.process.pid}/status").read_text().splitlines() if line.startswith("VmRSS"))
        print(f"{number} connections: slowest verdict {slowest:.2f} s, {memory}")
        assert slowest < 5
    finally:
        for connection in idle:
            connection.close()
    assert service.stop() == 0
