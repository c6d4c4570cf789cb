"""Sinks against real servers: killed in the middle, not there at the start, refusing; nothing is lost or out of order."""

from __future__ import annotations

import json
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(Path(__file__).parent))
from line_servers import MOSQUITTO, Broker, Plc, Relay, Subscriber, WebServer, closing, event, free_port, until  # noqa: E402

from cfg.errors import UserError  # noqa: E402
from inspection.rules import Code  # noqa: E402
from service.backoff import Backoff  # noqa: E402
from service.sinks import SinkOptions, delivery, open_sinks  # noqa: E402
from service.sinks.options import read_modbus, read_mqtt, read_webhook  # noqa: E402

COUNT = 300


def ids(numbers: range) -> list[str]:
    return [f"m{number}" for number in numbers]


def once(names: list[str]) -> list[str]:
    """The names without those that had come before: delivered twice, a result is known by its MeasId."""
    return list(dict.fromkeys(names))


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "Backoff", partial(Backoff, 0.02, 0.1))


@pytest.fixture
def paho() -> None:
    pytest.importorskip("paho.mqtt", reason="needs paho-mqtt, requirements-sinks.txt")
    if not MOSQUITTO:
        pytest.skip("needs mosquitto")


@pytest.fixture
def pymodbus() -> None:
    pytest.importorskip("pymodbus", reason="needs pymodbus, requirements-sinks.txt")
    import service.sinks.modbus as module

    module.Backoff = partial(Backoff, 0.02)


def mqtt(folder: Path, port: int, topic: str = "line/results", **more: int):
    return open_sinks(SinkOptions(mqtt=(read_mqtt(f"mqtt://127.0.0.1:{port}/{topic}"),), **more), folder)[0]


def webhook(folder: Path, url: str):
    return open_sinks(SinkOptions(webhook=(read_webhook(url),)), folder)[0]


@pytest.mark.parametrize("query", ["", "?version=3", "?qos=0", "?qos=2"])
def test_a_broker_gets_each_result_as_json_and_knows_whether_we_are_there(paho, tmp_path: Path, query: str) -> None:
    with Broker(tmp_path) as broker:
        subscriber = Subscriber(broker.port)
        sink = mqtt(tmp_path / "b", broker.port, f"line/results{query}")
        for number in range(50):
            sink.publish(event(number))
        until(lambda: len(subscriber.ids) == 50)
        until(lambda: sink.state().delivered == 50)
        assert sink.healthy()
        sink.close(5)
        until(lambda: subscriber.messages[-1] == ("line/results/status", b"offline"))
        assert subscriber.messages[0] == ("line/results/status", b"online") and subscriber.ids == ids(range(50))
        assert json.loads(subscriber.messages[2][1]) == event(1).as_json()
        subscriber.close()


def test_a_broker_that_is_killed_and_comes_back_loses_nothing(paho, tmp_path: Path, caplog) -> None:
    with Broker(tmp_path) as broker:
        relay, first = Relay(broker.port), Subscriber(broker.port)
        sink = mqtt(tmp_path / "b", relay.port)
        for number in range(COUNT):
            sink.publish(event(number))
            if number == COUNT // 3:
                until(lambda: len(first.ids) > 5)
                relay.open = False
                broker.kill()
        until(lambda: not sink.healthy())
        until(lambda: not first.client.is_connected())
        broker.start()
        second = Subscriber(broker.port)
        relay.open = True
        until(lambda: len(once(first.ids + second.ids)) == COUNT)
        until(lambda: sink.healthy() and not sink.state().waiting)
        assert first.ids == ids(range(len(first.ids))) and second.ids == ids(range(COUNT - len(second.ids), COUNT))
        assert 5 < len(first.ids) < COUNT and sink.state().delivered == COUNT
        assert sum("reached again" in text for text in caplog.messages) == 1
        sink.close(5)
        first.close(), second.close()


def test_kill_9_with_a_backlog_and_all_is_delivered_after_the_next_start(paho, tmp_path: Path) -> None:
    port = free_port()
    code = f"""
import sys; sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / "tests/flow")!r}]
from pathlib import Path; from line_servers import event
from service.sinks import SinkOptions, open_sinks; from service.sinks.options import read_mqtt
sink = open_sinks(SinkOptions(mqtt=(read_mqtt("mqtt://127.0.0.1:{port}/line/results"),)), Path({str(tmp_path / "b")!r}))[0]
for number in range({COUNT}): sink.publish(event(number))
print(sink.healthy(), flush=True); sys.stdin.read()"""
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "False\n"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    with Broker(tmp_path, port=port):
        subscriber = Subscriber(port)
        sink = mqtt(tmp_path / "b", port)
        sink.publish(event(COUNT))
        until(lambda: len(subscriber.ids) > COUNT)
        assert subscriber.ids == ids(range(COUNT + 1))
        sink.close(5)
        subscriber.close()


