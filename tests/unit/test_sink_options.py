"""Addresses of sinks on the command line: what they mean, and one line for each that means nothing."""

from __future__ import annotations

import argparse
from dataclasses import FrozenInstanceError

import pytest

from cfg.errors import UserError
from inspection.rules import Code
from service.events import Box, Inspected
from service.sinks.options import (
    MQTT_PASSWORD,
    WEBHOOK_TOKEN,
    MqttOptions,
    SinkOptions,
    add_arguments,
    read_modbus,
    read_mqtt,
    read_options,
    read_webhook,
)
from service.sinks.registers import COUNT, values


def test_brokers(monkeypatch: pytest.MonkeyPatch, tmp_path) -> None:
    monkeypatch.delenv(MQTT_PASSWORD, raising=False)
    assert read_mqtt("mqtt://h/a/b") == MqttOptions("h", 1883, "a/b")
    (tmp_path / "ca.pem").touch()
    read = read_mqtt(f"mqtts://u%40x:p%2Fw@[::1]:99/l%20ine?qos=2&version=3&ca={tmp_path}/ca.pem")
    assert read == MqttOptions("::1", 99, "l ine", "u@x", "p/w", 2, 3, True, f"{tmp_path}/ca.pem")
    assert read_mqtt("mqtts://h/t").port == 8883 and read.shown == "mqtts://[::1]:99/l ine"
    monkeypatch.setenv(MQTT_PASSWORD, "hidden")
    assert read_mqtt("mqtt://u@h/t").password == "hidden" and read_mqtt("mqtt://u:own@h/t").password == "own"
    assert "hidden" not in repr(read_mqtt("mqtt://u@h/t")) and "p/w" not in repr(read)


def test_plcs() -> None:
    read = read_modbus("10.0.0.7:502/3?register=100")
    assert read.unit == 3 and read.register == 100 and read.port == 502
    assert read_modbus("plc").shown == "modbus://plc:502/1?register=0"
    assert read_modbus(f"plc?register={65536 - COUNT}").register == 65536 - COUNT
    with pytest.raises(FrozenInstanceError):
        read.unit = 4


def test_webhooks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(WEBHOOK_TOKEN, "t0ken")
    read = read_webhook("https://u:pw@h:8443/in?key=abc")
    assert read.shown == "https://h:8443/in" and read.token == "t0ken" and read.identity == "https://h:8443/in?key=abc"
    assert not any(secret in repr(read) for secret in ("pw", "t0ken", "abc"))


@pytest.mark.parametrize(
    ("read", "text", "expected"),
    [
        (read_mqtt, "mqt://h/t", "did you mean 'mqtt'"),
        (read_mqtt, "h:1883/t", "expected mqtt[s]://"),
        (read_mqtt, "mqtt://h", "without a topic"),
        (read_mqtt, "mqtt://h/", "without a topic"),
        (read_mqtt, "mqtt:///t", "no host"),
        (read_mqtt, "mqtt://h:0/t", "outside 1 to 65535"),
        (read_mqtt, "mqtt://h:65536/t", "outside 1 to 65535"),
        (read_mqtt, "mqtt://u:secr/et@h/t", "%2F"),
        (read_mqtt, "mqtt://h/a/#", "+ or #"),
        (read_mqtt, "mqtt://h/a/+/b", "+ or #"),
        (read_mqtt, "mqtt://h/t?qos=3", "qos=3; it is 0 to 2"),
        (read_mqtt, "mqtt://h/t?version=4", "it is 3 or 5"),
        (read_mqtt, "mqtt://h/t?qso=1", "did you mean 'qos'"),
        (read_mqtt, "mqtts://h/t?ca=none.pem", "a file that is there"),
        (read_mqtt, "mqtt://[::1/t", "no address"),
        (read_modbus, "h:70000", "outside 1 to 65535"),
        (read_modbus, "h:502/256", "unit=256; it is 0 to 255"),
        (read_modbus, "h:502/one", "unit=one"),
        (read_modbus, "h?register=-1", "register=-1; it is 0 to 65535"),
        (read_modbus, "h?register=65536", "it is 0 to 65535"),
        (read_modbus, "h?register=65530", "the last one is 65535"),
        (read_modbus, "tcp://h", "expected host"),
        (read_modbus, ":502", "no host"),
        (read_webhook, "ftp://h/x", "expected http"),
        (read_webhook, "https://u:secret@h:x/y", "outside 1 to 65535"),
        (read_webhook, "h/x", "expected http"),
        (read_webhook, "http://a b/c", "the host 'a b', which has a blank in it"),
    ],
)
def test_wrong_addresses_are_one_line_without_passwords(read, text: str, expected: str) -> None:
    with pytest.raises(UserError) as raised:
        read(text)
    message = str(raised.value)
    assert expected in message and "\n" not in message and "secr" not in message and message.startswith("--")


def test_the_command_line() -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    assert read_options(parser.parse_args([])) == SinkOptions()
    both = ["--mqtt", "mqtt://h/a", "--mqtt", "mqtt://h/b", "--modbus", "h", "--webhook", "http://h", "--backlog", "3"]
    read = read_options(parser.parse_args(both))
    assert [mqtt.topic for mqtt in read.mqtt] == ["a", "b"] and read.backlog_bytes == 3 << 20
    for wrong in (["--backlog", "0"], ["--mqtt", "mqtt://h/a", "--mqtt", "mqtt://h:1883/a"]):
        with pytest.raises(UserError):
            read_options(parser.parse_args(wrong))


def test_registers_are_as_documented() -> None:
    event = Inspected("id-1", "", "http", "Pé7", "", "", Code.NG, "", 0.98765, (Box(0, 0, 1, 1, 1, 0, "x"),) * 3, 1, 1, 70_000.0)
    numbers = values(event, 65536 + 5, 65535 + 2, 0.25)
    assert len(numbers) == COUNT == 25 and all(0 <= number <= 65535 for number in numbers)
    assert numbers[:7] == [5, 2, 2, 3, 9876, 65535, 250]  # 9876.5 is rounded to even
    assert numbers[7] << 16 | numbers[8] == 0x59405EBC  # CRC-32 of "id-1", as gzip writes it
    assert numbers[9:12] == [ord("P") << 8 | ord("?"), ord("7") << 8, 0]
    assert values(None, 1, 0, 9.0) == [1] + [0] * 24, "no result yet: UNDEFINED, and the counter is 0"