def test_a_broker_that_is_not_there_at_the_start_is_a_warning(paho, tmp_path: Path, caplog) -> None:
    port = free_port()
    sink = mqtt(tmp_path, port)
    until(lambda: bool(caplog.messages))
    assert not sink.healthy() and "no connection (connection refused)" in sink.state().reason
    sink.publish(event(0))
    began = time.monotonic()
    sink.close(5)
    assert time.monotonic() - began < 2 and "1 results wait on disk for the next start" in caplog.messages[-1]
    again = mqtt(tmp_path, port)
    assert again.state().waiting == 1 and "1 results of an earlier run wait" in caplog.text
    again.close(0)


def test_a_broker_that_refuses_says_so_and_the_password_is_not_shown(paho, tmp_path: Path, caplog) -> None:
    rights = tmp_path / "rights"
    rights.write_text("topic read line/#\ntopic write line/results/status\n")
    with Broker(tmp_path, f"acl_file {rights}") as broker:
        sink = mqtt(tmp_path / "b", broker.port)
        sink.publish(event(0))
        until(lambda: "refuses results on this topic (not authorized)" in sink.state().reason)
        assert not sink.healthy() and sink.state().waiting == 1
        sink.close(1)
    with Broker(tmp_path, anonymous=False) as broker:
        options = read_mqtt(f"mqtt://user:hidden@127.0.0.1:{broker.port}/line/results")
        sink = open_sinks(SinkOptions(mqtt=(options,)), tmp_path / "c")[0]
        until(lambda: "the broker refuses the connection (not authorized)" in sink.state().reason)
        sink.close(1)
    assert "hidden" not in caplog.text and "user" not in caplog.text


@pytest.mark.parametrize(
    ("answer", "expected"),
    [(b"\x20\x02\x00\x01", "with ?version=3"), (b"\x20\x03\x00\x84\x00", "with ?version=3"), (b"", "connection lost")],
    ids=["as MQTT 3 says it", "as MQTT 5 says it", "without a word"],
)
def test_a_broker_of_another_version(paho, tmp_path: Path, answer: bytes, expected: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        def refuse() -> None:
            with suppress(OSError):
                while True:
                    with server.accept()[0] as connection:
                        connection.recv(1000)
                        connection.sendall(answer)

        threading.Thread(target=refuse, daemon=True).start()
        sink = mqtt(tmp_path, server.getsockname()[1])
        until(lambda: expected in sink.state().reason)
        sink.close(1)


def test_a_broker_with_tls_is_trusted_by_its_authority_only(paho, tmp_path: Path) -> None:
    if not shutil.which("openssl"):
        pytest.skip("needs openssl")
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    files = ["-keyout", tmp_path / "key.pem", "-out", tmp_path / "ca.pem"]
    make = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2", *names, *files]
    subprocess.run(make, check=True, capture_output=True)
    with Broker(tmp_path, f"certfile {tmp_path / 'ca.pem'}", f"keyfile {tmp_path / 'key.pem'}") as broker:
        address = f"mqtts://localhost:{broker.port}/line/results"
        trusting, wary = (
            open_sinks(SinkOptions(mqtt=(read_mqtt(f"{address}{query}"),)), tmp_path / name)[0]
            for name, query in (("a", f"?ca={tmp_path / 'ca.pem'}"), ("b", ""))
        )
        trusting.publish(event(0))
        until(lambda: trusting.state().delivered == 1)
        until(lambda: "certificate is not trusted" in wary.state().reason)
        trusting.close(2), wary.close(0)


def test_a_backlog_over_its_bound_while_the_broker_is_away(paho, tmp_path: Path, caplog) -> None:
    with Broker(tmp_path) as broker:
        relay = Relay(broker.port)
        relay.open = False
        sink = mqtt(tmp_path / "b", relay.port, backlog_bytes=2**16)
        for number in range(1000):
            sink.publish(event(number))
        dropped = sink.state().dropped
        assert dropped > 100 and "results were dropped, the oldest first" in caplog.text
        subscriber = Subscriber(broker.port)
        relay.open = True
        until(lambda: not sink.state().waiting)
        until(lambda: len(subscriber.ids) == 1000 - dropped)
        assert subscriber.ids == ids(range(dropped, 1000))
        sink.close(5)
        subscriber.close()


def test_a_web_server_that_fails_gets_each_result_once_it_works(tmp_path: Path) -> None:
    server = WebServer(503, 0, 500, 429, 200, 502)
    with closing(server):
        sink = webhook(tmp_path, server.url)
        until(sink.healthy)
        for number in range(20):
            sink.publish(event(number))
        until(lambda: len(server.bodies) == 20)
        sink.close(5)
    assert server.ids == ids(range(20)) and server.bodies[7] == event(7).as_json()
    assert server.headers[7]["MeasId"] == server.headers[7]["Idempotency-Key"] == "m7" and len(server.moments) == 25


def test_a_web_server_that_asks_to_wait_is_left_alone(tmp_path: Path) -> None:
    server = WebServer(503, header={"Retry-After": "1"})
    with closing(server):
        sink = webhook(tmp_path, server.url)
        sink.publish(event(0))
        until(lambda: len(server.bodies) == 1)
        sink.close(5)
    assert server.moments[1] - server.moments[0] >= 1.0


@pytest.mark.parametrize("status", [400, 401, 404, 413, 301])
def test_a_result_that_is_refused_is_set_aside_with_a_word(tmp_path: Path, caplog, status: int) -> None:
    server = WebServer(200, status)
    with closing(server):
        sink = webhook(tmp_path, server.url)
        for number in range(2):
            sink.publish(event(number))
        until(lambda: sink.state().refused == 1)
        assert not sink.healthy() and str(status) in sink.state().reason
        assert str(status) in caplog.text and "refused.jsonl" in caplog.text
        sink.publish(event(2))
        until(sink.healthy)
        sink.close(5)
    assert server.ids == ["m0", "m2"]
    assert [json.loads(line) for line in next(tmp_path.glob("*/refused.jsonl")).open()] == [event(1).as_json()]


def test_a_web_server_that_stops_and_starts_loses_nothing(tmp_path: Path) -> None:
    server = WebServer()
    relay = Relay(server.port)
    sink = webhook(tmp_path, f"http://127.0.0.1:{relay.port}/in")
    with closing(server):
        for number in range(30):
            sink.publish(event(number))
        until(lambda: len(server.bodies) > 3)
        relay.open = False
        relay.shut()
        for number in range(30, 60):
            sink.publish(event(number))
        until(lambda: not sink.healthy())
        relay.open = True
        until(lambda: len(once(server.ids)) == 60)
        assert once(server.ids) == ids(range(60)) and len(server.ids) <= 61
        sink.close(5)


def test_a_plc_has_the_latest_result_and_a_heartbeat(pymodbus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.sinks.modbus.HEARTBEAT", 0.05)
    plc = Plc()
    with closing(plc):
        sink = open_sinks(SinkOptions(modbus=(read_modbus(f"127.0.0.1:{plc.port}/1?register=40"),)), Path("unused"))[0]
        until(lambda: plc.registers[40] > 3)
        assert plc.registers[41:43] == [0, 0] and sink.healthy(), "UNDEFINED, and no result yet"
        sink.publish(event(5, Code.OK, "PART-7"))
        until(lambda: plc.registers[42] == 1)
        assert plc.registers[41] == Code.OK and plc.registers[43:46] == [2, 9000, 12] and plc.registers[49] == 0x5041
        heartbeat = plc.registers[40]
        until(lambda: plc.registers[40] > heartbeat + 2)
        assert {len(numbers) for _, numbers in plc.written} == {1, 25} and plc.registers[:40] + plc.registers[65:] == [0] * 75
        sink.publish(event(6, Code.NG))
        sink.close(5)
        assert plc.registers[41:44] == [Code.NG, 2, 0], "written before the end"


def test_a_plc_that_was_away_learns_the_latest_result_and_how_many_it_missed(pymodbus, caplog) -> None:
    plc = Plc()
    sink = open_sinks(SinkOptions(modbus=(read_modbus(f"127.0.0.1:{plc.port}"),)), Path("unused"))[0]
    sink.publish(event(0, Code.OK))
    until(lambda: plc.registers[2] == 1)
    plc.close()
    for number in range(1, 6):
        sink.publish(event(number, Code.NG))
    until(lambda: not sink.healthy())
    time.sleep(0.2)
    again = Plc(plc.port)
    with closing(again):
        until(lambda: again.registers[2] == 6)
        assert again.registers[1] == Code.NG and again.registers[6] >= 200, "it is that old"
        until(sink.healthy)
        assert sink.state().dropped >= 3 and "replaced by later ones" in caplog.text
        sink.close(5)


def test_a_plc_that_refuses_says_which_registers(pymodbus) -> None:
    plc = Plc(registers=20)
    with closing(plc):
        sink = open_sinks(SinkOptions(modbus=(read_modbus(f"127.0.0.1:{plc.port}"),)), Path("unused"))[0]
        until(lambda: "refuses registers 0 to 24 of unit 1 (illegal data address)" in sink.state().reason)
        assert not sink.healthy()
        sink.close(1)


def test_a_start_with_a_full_disk_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog) -> None:
    """The backlog's folder is there from an earlier start; now nothing can be written into it."""
    url = f"http://127.0.0.1:{free_port()}/"
    webhook(tmp_path, url).close(0)
    (address,) = tmp_path.glob("*/address")
    address.unlink()

    def refuse(*args: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("service.sinks.segments.os.write", refuse)
    monkeypatch.setattr("cfg.whole_files.write_through", refuse)
    sink = webhook(tmp_path, url)
    sink.publish(event(0))
    sink.close(0)
    assert not address.exists() and "1 results are lost: the disk refuses them (no space left on device)" in caplog.text


def test_a_package_that_is_missing_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "paho", None)
    monkeypatch.delitem(sys.modules, "service.sinks.mqtt", raising=False)
    monkeypatch.setitem(sys.modules, "pymodbus.client", None)
    monkeypatch.delitem(sys.modules, "service.sinks.modbus", raising=False)
    for options in (SinkOptions(mqtt=(read_mqtt("mqtt://h/t"),)), SinkOptions(modbus=(read_modbus("h"),))):
        with pytest.raises(UserError, match="pip install -r requirements-sinks.txt"):
            open_sinks(options, tmp_path)
